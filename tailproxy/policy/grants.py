"""Grants of the tailnet policy: the rules of the Kubernetes capability in a WhoIs answer.

The rules are read as a whole or not at all: one value that cannot be read makes the caller's
rules unreadable, because nobody can say what that value was meant to restrict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import cached_property
from typing import Any, TypeVar

import attrs

from tailproxy.wire.addresses import AddressPort

CAPABILITY = "tailscale.com/cap/kubernetes"
LEGACY_CAPABILITY = "https://tailscale.com/cap/kubernetes"

_T = TypeVar("_T")
# RFC 1123, 2.1, as Kubernetes has it. No patterns: what looks like one would match nothing.
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


class GrantError(ValueError):
    """A rule of the capability cannot be read; the text says which and why."""


@attrs.frozen
class RuleOrigin:
    """Where a rule stands, so that whoever writes the policy finds it.

    :ivar capability: the name it stands under.
    :ivar number: its place among the caller's rules of that name, from 1.
    :ivar service: whether it was granted on the Tailscale Service that was called, and not on the
        proxy's node.
    """

    capability: str
    number: int
    service: bool = False

    def __str__(self) -> str:
        """Return words for people."""
        end = ", granted on the Service" if self.service else ""
        return f"rule {self.number} of {self.capability}{end}"


class SessionRight(Enum):
    """What a caller may do with recorded sessions. Whoever may do one of these may `LIST` too."""

    LIST = "list"
    PLAY = "play"
    KILL = "kill"


@attrs.frozen
class SessionGrant:
    """What one rule lets a caller do with recorded sessions.

    :ivar rights: `LIST` is among them if there is any.
    :ivar namespaces: whose sessions; ``None`` for those of all, and of none.
    """

    rights: frozenset[SessionRight]
    namespaces: frozenset[str] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as it is written, everything in it."""
        return {
            "sessions": [right.value for right in SessionRight if right in self.rights],
            "namespaces": None if self.namespaces is None else sorted(self.namespaces),
        }

    def covers(self, namespace: str) -> bool:
        """Tell whether it is about sessions in a namespace."""
        return self.namespaces is None or namespace in self.namespaces


@attrs.frozen
class GrantRule:
    """One rule: what one grant of the tailnet policy says about a caller (dataplane.md 1.6).

    :ivar groups: to impersonate, in the order written.
    :ivar recorder_addresses: where sessions are to be recorded.
    :ivar recorder_tags: the tags of nodes that those addresses were made of, if they were.
    :ivar enforce_recorder: what cannot be recorded must not run.
    :ivar enable_events: every request is to be recorded as an event.
    :ivar sessions: what the caller may do with recorded sessions; ``None`` for nothing.
    :ivar origin: where it stands; rules that say the same are equal wherever they stand.
    """

    groups: tuple[str, ...] = ()
    recorder_addresses: tuple[AddressPort, ...] = ()
    enforce_recorder: bool = False
    enable_events: bool = False
    recorder_tags: tuple[str, ...] = ()
    sessions: SessionGrant | None = None
    origin: RuleOrigin = attrs.field(default=RuleOrigin(CAPABILITY, 1), eq=False)


