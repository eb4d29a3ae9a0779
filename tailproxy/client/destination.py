"""Which proxy somebody means by a host name, a Service, an address or a URL.

The rules are those of spec/dataplane.md 7.1 and 7.2. The tailnet knows the full names. A full name
counts even if the tailnet does not know it, since what it cannot see now may be there tomorrow;
that is a warning.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PORTS = {"https": 443, "http": 80}
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*", re.IGNORECASE)


class DestinationError(ValueError):
    """Nobody can say which proxy is meant. It says why, and what would do."""


@attrs.frozen
class Destination:
    """A proxy.

    :ivar scheme: ``https`` or ``http``.
    :ivar host: its full name, without the final dot, or its address.
    :ivar port: None for the scheme's own.
    :ivar warnings: what may keep it from being reached, a sentence each.
    """

    scheme: str
    host: str
    port: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What its entries in a kubeconfig are called."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Of the proxy."""
        return f"{self.scheme}://{self.name}"


@attrs.frozen
class _Found:
    """A name that the tailnet knows.

    :ivar trouble: why it may not be reached now, or empty.
    """

    name: str
    trouble: str = ""


def resolve(
    argument: str, status: Mapping[str, Any] | None, *, http: bool = False, unknown: str = ""
) -> Destination:
    """Find the proxy that somebody means.

    :param argument: ``https://HOST[:PORT]``, ``http://...``, ``HOST[:PORT]``, ``svc:NAME`` or an
        address; HOST is a full name or its first label. A scheme beats `http`.
    :param status: the answer of tailscaled to ``status`` with its peers; None if there is none.
    :param http: whether the scheme is ``http`` where the argument has none.
    :param unknown: why there is no status, for messages.
    :raises DestinationError: the argument is no name, or one of several, or unknown without
        being a full name, or tailscaled is there and not connected.
    """
    scheme, host, port, notes = _read(argument, "http" if http else "https")
    if status is None:
        found = _unchecked(host, unknown)
    else:
        state = status.get("BackendState")
        if state != "Running":
            raise DestinationError(
                f"tailscaled is not connected to a tailnet (its state is {state}); "
                "run `tailscale up`"
            )
        found = _look_up(host, status)
    if port == _PORTS[scheme]:
        port = None
    warnings = [*notes, found.trouble] if found.trouble else notes
    return Destination(scheme, found.name, port, tuple(warnings))


def _read(argument: str, scheme: str) -> tuple[str, str, int | None, list[str]]:
    """Take an argument apart: scheme, host as it was written, port, warnings."""
    notes: list[str] = []
    service = "svc:" if argument.strip().startswith("svc:") else ""
    text = argument.strip().removeprefix("svc:")
    if _is_address(text):
        host, port = text, None
    else:
        has_scheme = re.match(r"https?:", text, re.IGNORECASE)
        if not has_scheme and re.match(r"\w+://", text):
            raise DestinationError(f"{argument!r} is no URL of http or https")
        parts, port = _split(text if has_scheme else f"{scheme}://{text}", argument)
        scheme = parts.scheme
        host = unquote(parts.hostname or "")
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            notes.append(f"only the host of {argument!r} counts: a proxy has no path")
    host = host.rstrip(".")
    address = _is_address(host)
    if (
        not argument.isprintable()
        or (address and service)
        or not (address or _NAME.fullmatch(host))
    ):
        raise DestinationError(
            f"{argument!r} names no host; wanted is a host name, svc:NAME or a URL such as "
            "https://HOST.TAILNET.ts.net"
        )
    return scheme, service + host, port, notes


