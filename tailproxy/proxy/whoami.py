"""`/.tailproxy/whoami`: who the proxy says the caller is, and what would be impersonated."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from twisted.web.resource import Resource
from zope.interface import implementer

from tailproxy.interfaces import IIdentity, IResourcePlugin, PluginContext

if TYPE_CHECKING:
    from twisted.web.server import Request

    from tailproxy.policy.identity import Identity


@implementer(IResourcePlugin)
class WhoAmIPlugin:
    """Our own first plugin."""

    name = "whoami"
    mount = "tailnet"

    def resource(self, context: PluginContext) -> WhoAmIResource:
        """The resource."""
        return WhoAmIResource(context.mode)


class WhoAmIResource(Resource):
    """Answers GET and HEAD with JSON.

    :param mode: `auth` or `noauth`; in the latter nobody is impersonated.
    """

    isLeaf = True

    def __init__(self, mode: str) -> None:
        super().__init__()
        self._mode = mode

    def render_GET(self, request: Request) -> bytes:
        """Describe the caller."""
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"cache-control", b"no-store")
        return (
            json.dumps(self._describe(cast("Identity", IIdentity(request))), indent=2).encode()
            + b"\n"
        )

    def _describe(self, identity: Identity) -> dict[str, Any]:
        auth = self._mode == "auth"
        return {
            "user": identity.user,
            "groups": list(identity.groups),
            "node": {
                "name": identity.node,
                "id": identity.node_id,
                "tags": list(identity.tags),
                "addresses": [str(address) for address in identity.addresses],
            },
            "rules": [
                {
                    "groups": list(rule.groups),
                    "recorderAddrs": [str(address) for address in rule.recorder_addresses],
                    "enforceRecorder": rule.enforce_recorder,
                    "enableEvents": rule.enable_events,
                }
                for rule in identity.grants.rules
            ],
            "mode": self._mode,
            "impersonates": (
                {"user": identity.user, "groups": list(identity.groups)} if auth else None
            ),
        }
