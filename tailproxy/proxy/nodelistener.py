"""Listening on the node's own tailnet addresses, which may come late and may change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from tailproxy.proxy.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.interfaces import IDelayedCall, IListeningPort

    from tailproxy.interfaces import IDoor
    from tailproxy.wire.addresses import IPAddress

# An address may be announced a moment before the interface has it.
_RETRY = 1.0


class NodeListener(Listener):
    """Listens on one port of whatever addresses the node has.

    Connections that are open stay open when their address goes. While tailscaled is away, the
    last addresses it told are kept.
    """

    _log = Logger()

    def __init__(self, reactor: Any, label: str, port: int, door: IDoor) -> None:
        super().__init__(reactor, label, (), port, door)
        self._open: dict[str, IListeningPort] = {}
        self._refused: dict[str, str] = {}
        self._retry: IDelayedCall | None = None
        self._accepting = False

    def privilegedStartService(self) -> None:
        """Bind what is known already."""
        Service.privilegedStartService(self)
        self._accepting = True
        self._adjust()

    def follow(self, addresses: Sequence[IPAddress]) -> None:
        """The node has these addresses now."""
        if addresses:
            self._addresses = [str(address) for address in addresses]
            if self._accepting:
                self._adjust()

    def stop_accepting(self) -> Deferred[Any]:
        """Take no new connections, and follow the node no longer."""
        self._accepting = False
        self._open = {}
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        return super().stop_accepting()

    def _adjust(self) -> None:
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        for address in [address for address in self._open if address not in self._addresses]:
            maybeDeferred(self._open.pop(address).stopListening)
        for address in self._addresses:
            if address not in self._open:
                self._bind(address)
        self._ports = list(self._open.values())
        if len(self._open) < len(self._addresses):
            self._retry = self._reactor.callLater(_RETRY, self._adjust)

    def _bind(self, address: str) -> None:
        try:
            port = self._listen(address)
        except CannotListenError as error:
            reason = str(error.socketError)
            if self._refused.get(address) != reason:
                self._refused[address] = reason
                self._log.warn(
                    "listener-{name} cannot listen on {address} port {port} yet: {reason}",
                    name=self.label,
                    address=address,
                    port=self._port,
                    reason=reason,
                )
        else:
            self._refused.pop(address, None)
            self._open[address] = port
            self._log.info(
                "listener-{name} listens on {address}", name=self.label, address=port.getHost()
            )
