"""`/.tailproxy/`: who you are here, by which service, and what else there is.

A browser gets a page; every other client the same as JSON. The page has no script, loads nothing
and cannot be framed: its Content-Security-Policy allows one style sheet, which is part of it. What
others chose (names, groups, the Host header) is escaped by Twisted's templates.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from importlib import resources
from typing import TYPE_CHECKING, Any

from twisted.web.resource import Resource
from twisted.web.template import Element, XMLString, renderElement, renderer, tags

from tailproxy.proxy.whoami import answer_json, describe_caller
from tailproxy.wire.http1 import wants_html

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from twisted.web.server import Request
    from twisted.web.template import Tag

_FILES = resources.files("tailproxy.proxy")
_PAGE = _FILES.joinpath("page.html").read_text(encoding="utf-8")
_STYLE = _FILES.joinpath("page.css").read_text(encoding="utf-8")

_STYLE_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_MEANING = {
    "auth": "your requests run as this user and these groups; RBAC decides what they may do",
    "noauth": "your requests run with the credentials that you send; nobody is impersonated",
}


class IndexPage(Resource):
    """Answers GET and HEAD.

    :param mode: `auth` or `noauth`.
    :param version: tailproxy's.
    :param titles: of the other pages, by name; may be empty.
    """

    isLeaf = True

    def __init__(self, mode: str, version: str, titles: Mapping[str, str]) -> None:
        super().__init__()
        self._mode = mode
        self._version = version
        self._plugins = [
            {"name": name, "path": f"/.tailproxy/{name}", "title": title}
            for name, title in sorted(titles.items())
        ]

    def render_GET(self, request: Request) -> object:
        """Describe the caller and the service."""
        request.setHeader(b"vary", b"accept")
        found = {**describe_caller(request, self._mode, self._version), "plugins": self._plugins}
        if not wants_html(request.getHeader("accept") or ""):
            return answer_json(request, found)
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        host = request.getRequestHostname().decode("ascii", "replace")
        return renderElement(request, _Page(host, found))


class _Page(Element):
    """The page.

    :param found: what `describe_caller` says, and the plugins.
    """

    loader = XMLString(_PAGE)

    def __init__(self, host: str, found: Mapping[str, Any]) -> None:
        super().__init__()
        self._host = host
        self._found = found

    @renderer
    def whole(self, request: Request, tag: Tag) -> Tag:
        """Everything that stands once."""
        found = self._found
        node = found["node"]
        return tag.fillSlots(
            host=self._host,
            user=found["user"],
            node=node["name"] or node["id"],
            tags=", ".join(node["tags"]),
            address=found["address"],
            service=found["service"] or "",
            mode=found["mode"],
            meaning=_MEANING[found["mode"]],
            version=found["version"],
        )

    @renderer
    def style(self, request: Request, tag: Tag) -> Tag:
        """The style sheet, exactly as it was hashed."""
        return tag(_STYLE)

    @renderer
    def tagged(self, request: Request, tag: Tag) -> Tag | str:
        """Only for a tagged node."""
        return tag if self._found["node"]["tags"] else ""

    @renderer
    def reached(self, request: Request, tag: Tag) -> Tag | str:
        """Only for who came by a Tailscale Service."""
        return tag if self._found["service"] else ""

    @renderer
    def groups(self, request: Request, tag: Tag) -> Tag | str:
        """Only for who has groups."""
        return tag if self._found["groups"] else ""

    @renderer
    def group(self, request: Request, tag: Tag) -> Iterator[Tag]:
        """One group, and why."""
        for row in self._found["groupReasons"]:
            yield tag.clone().fillSlots(group=row["group"], reason=row["reason"])

    @renderer
    def advice(self, request: Request, tag: Tag) -> Tag | str:
        """What who has no groups can do."""
        if self._found["groups"]:
            return ""
        if self._found["mode"] != "auth":
            return tag("None; in this mode they would not count.")
        return tag(
            "No grant of the tailnet's policy gives you a group. What the cluster allows you, it "
            "allows the user ",
            tags.b(self._found["user"]),
            ". If that is nothing, ask the cluster's administrator to bind this user, or the "
            "tailnet's for a grant with a group.",
        )

    @renderer
    def page(self, request: Request, tag: Tag) -> Iterator[Tag]:
        """One of the other pages."""
        for row in self._found["plugins"]:
            yield tag.clone().fillSlots(**row)
