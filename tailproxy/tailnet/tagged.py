"""Recorders by their tags, for control servers that do not put addresses to them.

A grant says `"recorder": ["tag:rec"]`, and the control server adds the addresses of the nodes with
that tag. Where it does not, they are the peers of tailscaled that have the tag: those online first,
at port 80 (spec/streaming.md 5.1). Nothing is asked for callers whose grants name no such tag.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from tailproxy.errors import ResolverUnavailableError
from tailproxy.interfaces import IIdentityResolver
from tailproxy.tailnet.localapi import LocalAPIError
from tailproxy.wire.addresses import AddressPort

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twisted.internet.interfaces import IReactorTime

    from tailproxy.policy.identity import Caller, Identity
    from tailproxy.tailnet.localapi import LocalAPI

# Seconds for which an answer serves. It lists all peers, so it is not asked for lightly.
_LIFETIME = 10.0
_PORT = 80

Table = dict[str, tuple[AddressPort, ...]]


@implementer(IIdentityResolver)
class TaggedRecorders:
    """Adds recorders to the identities of another resolver.

    :param clock: for the age of answers.
    :param api: the tailscaled that knows the peers.
    :param resolver: the other one.
    """

    def __init__(self, clock: IReactorTime, api: LocalAPI, resolver: IIdentityResolver) -> None:
        self._clock = clock
        self._api = api
        self._resolver = resolver
        self._table: Table = {}
        self._until = float("-inf")
        self._waiters: list[Deferred[None]] | None = None
        # By the identity without them, with them: an identity serves many requests.
        self._made: dict[int, tuple[Identity, Identity]] = {}

    def recall(self, caller: Caller) -> Identity | None:
        """See `IIdentityResolver.recall`."""
        identity = self._resolver.recall(caller)
        if identity is None or not identity.grants.open_tags:
            return identity
        return self._complete(identity) if self._clock.seconds() < self._until else None

    def resolve(self, caller: Caller) -> Deferred[Identity]:
        """See `IIdentityResolver.resolve`."""
        return self._resolver.resolve(caller).addCallback(self._with_recorders)

    def _with_recorders(self, identity: Identity) -> Deferred[Identity]:
        if not identity.grants.open_tags:
            return succeed(identity)
        if self._clock.seconds() < self._until:
            return succeed(self._complete(identity))
        return self._look().addCallback(lambda _: self._complete(identity))

    def _complete(self, identity: Identity) -> Identity:
        known = self._made.get(id(identity))
        if known is None:
            grants = identity.grants.with_recorders(self._table)
            known = self._made[id(identity)] = (identity, attrs.evolve(identity, grants=grants))
        return known[1]

    def _look(self) -> Deferred[None]:
        """Ask for the peers, once for all who wait."""
        waiter: Deferred[None] = Deferred()
        if self._waiters is None:
            self._waiters = [waiter]
            self._api.status(peers=True).addCallback(self._read).addBoth(self._tell)
        else:
            self._waiters.append(waiter)
        return waiter

    def _read(self, status: Mapping[str, Any]) -> None:
        self._table = recorders_by_tag(status)
        self._until = self._clock.seconds() + _LIFETIME
        self._made.clear()

    def _tell(self, result: Failure | None) -> None:
        waiters, self._waiters = self._waiters or [], None
        if isinstance(result, Failure) and result.check(LocalAPIError):
            result = Failure(ResolverUnavailableError("it does not say who the recorders are"))
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(result)


def recorders_by_tag(status: Mapping[str, Any]) -> Table:
    """Return the recorders' addresses by their tags, those of nodes that are online first.

    :param status: tailscaled's answer to `status`, with its peers.
    """
    peers = [each for each in (status.get("Peer") or {}).values() if isinstance(each, dict)]
    peers.sort(key=lambda peer: (not peer.get("Online"), str(peer.get("ID", ""))))
    found: dict[str, list[AddressPort]] = {}
    for peer in peers:
        addresses = [
            AddressPort(ip_address(each), _PORT) for each in peer.get("TailscaleIPs") or ()
        ]
        for tag in peer.get("Tags") or ():
            found.setdefault(tag, []).extend(addresses)
    return {tag: tuple(addresses) for tag, addresses in found.items()}
