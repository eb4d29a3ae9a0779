"""The pages of recorded sessions, for browsers and, as JSON, for commands.

A browser gets HTML; every other client the same as JSON. The pages load nothing from elsewhere and
cannot be framed. Their Content-Security-Policy lets scripts of our own files run, and the player's
terminal be compiled: it is WebAssembly.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.web.http import CACHED
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.template import renderElement

from tailproxy.errors import ApiError
from tailproxy.policy.grants import SessionRight
from tailproxy.recordings import RecordingPage, RecordingState
from tailproxy.sessions.elements import (
    ListPage,
    ProblemPage,
    RecordingPageElement,
    file_name,
    where,
    who,
)
from tailproxy.sessions.files import files
from tailproxy.sessions.form import as_json, read_query
from tailproxy.sessions.live import Gate, send_events, send_lines
from tailproxy.wire.http1 import wants_html

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.web.server import Request
    from twisted.web.template import Element

    from tailproxy.interfaces import IRecordings
    from tailproxy.recordings import Recording
    from tailproxy.sessions.access import Access

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
        "connect-src 'self'; img-src 'self' data:; font-src 'self'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_STATIC = b"static"
_CAST = "application/x-asciicast"
_SEALED = "application/octet-stream"


class SessionsResource(Resource):
    """Everything below `sessions/`.

    :param recordings: of the recorder.
    :param access: says what whoever sends a request may do.
    """

    isLeaf = True
    _log = Logger()

    def __init__(self, recordings: IRecordings, access: Callable[[Request], Access]) -> None:
        super().__init__()
        self._recordings = recordings
        self._access = access
        self._files = files()

    def render(self, request: Request) -> int:
        """Answer, now or later."""
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        request.setHeader("Vary", "Accept")
        answering = Deferred.fromCoroutine(self._answer(request))
        request.notifyFinish().addErrback(lambda _: answering.cancel())
        answering.addErrback(self._failed, request)
        return NOT_DONE_YET

    def _failed(self, failure: Any, request: Request) -> None:
        if failure.check(CancelledError):
            return
        error = failure.value
        if not isinstance(error, ApiError):
            self._log.failure("cannot show recorded sessions", failure)
            error = ApiError(500, "internal", "an error of tailproxy's own; its log says more")
        if request.startedWriting:
            request.loseConnection()
            return
        request.setResponseCode(error.code)
        if _html(request):
            depth = len(request.postpath or ()) - 1
            _finish_page(request, ProblemPage(error, "../" * depth or "./"))
        else:
            request.setHeader("Content-Type", "application/json")
            _finish(request, error.status())

    async def _answer(self, request: Request) -> None:
        way = tuple(request.postpath or ())
        method = request.method
        if method == b"POST" and way[1:] == (b"end",):
            await self._end(request, way[0])
            return
        if method not in {b"GET", b"HEAD"}:
            raise ApiError(405, "sessions-method", f"{_shown(method)} is not answered here")
        match way:
            case ():
                request.setResponseCode(HTTPStatus.PERMANENT_REDIRECT)
                request.setHeader("Location", request.path + b"/")
                _finish(request, b"")
            case (b"",):
                await self._list(request)
            case (name, file) if name == _STATIC:
                self._file(request, file)
            case (identifier,):
                await self._show(request, identifier)
            case (identifier, b"cast"):
                await self._cast(request, identifier)
            case (identifier, b"live"):
                await self._live(request, identifier)
            case _:
                raise ApiError(404, "sessions-path", "there is no such page")

    def _file(self, request: Request, name: bytes) -> None:
        found = self._files.get(name.decode("ascii", "replace"))
        if found is None:
            raise ApiError(404, "sessions-path", "there is no such file")
        request.setHeader("Content-Type", found.content_type)
        request.setHeader("Cache-Control", "no-cache")
        if request.setETag(found.etag.encode("ascii")) is CACHED:
            request.finish()
        else:
            _finish(request, found.content)

    async def _list(self, request: Request) -> None:
        access = self._access(request)
        if access.namespaces is not None and not access.namespaces:
            raise ApiError(
                403,
                "sessions-grant",
                f"no grant of the tailnet's policy lets {access.who} see recorded sessions; ask "
                'its administrator for one with {"tailproxy": {"sessions": ["play"]}}',
            )
        query = read_query(request.args, access.namespaces)
        page: RecordingPage = await self._recordings.search(query)
        if _html(request):
            said = {
                key.decode(): values[0].decode()
                for key, values in request.args.items()
                if values[0] and key != b"after"
            }
            _finish_page(request, ListPage(access.who, page, said))
            return
        found = page.recordings
        _finish_json(
            request,
            {
                "items": [as_json(each) for each in found],
                "next": found[-1].id if page.more else None,
            },
        )

    async def _show(self, request: Request, identifier: bytes) -> None:
        recording, rights = await self._find(request, identifier)
        if _html(request):
            _finish_page(request, RecordingPageElement(recording, rights))
        else:
            _finish_json(request, as_json(recording))

    async def _cast(self, request: Request, identifier: bytes) -> None:
        recording = await self._playable(request, identifier)
        name = file_name(recording)
        request.setHeader("Content-Type", _SEALED if recording.encrypted else _CAST)
        request.setHeader("Content-Disposition", f'attachment; filename="{name}"')
        if recording.state is not RecordingState.LIVE:
            request.setHeader("Content-Length", str(recording.size))
        if request.method == b"HEAD":
            _finish(request, b"")
        else:
            await send_lines(self._recordings, recording, Gate(request))

    async def _live(self, request: Request, identifier: bytes) -> None:
        recording = await self._playable(request, identifier)
        if recording.encrypted:
            raise ApiError(
                409, "sessions-ended", f"the session {recording.id} does not run any more"
            )
        request.setHeader("Content-Type", "text/event-stream")
        if request.method == b"HEAD":
            _finish(request, b"")
        else:
            await send_events(self._recordings, recording, Gate(request))

    async def _end(self, request: Request, identifier: bytes) -> None:
        if not _meant(request):
            raise ApiError(
                403,
                "cross-site",
                "it is not clear that the person at the browser wants this: end the session from "
                "its own page, with a browser of these years, or with tailproxy sessions kill",
            )
        access = self._access(request)
        recording, rights = await self._find(request, identifier)
        if SessionRight.KILL not in rights:
            raise _not_granted(access, recording, "end")
        if not await self._recordings.end(recording.id, f"ended by {access.who}"):
            raise ApiError(
                409, "sessions-ended", f"the session {recording.id} does not run any more"
            )
        self._log.warn(
            "{ender} ends the session {recording} of {whose} in {place}",
            ender=access.who,
            recording=recording.id,
            whose=who(recording),
            place=where(recording),
        )
        if _html(request):
            request.setResponseCode(HTTPStatus.SEE_OTHER)
            request.setHeader("Location", request.path.removesuffix(b"/end"))
            _finish(request, b"")
        else:
            _finish_json(request, as_json(recording))

    async def _playable(self, request: Request, identifier: bytes) -> Recording:
        recording, rights = await self._find(request, identifier)
        if SessionRight.PLAY not in rights:
            raise _not_granted(self._access(request), recording, "play")
        return recording

    async def _find(
        self, request: Request, identifier: bytes
    ) -> tuple[Recording, frozenset[SessionRight]]:
        """One recording, and what may be done with it. What may not be seen is not there."""
        recording: Recording | None = await self._recordings.find(_shown(identifier))
        if recording is not None:
            rights = self._access(request).rights(recording.namespace)
            if SessionRight.LIST in rights:
                return recording, rights
        raise ApiError(
            404,
            "sessions-unknown",
            f"there is no recording {_shown(identifier)}, or no grant that lets you see sessions "
            "of its namespace",
        )


def _not_granted(access: Access, recording: Recording, verb: str) -> ApiError:
    place = f"of the namespace {recording.namespace}" if recording.namespace else "of no namespace"
    return ApiError(
        403,
        "sessions-grant",
        f"no grant of the tailnet's policy lets {access.who} {verb} sessions {place}; "
        "see docs/grants.md",
    )


def _meant(request: Request) -> bool:
    """Whether a request that changes something comes from our own page or from a command.

    Browsers say where it comes from (W3C Fetch Metadata), and no page can have them say otherwise.
    Without that it must have a type that no form of another site can send (Fetch standard, 2.2.2).
    """
    site = request.getHeader("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return request.getHeader("content-type") == "application/json"


def _html(request: Request) -> bool:
    return wants_html(request.getHeader("accept") or "")


def _shown(name: bytes) -> str:
    return name.decode("ascii", "replace")


def _finish(request: Request, body: bytes) -> None:
    request.setHeader("Content-Length", str(len(body)))
    request.write(body)
    request.finish()


def _finish_json(request: Request, value: Any) -> None:
    request.setHeader("Content-Type", "application/json")
    _finish(request, json.dumps(value, indent=2).encode() + b"\n")


def _finish_page(request: Request, page: Element) -> None:
    request.setHeader("Content-Type", "text/html; charset=utf-8")
    renderElement(request, page)