def _split(url: str, argument: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise DestinationError(f"{argument!r} is no URL: {error}") from error
    return parts, port


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _unchecked(host: str, why: str) -> _Found:
    """Take a full name as it is."""
    if _is_address(host) or host.startswith("svc:") or "." not in host:
        raise DestinationError(
            f"only tailscaled knows the full name of {host!r}, and {why}; give the full name, "
            "such as HOST.TAILNET.ts.net, or say with --socket where tailscaled's socket is"
        )
    return _Found(host.lower(), f"nobody checked the name {host}: {why}")


def _look_up(host: str, status: Mapping[str, Any]) -> _Found:
    """Find a name among the nodes and Services of the tailnet."""
    nodes = _nodes(status)
    services = _services(status)
    if _is_address(host):
        address = ip_address(host)
        found = [each for addresses, each in (*nodes, *services) if address in addresses]
        if not found:
            raise DestinationError(f"no node or Service that this node sees has {host}")
        return _only(host, found)
    if host.startswith("svc:"):
        nodes = []
    label = host.removeprefix("svc:").lower()
    named = [each for _, each in (*nodes, *services)]
    exact = [each for each in named if each.name.lower() == label]
    if exact:
        return _only(host, exact)
    short = [each for each in named if each.name.lower().partition(".")[0] == label]
    if short:
        return _only(host, short)
    return _unseen(host, label, status)


def _unseen(host: str, label: str, status: Mapping[str, Any]) -> _Found:
    """Make a full name of what this node does not see, if it is certain which."""
    trouble = f"this node does not see {host}; a grant may be missing, or it is mistyped"
    if "." in label:
        return _Found(label, trouble)
    suffix = str((status.get("CurrentTailnet") or {}).get("MagicDNSSuffix") or "")
    if host.startswith("svc:") and suffix:
        return _Found(f"{label}.{suffix}", trouble)
    raise DestinationError(
        f"no node or Service that this node sees is called {host!r}; `tailscale status` shows the "
        f"nodes, and a full name such as {label}.{suffix or 'TAILNET.ts.net'} is taken as it is"
    )


def _only(host: str, found: Iterable[_Found]) -> _Found:
    """The one name among those found; that of somebody who can be reached, if there is one."""
    by_name: dict[str, _Found] = {}
    for each in found:
        known = by_name.get(each.name.lower())
        if known is None or (known.trouble and not each.trouble):
            by_name[each.name.lower()] = each
    if "" in by_name:
        raise DestinationError(f"what has {host} has no name in this tailnet; turn on MagicDNS")
    if len(by_name) > 1:
        names = ", ".join(sorted(each.name for each in by_name.values()))
        raise DestinationError(f"{host!r} may be any of {names}; give the full name")
    return next(iter(by_name.values()))


_Known = list[tuple[frozenset[Any], _Found]]


def _nodes(status: Mapping[str, Any]) -> _Known:
    """The names of all nodes, the own one among them, with their addresses."""
    found: _Known = []
    own = status.get("Self") or {}
    for peer in [own, *_peers(status)]:
        name = str(peer.get("DNSName") or "").rstrip(".")
        offline = peer is not own and peer.get("Online") is False
        addresses = frozenset(ip_address(each) for each in peer.get("TailscaleIPs") or ())
        found.append((addresses, _Found(name, f"the node {name} is offline" if offline else "")))
    return found


def _services(status: Mapping[str, Any]) -> _Known:
    """The names of all Services that this node sees, with their addresses."""
    nodes = [status.get("Self") or {}, *_peers(status)]
    routed = {prefix for node in nodes for prefix in node.get("AllowedIPs") or ()}
    found: _Known = []
    for record in status.get("ExtraRecords") or ():
        name = str(record.get("Name") or "").rstrip(".")
        value = str(record.get("Value") or "")
        if not name or not _is_address(value):
            continue
        reached = str(ip_network(value)) in routed
        trouble = f"{name} is in MagicDNS, and no node that this node sees has its address now"
        found.append((frozenset((ip_address(value),)), _Found(name, "" if reached else trouble)))
    return found


def _peers(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [peer for peer in (status.get("Peer") or {}).values() if isinstance(peer, dict)]
