"""What somebody may do in a namespace, out of a SelfSubjectRulesReview, in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# In the order in which people think of them.
_VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
# Everybody who is known may ask about themselves.
_PARTS = frozenset(("scale", "status"))
_ABOUT_ONESELF = frozenset(("authentication.k8s.io", "authorization.k8s.io"))


@attrs.frozen
class Permission:
    """What may be done with some things.

    :ivar verbs: such as ``get``; ``*`` for all.
    :ivar things: resources as kubectl names them: ``deployments.apps``, ``pods/log``, and
        ``secrets/NAME`` if it is about one object.
    """

    verbs: tuple[str, ...]
    things: tuple[str, ...]


def condense(rules: Iterable[Mapping[str, Any]]) -> tuple[Permission, ...]:
    """Bring rules together that allow the same; what allows most comes first.

    Left out is what tells a person nothing: what everybody may ask about themselves, the API group
    ``extensions``, which no API server has any more, and a ``/status`` or ``/scale`` of which no
    more is allowed than of the thing itself.

    :param rules: ``resourceRules`` of the review's status.
    """
    verbs: dict[str, set[str]] = {}
    for rule in rules:
        for thing in _things(rule):
            verbs.setdefault(thing, set()).update(rule.get("verbs") or ())
    things: dict[tuple[str, ...], list[str]] = {}
    for thing, allowed in verbs.items():
        whole, _, part = thing.partition("/")
        if part in _PARTS and allowed <= verbs.get(whole, set()):
            continue
        things.setdefault(_ordered(allowed), []).append(thing)
    found = [Permission(allowed, tuple(sorted(names))) for allowed, names in things.items()]
    return tuple(
        sorted(found, key=lambda each: ("*" not in each.verbs, -len(each.verbs), each.verbs))
    )


def _things(rule: Mapping[str, Any]) -> list[str]:
    found = []
    for group in rule.get("apiGroups") or ("",):
        if group == "extensions":
            continue
        for resource in rule.get("resources") or ():
            if group in _ABOUT_ONESELF and resource.startswith("selfsubject"):
                continue
            plain, slash, subresource = resource.partition("/")
            end = f".{group}" if group and resource != "*" else ""
            thing = f"{plain}{end}{slash}{subresource}"
            if group == "*" and resource == "*":
                thing = "everything"
            elif resource == "*":
                thing = f"everything in {group or 'the core group'}"
            found += [f"{thing} {name}" for name in rule.get("resourceNames") or ()] or [thing]
    return found


def _ordered(verbs: set[str]) -> tuple[str, ...]:
    if "*" in verbs:
        return ("*",)
    return (*(each for each in _VERBS if each in verbs), *sorted(verbs.difference(_VERBS)))
