"""Identities: who a caller is, read from what tailscaled's WhoIs says about its address.

Nothing here looks at a request. An answer that leaves any doubt about the caller is an error,
never an identity with less in it.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from functools import cached_property
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

import attrs

from tailproxy.policy.grants import GrantError, Grants, read_rules
from tailproxy.wire.addresses import unmapped
from tailproxy.wire.http1 import CONTROL, field_lines

if TYPE_CHECKING:
    from tailproxy.policy.grants import RuleOrigin
    from tailproxy.wire.addresses import IPAddress
    from tailproxy.wire.http1 import Header

# What the login name of every tagged node reads; it names nobody.
_TAGGED_DEVICES = "tagged-devices"


class IdentityError(ValueError):
    """The caller is known to tailscaled and still has no identity for us.

    :ivar reason: a label for metrics: ``invalid-answer``, ``invalid-grant`` or ``no-user``.
    :ivar node: the caller's node, by name or else by stable id; empty when neither is known.
    """

    def __init__(self, reason: str, node: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.node = node


class Unsendable(ValueError):  # noqa: N818 - named for what it says: it cannot be sent
    """A set of headers that must not leave; the text says why and holds no secret."""


@attrs.frozen
class Caller:
    """The far end of a connection, before anybody asked who it is.

    :ivar address: of the connection, or out of the PROXY header in front of it.
    :ivar port: its port.
    :ivar service: ``svc:NAME`` that the listener serves, if it serves one.
    :ivar local: whether the address is a loopback one that only tailscaled can name, which it
        does by address and port: the ``loopback`` kind of listener.
    """

    address: IPAddress
    port: int
    service: str | None = None
    local: bool = False

    @cached_property
    def shown(self) -> str:
        """The address as text; made once, since a connection serves many requests."""
        return str(self.address)

    @cached_property
    def forwarded_for(self) -> bytes:
        """The address as the API server is told: an IPv4-mapped one as what it stands for."""
        return str(unmapped(self.address)).encode()


@attrs.frozen
class GroupReason:
    """Why a caller has a group.

    :ivar group: its name.
    :ivar origins: the rules that give it; none if it is a tag of the node.
    """

    group: str
    origins: tuple[RuleOrigin, ...]

    def __str__(self) -> str:
        """Return words for people."""
        return " and ".join(map(str, self.origins)) or "a tag of the node"


@attrs.frozen
class Identity:
    """Who a caller is and what the tailnet policy grants (dataplane.md 1.5).

    :ivar user: to impersonate: the login name, or for a tagged node its FQDN.
    :ivar groups: to impersonate, in order: those of the grants, or else a tagged node's tags.
    :ivar node: FQDN of the caller's node, without the final dot.
    :ivar node_id: its stable id.
    :ivar login: login name of the node's user; ``None`` for a tagged node.
    :ivar tags: of the node, as ``tag:NAME``.
    :ivar addresses: the node's tailnet addresses.
    :ivar grants: the rules that apply to the caller.
    :ivar user_id: of the node's user; 0 if that is not known.
    """

    user: str
    groups: tuple[str, ...]
    node: str
    node_id: str
    login: str | None
    tags: tuple[str, ...]
    addresses: tuple[IPAddress, ...]
    grants: Grants
    user_id: int = 0

    @cached_property
    def impersonation(self) -> tuple[Header, ...]:
        """The headers that make the API server act as this identity, the user last.

        Built once, since an identity serves many requests.

        :raises Unsendable: if the user or a group cannot be sent as it is written.
        """
        return (
            *((b"Impersonate-Group", _sendable("group", group)) for group in self.groups),
            (b"Impersonate-User", _sendable("user", self.user)),
        )

    @cached_property
    def impersonation_lines(self) -> bytes:
        """The same as lines, with their ends.

        :raises Unsendable: if the user or a group cannot be sent as it is written.
        """
        return field_lines(self.impersonation)

    @cached_property
    def expected_lines(self) -> bytes:
        """What those lines must be: made of the names once more, for the check on what is sent.

        :raises Unsendable: if a name holds the end of a line, or there is no user.
        """
        groups = "".join([f"Impersonate-Group: {group}\r\n" for group in self.groups])
        lines = f"{groups}Impersonate-User: {self.user}\r\n".encode()
        ends = 2 * len(self.groups) + 2
        if not self.user or len(lines) - len(lines.translate(None, CONTROL)) != ends:
            raise Unsendable("nobody can be acted as by these names")
        return lines

    @property
    def reasons(self) -> tuple[GroupReason, ...]:
        """Why it has each of its groups; none for a caller without groups."""
        return tuple(GroupReason(group, self.grants.origins(group)) for group in self.groups)

    def forwarded_for(self, caller: Caller) -> bytes:
        """Return the address by which the tailnet knows the caller, as the API server is told.

        :param caller: the one this identity was found for.
        """
        if caller.local and self.addresses:
            return str(unmapped(self.addresses[0])).encode()
        return caller.forwarded_for


def parse_whois(body: bytes) -> dict[str, Any]:
    """Decode the body of a WhoIs answer for `identify`.

    Of repeated keys the last one counts and keeps its place, as the policy's readers expect
    (dataplane.md 1.5).

    :raises IdentityError: if the body is not one JSON object.
    """
    try:
        answer = json.loads(body, object_pairs_hook=_last_wins, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _invalid("", "it is not JSON") from None
    if not isinstance(answer, dict):
        raise _invalid("", "it is not a JSON object")
    return answer


def identify(
    node_answer: Mapping[str, Any], service_answer: Mapping[str, Any] | None = None
) -> Identity:
    """Read WhoIs answers of the LocalAPI.

    :param node_answer: the decoded answer for the caller's address (dataplane.md 3.3).
    :param service_answer: the answer for the same address with ``svc_name``, if the listener
        serves a Tailscale Service. Its rules follow those of the node (design.md section 7).
    :raises IdentityError: if an answer or a rule cannot be read, or the caller has no name.
    """
    node = _object(node_answer, "Node", "")
    name = _text(node, "Name", "").removesuffix(".")
    node_id = _text(node, "StableID", name)
    shown = name or node_id
    tags = _texts(node, "Tags", shown)
    grants = _grants(node_answer, shown)
    if service_answer is not None:
        again = _object(service_answer, "Node", shown)
        if (again.get("StableID"), again.get("Name")) != (node.get("StableID"), node.get("Name")):
            raise _invalid(shown, "the address changed hands between two questions; try again")
        grants += _grants(service_answer, shown, service=True)
    groups = grants.groups
    if tags:
        login = None
        user = name
        groups = groups or tags
        missing = "the tagged node has no name"
    else:
        login = user = _text(_object(node_answer, "UserProfile", shown), "LoginName", shown)
        missing = "its user has no login name"
    if not user or login == _TAGGED_DEVICES:
        raise IdentityError(
            "no-user",
            shown,
            f"Node {shown or 'without a name'} cannot be let in: {missing}, so there is nobody "
            "to act as. Log the node in again, or ask the tailnet's administrator.",
        )
    return Identity(
        user=user,
        groups=groups,
        node=name,
        node_id=node_id,
        login=login,
        tags=tags,
        addresses=_addresses(node, shown),
        grants=grants,
        user_id=user_id if isinstance(user_id := node.get("User"), int) else 0,
    )


def _grants(answer: Mapping[str, Any], node: str, *, service: bool = False) -> Grants:
    try:
        return read_rules(answer.get("CapMap"), service=service)
    except GrantError as error:
        raise IdentityError(
            "invalid-grant",
            node,
            f"Node {node} cannot be let in: a grant for it cannot be read: {error}. "
            "Ask the tailnet's administrator to correct the policy.",
        ) from error


def _addresses(node: Mapping[str, Any], shown: str) -> tuple[IPAddress, ...]:
    try:
        return tuple(ip_interface(each).ip for each in _texts(node, "Addresses", shown))
    except ValueError:
        raise _invalid(shown, '"Addresses" holds something that is no address') from None


def _object(holder: Mapping[str, Any], key: str, node: str) -> Mapping[str, Any]:
    value = holder.get(key)
    if not isinstance(value, Mapping):
        raise _invalid(node, f'"{key}" is not an object')
    return value


def _text(holder: Mapping[str, Any], key: str, node: str) -> str:
    value = holder.get(key, "")
    if not isinstance(value, str):
        raise _invalid(node, f'"{key}" is not a string')
    return value


def _texts(holder: Mapping[str, Any], key: str, node: str) -> tuple[str, ...]:
    value = holder.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _invalid(node, f'"{key}" is not a list of strings')
    return tuple(value)


def _invalid(node: str, why: str) -> IdentityError:
    return IdentityError(
        "invalid-answer",
        node,
        f"tailscaled's WhoIs answer about {node or 'the caller'} cannot be used: {why}.",
    )


def _last_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        members.pop(key, None)  # so that the key moves to its last place
        members[key] = value
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _sendable(what: str, value: str) -> bytes:
    """Encode a user or group name, refusing what would arrive as another one.

    The API server trims white space around header values, and takes an empty user for no
    impersonation at all: a name of blanks would run as the proxy itself.
    """
    if not value:
        raise Unsendable(f"the {what} to act as has no name")
    if value != value.strip():
        raise Unsendable(f"the name of the {what} to act as begins or ends with white space")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in value):
        raise Unsendable(f"the name of the {what} to act as holds a control character")
    return value.encode()