@attrs.frozen
class Grants:
    """All rules that apply to a caller, in the order of the policy (dataplane.md 1.5, 1.6)."""

    rules: tuple[GrantRule, ...] = ()

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The groups of all rules, each once, where it came first."""
        return tuple(dict.fromkeys(group for rule in self.rules for group in rule.groups))

    @cached_property
    def recorder_addresses(self) -> tuple[AddressPort, ...]:
        """The recorders of all rules in order, repetitions kept."""
        return tuple(each for rule in self.rules for each in rule.recorder_addresses)

    @cached_property
    def open_tags(self) -> frozenset[str]:
        """Tags of recorders that nobody has put addresses to."""
        return frozenset(
            tag for rule in self.rules if not rule.recorder_addresses for tag in rule.recorder_tags
        )

    def with_recorders(self, recorders: Mapping[str, Sequence[AddressPort]]) -> Grants:
        """Put addresses to tags where nobody has (spec/streaming.md 5.1).

        :param recorders: by tag, those that have it.
        """
        return Grants(tuple(_located(rule, recorders) for rule in self.rules))

    @cached_property
    def fail_open(self) -> bool:
        """Whether what cannot be recorded may run unrecorded."""
        return not any(rule.enforce_recorder for rule in self.rules)

    @cached_property
    def enable_events(self) -> bool:
        """Whether every request is to be recorded as an event."""
        return any(rule.enable_events for rule in self.rules)

    def session_rights(self, namespace: str) -> frozenset[SessionRight]:
        """Return what the caller may do with recorded sessions of a namespace."""
        granted = (rule.sessions for rule in self.rules)
        return frozenset().union(
            *(grant.rights for grant in granted if grant is not None and grant.covers(namespace))
        )

    @cached_property
    def session_namespaces(self) -> frozenset[str] | None:
        """The namespaces whose recorded sessions the caller may see at all; ``None`` for all."""
        found: set[str] = set()
        for rule in self.rules:
            if rule.sessions is not None:
                if rule.sessions.namespaces is None:
                    return None
                found |= rule.sessions.namespaces
        return frozenset(found)

    def origins(self, group: str) -> tuple[RuleOrigin, ...]:
        """Return where the rules stand that give a group."""
        return tuple(rule.origin for rule in self.rules if group in rule.groups)

    def __add__(self, other: Grants) -> Grants:
        """Return the rules of both, ours first."""
        return Grants(self.rules + other.rules)


def _located(rule: GrantRule, recorders: Mapping[str, Sequence[AddressPort]]) -> GrantRule:
    if rule.recorder_addresses or not rule.recorder_tags:
        return rule
    found = [each for tag in rule.recorder_tags for each in recorders.get(tag, ())]
    return attrs.evolve(rule, recorder_addresses=tuple(dict.fromkeys(found)))


def read_rules(cap_map: Mapping[str, Any] | None, *, service: bool = False) -> Grants:
    """Read the Kubernetes rules out of one capability map.

    The legacy name counts only where the present one has no rule, and then for groups alone: it
    never decides about recording (dataplane.md 1.5, 1.6).

    :param cap_map: ``CapMap`` of a WhoIs answer: capability name to a list of JSON values.
    :param service: whether the answer was about a Tailscale Service.
    :raises GrantError: if one value cannot be read.
    """
    if cap_map is None:
        return Grants()
    if not isinstance(cap_map, Mapping):
        raise GrantError(f"the capability map is {_kind(cap_map)}, not an object")
    rules = _rules_of(cap_map, CAPABILITY, service)
    if rules:
        return Grants(rules)
    legacy = _rules_of(cap_map, LEGACY_CAPABILITY, service)
    return Grants(tuple(GrantRule(groups=rule.groups, origin=rule.origin) for rule in legacy))


def _rules_of(cap_map: Mapping[str, Any], name: str, service: bool) -> tuple[GrantRule, ...]:
    values = cap_map.get(name)
    if values is None:
        return ()
    if not isinstance(values, list):
        raise GrantError(f"capability {name}: {_kind(values)} instead of a list of rules")
    rules = []
    for number, value in enumerate(values, start=1):
        try:
            rules.append(_rule(value, RuleOrigin(name, number, service)))
        except ValueError as error:
            raise GrantError(f"capability {name}, rule {number}: {error}") from None
    return tuple(rules)


def _rule(value: Any, origin: RuleOrigin) -> GrantRule:
    """Read one rule the way the policy's authors know it: Go's JSON rules (dataplane.md 1.5).

    Keys are matched without case and taken in the order written, so a later spelling of the
    same key overrides. ``null`` is the empty list or object, and leaves a boolean as it was.
    """
    groups: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    addresses: tuple[AddressPort, ...] = ()
    enforce = events = False
    sessions: SessionGrant | None = None
    for key, item in _members(value, "the rule"):
        match key.casefold():
            case "impersonate":
                groups = _groups(item, groups)
            case "recorder":
                # The control server turns these tags into recorderAddrs, which count.
                tags = _strings(item, key, str)
            case "recorderaddrs":
                addresses = _strings(item, key, AddressPort.parse)
            case "enforcerecorder":
                enforce = _boolean(item, key, enforce)
            case "enableevents":
                events = _boolean(item, key, events)
            case "tailproxy":
                sessions = _own(item)
    return GrantRule(groups, addresses, enforce, events, tags, sessions, origin)


def _own(value: Any) -> SessionGrant | None:
    """Read the object of our own. Here an unknown key is an error: what a later version takes for
    a limit must not be passed over.
    """
    rights: tuple[SessionRight, ...] = ()
    namespaces: frozenset[str] | None = None
    for key, item in _members(value, '"tailproxy"'):
        match key.casefold():
            case "sessions":
                rights = _strings(item, f"tailproxy.{key}", _session_right)
            case "namespaces":
                if item is not None:
                    namespaces = frozenset(_strings(item, f"tailproxy.{key}", _namespace))
            case _:
                raise GrantError(f'"tailproxy" has the unknown key "{key}"')
    if not rights:
        return None
    return SessionGrant(frozenset({*rights, SessionRight.LIST}), namespaces)


def _session_right(text: str) -> SessionRight:
    try:
        return SessionRight(text)
    except ValueError:
        known = ", ".join(right.value for right in SessionRight)
        raise GrantError(f"found {text!r}, wanted {known}") from None


def _namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        raise GrantError(f"{text!r} is no name of a namespace")
    return text


def _groups(value: Any, before: tuple[str, ...]) -> tuple[str, ...]:
    groups = before if value is not None else ()
    for key, item in _members(value, '"impersonate"'):
        if key.casefold() == "groups":
            groups = _strings(item, f"impersonate.{key}", str)
    return groups


def _members(value: Any, what: str) -> list[tuple[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, dict):
        raise GrantError(f"{what} is {_kind(value)} instead of an object")
    return list(value.items())


def _strings(value: Any, key: str, read: Callable[[str], _T]) -> tuple[_T, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise GrantError(f'"{key}" is {_kind(value)} instead of a list of strings')
    for item in value:
        if not isinstance(item, str):
            raise GrantError(f'"{key}" holds {_kind(item)} among its strings')
    try:
        return tuple(read(item) for item in value)
    except ValueError as error:
        raise GrantError(f'"{key}": {error}') from None


def _boolean(value: Any, key: str, before: bool) -> bool:
    if value is None:
        return before
    if not isinstance(value, bool):
        raise GrantError(f'"{key}" is {_kind(value)} instead of true or false')
    return value


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"
