"""Listening: accepted connections go through a door (`IDoor`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.interfaces import IDoor

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from twisted.internet.interfaces import IListeningPort

BACKLOG = 512


class _Handover(Factory[Any]):
    """What a port of Twisted's takes for its factory and for the protocol of each connection."""

    noisy = False

    def __init__(self, door: IDoor) -> None:
        self._door = door

    def buildProtocol(self, addr: object) -> Any:
        """Whoever is told about the connection."""
        return self

    def makeConnection(self, connection: socket.socket) -> None:
        """The port has accepted a connection."""
        self._door.admit(connection)


def open_port(reactor: Any, address: str, port: int, door: IDoor) -> IListeningPort:
    """Accept connections for a door.

    :param address: literal IP address.
    :raises twisted.internet.error.CannotListenError: somebody else listens there, or we may not.
    """
    listening: Any = reactor.listenTCP(port, _Handover(door), backlog=BACKLOG, interface=address)
    # It makes a transport of each socket that it accepts; the doors make their own.
    listening.transport = _as_it_is
    opened: IListeningPort = listening
    return opened


def _wait(port: Any, *, waiting: bool) -> None:
    if waiting:
        port.stopReading()
    else:
        port.startReading()


def _as_it_is(connection: socket.socket, *_: object) -> socket.socket:
    return connection


@implementer(IDoor)
class Listener(Service):
    """Listens on one port of some addresses.

    :param label: its name, for people.
    :param addresses: literal IP addresses.
    :param door: where connections go.
    :raises twisted.internet.error.CannotListenError: from `privilegedStartService`; then nothing
        is listening.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, label: str, addresses: Sequence[str], port: int, door: IDoor
    ) -> None:
        self.label = label
        self._reactor = reactor
        self._addresses = addresses
        self._port = port
        self._door = door
        self._ports: list[IListeningPort] = []
        self._held = False

    def privilegedStartService(self) -> None:
        """Bind, while we may still bind ports below 1024; unless that has been done."""
        super().privilegedStartService()
        if self._ports:
            return
        try:
            for address in self._addresses:
                self._ports.append(self._listen(address))
        except Exception:
            self.stop_accepting()
            raise

    def lead_to(self, door: IDoor, label: str) -> None:
        """From now on connections go elsewhere; those that came go on.

        :param label: its name, for people.
        """
        before, self._door = self._door, door
        self.label = label
        before.close()

    def admit(self, connection: socket.socket) -> None:
        """See `IDoor.admit`: through the door that there is now."""
        self._door.admit(connection)

    def close(self) -> None:
        """See `IDoor.close`."""
        self._door.close()

    def _listen(self, address: str) -> IListeningPort:
        port = open_port(self._reactor, address, self._port, self)
        if self._held:
            _wait(port, waiting=True)
        return port

    def hold(self, *, held: bool) -> None:
        """Leave new connections in the kernel's backlog, or take them again."""
        self._held = held
        for port in self._ports:
            _wait(port, waiting=held)

    def startService(self) -> None:
        """Bind, unless that has been done."""
        super().startService()
        self.privilegedStartService()
        for port in self._ports:
            self._log.info(
                "listener-{name} listens on {address}", name=self.label, address=port.getHost()
            )

    @property
    def bound(self) -> list[Any]:
        """The addresses it listens on."""
        return [port.getHost() for port in self._ports]

    def stop_accepting(self) -> Deferred[Any]:
        """Take no new connections; those that are open go on."""
        ports, self._ports = self._ports, []
        self.close()
        return DeferredList([maybeDeferred(port.stopListening) for port in ports])

    def stopService(self) -> Deferred[Any]:
        """Stop listening."""
        super().stopService()
        return self.stop_accepting()
