"""An identity in the words of `/.tailproxy/whoami`: who, which groups, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailproxy.policy.grants import RuleOrigin
    from tailproxy.policy.identity import Caller, Identity


def describe(identity: Identity, caller: Caller, *, mode: str, version: str) -> dict[str, Any]:
    """Return everything that is made of a caller, as JSON; `docs/endpoints.md` has the keys.

    :param mode: ``auth`` or ``noauth``; in the latter nobody is impersonated.
    :param version: tailproxy's.
    """
    return {
        "user": identity.user,
        "groups": list(identity.groups),
        "groupsFrom": _source(identity),
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
                "tailproxy": None if rule.sessions is None else rule.sessions.as_json(),
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


def _source(identity: Identity) -> str:
    if not identity.groups:
        return "nothing"
    return "grants" if identity.grants.groups else "tags"


def _origin(origin: RuleOrigin) -> dict[str, Any]:
    return {
        "capability": origin.capability,
        "rule": origin.number,
        "grantedOn": "service" if origin.service else "node",
    }
