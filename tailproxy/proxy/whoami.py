"""`/.tailproxy/whoami`: who the proxy says the caller is, why, and what would be impersonated."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from twisted.web.resource import Resource
from zope.interface import implementer

from tailproxy.interfaces import ICaller, IIdentity, IResourcePlugin, PluginContext

if TYPE_CHECKING:
    from twisted.web.server import Request

    from tailproxy.policy.grants import RuleOrigin
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
        return answer_json(request, describe(request, self._mode, self._version))


def answer_json(request: Request, value: Any) -> bytes:
    """An answer with a JSON value that nobody may keep, as a resource's method returns it."""
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"cache-control", b"no-store")
    request.setHeader(b"x-content-type-options", b"nosniff")
    return json.dumps(value, indent=2).encode() + b"\n"


def describe(request: Request, mode: str, version: str) -> dict[str, Any]:
    """Everything that the proxy makes of a request's caller; `docs/endpoints.md` has the keys.

    :param request: adapts to `IIdentity` and `ICaller`.
    """
    identity = cast("Identity", IIdentity(request))
    caller = cast("Caller", ICaller(request))
    return {
        "user": identity.user,
        "groups": list(identity.groups),
        "groupsFrom": groups_from(identity),
        "groupReasons": [
            {
                "group": reason.group,
                "reason": str(reason),
                "rules": [_origin(origin) for origin in reason.origins],
            }
            for reason in identity.reasons
        ],
        "node": {
            "name": identity.node,
            "id": identity.node_id,
            "tags": list(identity.tags),
            "addresses": [str(address) for address in identity.addresses],
        },
        "address": identity.forwarded_for(caller).decode("ascii"),
        "rules": [
            {
                "groups": list(rule.groups),
                "recorderAddrs": [str(address) for address in rule.recorder_addresses],
                "enforceRecorder": rule.enforce_recorder,
                "enableEvents": rule.enable_events,
                **_origin(rule.origin),
            }
            for rule in identity.grants.rules
        ],
        "service": caller.service,
        "mode": mode,
        "version": version,
        "impersonates": (
            {"user": identity.user, "groups": list(identity.groups)} if mode == "auth" else None
        ),
    }


def groups_from(identity: Identity) -> str:
    """Where a caller's groups come from: `grants`, `tags` or, without any, `nothing`."""
    if not identity.groups:
        return "nothing"
    return "grants" if identity.grants.groups else "tags"


def _origin(origin: RuleOrigin) -> dict[str, Any]:
    return {
        "capability": origin.capability,
        "rule": origin.number,
        "grantedOn": "service" if origin.service else "node",
    }
