"""WhoIs answers for tests, in the form of dataplane.md 3.3."""

from __future__ import annotations

from tailproxy.policy.grants import CAPABILITY
from tailproxy.policy.identity import identify


def user(login="ada@corp.example", *rules, cap_map=None, **node):
    """Return the answer for an untagged node whose grants have these rules."""
    return {
        "Node": {
            "StableID": "nABC123CNTRL",
            "Name": "laptop.corp-cat.ts.net.",
            "User": 77,
            "Addresses": ["100.64.0.5/32", "fd7a:115c:a1e0::5/128"],
            **node,
        },
        "UserProfile": {"ID": 77, "LoginName": login, "DisplayName": "Ada"},
        "CapMap": cap_map
        if cap_map is not None
        else ({CAPABILITY: list(rules)} if rules else None),
    }


def tagged(*rules, **node):
    """Return the answer for the node ci-7, which has two tags."""
    tags = {"StableID": "nCI7CNTRL", "Name": "ci-7.corp-cat.ts.net.", "Tags": ["tag:ci", "tag:eu"]}
    return user("tagged-devices", *rules, **{**tags, **node})


def groups(*names):
    return {"impersonate": {"groups": list(names)}}


def ada(*rules):
    return identify(user("ada@corp.example", *rules))
