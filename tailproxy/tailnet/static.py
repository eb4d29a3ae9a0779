"""Who a caller is, by a table in the configuration: for development, without a tailnet.

Nothing proves that a caller is who the table says. Hence the service refuses to listen anywhere
but on loopback addresses with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from tailproxy.errors import UnknownCallerError
from tailproxy.interfaces import IIdentityResolver
from tailproxy.policy.identity import identify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailproxy.policy.identity import Caller, Identity
    from tailproxy.wire.addresses import IPAddress


@attrs.frozen
class StaticCaller:
    """What the table says of one address.

    :ivar user: login name; may be empty for a tagged node.
    :ivar groups: that a grant of the tailnet would give.
    :ivar node: FQDN of the node.
    :ivar tags: of the node, as ``tag:NAME``.
    """

    user: str
    groups: tuple[str, ...] = ()
    node: str = ""
    tags: tuple[str, ...] = ()

    def whois(self, address: IPAddress) -> dict[str, Any]:
        """Write it down as tailscaled would, so that the same rules apply to it."""
        rules = [{"impersonate": {"groups": list(self.groups)}}] if self.groups else []
        return {
            "Node": {
                "Name": self.node,
                "StableID": f"static-{address}",
                "Tags": list(self.tags),
                "Addresses": [f"{address}/{address.max_prefixlen}"],
            },
            "UserProfile": {"LoginName": self.user},
            "CapMap": {"tailscale.com/cap/kubernetes": rules},
        }


@implementer(IIdentityResolver)
class StaticResolver:
    """Looks callers up in a table.

    :param table: who calls from which address.
    :raises IdentityError: an entry cannot be used, for example for want of a user.
    """

    def __init__(self, table: Mapping[IPAddress, StaticCaller]) -> None:
        self._identities = {
            str(address): identify(entry.whois(address)) for address, entry in table.items()
        }

    def recall(self, caller: Caller) -> Identity | None:
        """See `IIdentityResolver.recall`."""
        return self._identities.get(caller.shown)

    def resolve(self, caller: Caller) -> Deferred[Identity]:
        """See `IIdentityResolver.resolve`."""
        identity = self.recall(caller)
        if identity is None:
            return fail(UnknownCallerError(caller.shown))
        return succeed(identity)
