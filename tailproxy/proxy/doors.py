"""Where accepted connections go in. Each kind of listener knows its callers in its own way.

`serve`: behind tailscaled's serve, on a loopback address; a PROXY v2 header, which is required,
says who connects. TLS was ended by tailscaled, or is ended here.
`tailnet`: on the node's own addresses (kernel networking); the socket's peer is the caller.
`loopback`: behind userspace networking without a PROXY header; tailscaled knows which of its
connections came from whom.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from tailproxy.interfaces import IDoor
from tailproxy.policy.identity import Caller
from tailproxy.proxy.channel import HTTPChannel
from tailproxy.proxy.keepalive import watch_peer
from tailproxy.proxy.tlstransport import TLSTransport
from tailproxy.proxy.transport import SocketTransport
from tailproxy.wire.proxyproto import NEED_DATA, ProxyHeaderReader, ProxyProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall, IProtocol
    from twisted.internet.protocol import Factory
    from twisted.python.failure import Failure

    from tailproxy.metrics import Metrics
    from tailproxy.proxy.peer import TailscaledOnly
    from tailproxy.proxy.site import Site
    from tailproxy.proxy.tls import ServerTLS

# As much of a PROXY header as is looked at in one go; most are 28 or 52 bytes long.
_PEEK_BYTES = 4096


class Entrance:
    """Puts an HTTP channel on a connection whose caller is known.

    :param reactor: for the sockets.
    :param listener: name of the listener that takes the connections.
    :param tls: ends TLS here; None when tailscaled has done it.
    :param service: the Tailscale Service that they come for, `svc:NAME`; None without one.
    :param channel: makes what speaks with the client, of the site, the caller and the listener.
    """

    def __init__(
        self,
        reactor: Any,
        site: Site,
        listener: str,
        tls: ServerTLS | None,
        service: str | None,
        channel: Callable[[Site, Caller, str], IProtocol] = HTTPChannel,
    ) -> None:
        self.reactor = reactor
        self.site = site
        self.listener = listener
        self.service = service
        self._tls = tls
        self._channel = channel

    def enter(self, connection: socket.socket, caller: Caller) -> None:
        """From here on the channel looks after the connection."""
        channel = self._channel(self.site, caller, self.listener)
        transport = (
            SocketTransport(self.reactor, connection, channel)
            if self._tls is None
            else TLSTransport(self.reactor, connection, channel, self._tls.accept(connection))
        )
        transport.start()


@implementer(IDoor)
class SocketDoor:
    """Takes the caller from the socket.

    :param local: the `loopback` kind.
    """

    def __init__(self, entrance: Entrance, *, local: bool) -> None:
        self._entrance = entrance
        self._local = local

    def admit(self, connection: socket.socket) -> None:
        """See `IDoor.admit`."""
        peer = _ready(connection)
        if peer is not None:
            address = ip_address(peer[0].partition("%")[0])
            caller = Caller(address, peer[1], self._entrance.service, self._local)
            self._entrance.enter(connection, caller)

    def close(self) -> None:
        """See `IDoor.close`."""


@implementer(IDoor)
class ProxyHeaderDoor:
    """Takes the caller from a PROXY header (the `serve` kind).

    :param doorkeeper: says which local processes may write one; None believes them all.
    """

    def __init__(
        self, entrance: Entrance, metrics: Metrics, doorkeeper: TailscaledOnly | None = None
    ) -> None:
        self._entrance = entrance
        self._metrics = metrics
        self._doorkeeper = doorkeeper

    def admit(self, connection: socket.socket) -> None:
        """See `IDoor.admit`."""
        peer = _ready(connection)
        if peer is None:
            return
        if not ip_address(peer[0]).is_loopback:
            refused = "not-loopback"
        elif self._doorkeeper is not None and not self._doorkeeper.admits(connection):
            refused = "wrong-user"
        else:
            ProxyHeaderConnection(self._entrance, self._metrics, connection).start()
            return
        self._metrics.proxy_header_refused.labels(refused).inc()
        connection.close()

    def close(self) -> None:
        """See `IDoor.close`."""
        if self._doorkeeper is not None:
            self._doorkeeper.close()


@implementer(IDoor)
class FactoryDoor:
    """Hands connections to a protocol factory of Twisted's, such as a `twisted.web` site.

    :param reactor: provides `IReactorSocket`.
    """

    def __init__(self, reactor: Any, factory: Factory[Any]) -> None:
        self._reactor = reactor
        self._factory = factory

    def admit(self, connection: socket.socket) -> None:
        """See `IDoor.admit`."""
        if _ready(connection) is not None:
            self._reactor.adoptStreamConnection(
                connection.fileno(), connection.family, self._factory
            )
            connection.close()  # the reactor has a descriptor of its own

    def close(self) -> None:
        """See `IDoor.close`."""


def _ready(connection: socket.socket) -> tuple[str, int] | None:
    """Make a socket fit for the reactor. Its peer, or None if that has gone; then it is closed."""
    try:
        connection.setblocking(False)
        watch_peer(connection)
        peer = connection.getpeername()
    except OSError:
        connection.close()
        return None
    return peer[0], peer[1]


@implementer(IReadDescriptor)
class ProxyHeaderConnection:
    """Reads the PROXY header, and nothing behind it, then hands the socket on.

    What is wrong is closed without an answer and counted by reason. For a drain it is a connection
    like those it becomes.
    """

    long_running = False

    def __init__(self, entrance: Entrance, metrics: Metrics, connection: socket.socket) -> None:
        self._entrance = entrance
        self._site = entrance.site
        self._metrics = metrics
        self._socket = connection
        self._reader = ProxyHeaderReader()
        self._timer: IDelayedCall | None = None
        self._received = False
        self._done = False
        self.listener = entrance.listener

    def start(self) -> None:
        """Look for the header. It mostly comes with the connection, and else has as long as a
        request's head.
        """
        self._site.opened(self)
        self.doRead()
        if not self._done:
            limit = self._site.limits.header_seconds
            self._timer = self._site.clock.callLater(limit, self._too_late)
            self._entrance.reactor.addReader(self)

    def doRead(self) -> None:
        """Look at what there is; what belongs to the header is taken out of the socket."""
        try:
            data = self._socket.recv(_PEEK_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended()
            return
        self._received = True
        try:
            source = self._reader.receive_data(data)
        except ProxyProtocolError as error:
            self._refuse(error.reason)
            return
        if source is NEED_DATA:
            self._socket.recv(len(data))
            return
        self._socket.recv(len(data) - len(self._reader.trailing_data))
        self._leave()
        self._entrance.enter(
            self._socket, Caller(source.address, source.port, self._entrance.service)
        )
        self._site.closed(self)

    def drain(self) -> None:
        """One that has said nothing yet is closed; the others have their time."""
        if not self._received:
            self.end_now()

    def end_now(self) -> None:
        """The time for leaving is over."""
        self._leave()
        self._socket.close()
        self._site.closed(self)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has found the socket broken."""
        if not self._done:
            self._ended()

    def _ended(self) -> None:
        """It ended before the header did. One that never said anything is no error: tailscaled
        dials before it knows whether its client means it.
        """
        if self._received:
            self._refuse("eof")
        else:
            self.end_now()

    def _too_late(self) -> None:
        self._refuse("timeout")

    def _refuse(self, reason: str) -> None:
        self._metrics.proxy_header_refused.labels(reason).inc()
        self.end_now()

    def _leave(self) -> None:
        self._done = True
        if self._timer is not None:
            self._entrance.reactor.removeReader(self)
            if self._timer.active():
                self._timer.cancel()
            self._timer = None

    def fileno(self) -> int:
        """The socket's file descriptor; -1 when it is closed."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """What Twisted's log puts in front of errors."""
        return type(self).__name__
