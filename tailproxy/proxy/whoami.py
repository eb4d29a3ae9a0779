"""`/.tailproxy/whoami`: who the proxy says the caller is, why, and what would be impersonated."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from twisted.web.resource import Resource
from zope.interface import implementer

from tailproxy.interfaces import ICaller, IIdentity, IResourcePlugin, PluginContext
from tailproxy.policy.description import describe

if TYPE_CHECKING:
    from twisted.web.server import Request

    from tailproxy.policy.identity import Caller, Identity


@implementer(IResourcePlugin)
class WhoAmIPlugin:
    """Our own first plugin."""

    name = "whoami"
    mount = "tailnet"
    title = "Who you are here, and why, as JSON"

    def resource(self, context: PluginContext) -> WhoAmIResource:
        """The resource."""
        return WhoAmIResource(context.mode, context.version)


class WhoAmIResource(Resource):
    """Answers GET and HEAD with JSON.

    :param mode: `auth` or `noauth`; in the latter nobody is impersonated.
    :param version: tailproxy's.
    """

    isLeaf = True

    def __init__(self, mode: str, version: str) -> None:
        super().__init__()
        self._mode = mode
        self._version = version

    def render_GET(self, request: Request) -> bytes:
        """Describe the caller."""
        return answer_json(request, describe_caller(request, self._mode, self._version))


def answer_json(request: Request, value: Any) -> bytes:
    """An answer with a JSON value that nobody may keep, as a resource's method returns it."""
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"cache-control", b"no-store")
    request.setHeader(b"x-content-type-options", b"nosniff")
    return json.dumps(value, indent=2).encode() + b"\n"


def describe_caller(request: Request, mode: str, version: str) -> dict[str, Any]:
    """Everything that the proxy makes of a request's caller.

    :param request: adapts to `IIdentity` and `ICaller`.
    """
    identity = cast("Identity", IIdentity(request))
    return describe(identity, cast("Caller", ICaller(request)), mode=mode, version=version)
