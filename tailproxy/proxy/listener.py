"""Where clients come in. Each kind of listener knows its callers in its own way.

`serve`: behind tailscaled's serve, on a loopback address; a PROXY v2 header, which is required,
says who connects. TLS was ended by tailscaled, or is ended here.
`tailnet`: on the node's own addresses (kernel networking); the socket's peer is the caller.
`loopback`: behind userspace networking without a PROXY header; tailscaled knows which of its
connections came from whom.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

from tailproxy.policy.identity import Caller
from tailproxy.proxy.channel import HTTPChannel
from tailproxy.wire.proxyproto import NEED_DATA, ProxyHeaderReader, ProxyProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.interfaces import IDelayedCall, IListeningPort, IProtocol
    from twisted.python.failure import Failure

    from tailproxy.metrics import Metrics
    from tailproxy.proxy.peer import TailscaledOnly
    from tailproxy.proxy.site import Site
    from tailproxy.proxy.tls import ServerTLS

BACKLOG = 512


class ChannelFactory(Factory[Any]):
    """Makes the HTTP channel of a connection whose caller is known.

    :param tls: ends TLS here; None when tailscaled has done it.
    """

    noisy = False

    def __init__(self, site: Site, listener: str, tls: ServerTLS | None) -> None:
        self.site = site
        self.listener = listener
        self._tls = (
            TLSMemoryBIOFactory(tls, isClient=False, wrappedFactory=self, clock=site.clock)
            if tls is not None
            else None
        )

    def connect(self, caller: Caller) -> IProtocol:
        """The protocol for a connection of that caller."""
        if self._tls is not None:
            # The factory hands its argument through to `buildProtocol`, whatever it is.
            protocol: IProtocol = self._tls.buildProtocol(cast("Any", caller))
            return protocol
        return self.buildProtocol(caller)

    def buildProtocol(self, addr: Any) -> HTTPChannel:
        """A channel; `addr` is the `Caller`, handed through by the TLS factory."""
        return HTTPChannel(self.site, addr, self.listener)


class SocketFactory(Factory[Any]):
    """Takes the caller from the socket.

    :param local: the `loopback` kind.
    """

    noisy = False

    def __init__(self, channels: ChannelFactory, service: str | None, *, local: bool) -> None:
        self._channels = channels
        self._service = service
        self._local = local

    def buildProtocol(self, addr: Any) -> IProtocol:
        """A channel for whoever is at the other end."""
        address = ip_address(addr.host.partition("%")[0])
        return self._channels.connect(Caller(address, addr.port, self._service, self._local))


class ProxyHeaderFactory(Factory[Any]):
    """Takes the caller from a PROXY header (the `serve` kind).

    :param doorkeeper: says which local processes may write one; None believes them all.
    """

    noisy = False

    def __init__(
        self,
        channels: ChannelFactory,
        service: str | None,
        metrics: Metrics,
        doorkeeper: TailscaledOnly | None = None,
    ) -> None:
        self.channels = channels
        self.doorkeeper = doorkeeper
        self.service = service
        self.metrics = metrics

    def stopFactory(self) -> None:
        """No more connections will come."""
        if self.doorkeeper is not None:
            self.doorkeeper.close()

    def buildProtocol(self, addr: Any) -> IProtocol | None:
        """A reader of the header, for peers on this machine only."""
        if not ip_address(addr.host).is_loopback:
            self.metrics.proxy_header_refused.labels("not-loopback").inc()
            return None
        return ProxyHeaderProtocol(self)


class ProxyHeaderProtocol(Protocol):
    """Reads the PROXY header, then makes way for the HTTP channel.

    What is wrong is closed without an answer and counted by reason. For a drain it is a connection
    like those it becomes.
    """

    transport: Any
    long_running = False

    def __init__(self, factory: ProxyHeaderFactory) -> None:
        self._factory = factory
        self._site = factory.channels.site
        self.listener = factory.channels.listener
        self._reader = ProxyHeaderReader()
        self._timer: IDelayedCall | None = None
        self._received = False

    def connectionMade(self) -> None:
        """The header has as long as a request's head."""
        self._site.opened(self)
        doorkeeper = self._factory.doorkeeper
        if doorkeeper is not None and not doorkeeper.admits(self.transport):
            self._refuse("wrong-user")
            return
        self._timer = self._site.clock.callLater(self._site.limits.header_seconds, self._too_late)

    def dataReceived(self, data: bytes) -> None:
        """Read on until the header is complete; what follows it is for the channel."""
        self._received = True
        try:
            source = self._reader.receive_data(data)
        except ProxyProtocolError as error:
            self._refuse(error.reason)
            return
        if source is NEED_DATA:
            return
        self._stop_timer()
        channel = self._factory.channels.connect(
            Caller(source.address, source.port, self._factory.service)
        )
        rest = self._reader.trailing_data
        self.transport.protocol = channel
        channel.makeConnection(self.transport)
        self._site.closed(self)
        if rest:
            channel.dataReceived(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It ended before the header did. One that never said anything is no error: tailscaled
        dials before it knows whether its client means it.
        """
        self._stop_timer()
        self._site.closed(self)
        if self._received:
            self._factory.metrics.proxy_header_refused.labels("eof").inc()

    def drain(self) -> None:
        """One that has said nothing yet is closed; the others have their time."""
        if not self._received:
            self.end_now()

    def end_now(self) -> None:
        """The time for leaving is over."""
        self._received = False
        self.transport.abortConnection()

    def _too_late(self) -> None:
        self._timer = None
        self._refuse("timeout")

    def _refuse(self, reason: str) -> None:
        self._stop_timer()
        self._factory.metrics.proxy_header_refused.labels(reason).inc()
        self.end_now()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Listener(Service):
    """Listens on one port of some addresses.

    :param addresses: literal IP addresses.
    :raises twisted.internet.error.CannotListenError: from `privilegedStartService`; then nothing
        is listening.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, name: str, addresses: Sequence[str], port: int, factory: Factory[Any]
    ) -> None:
        self.setName(f"listener-{name}")
        self._reactor = reactor
        self._addresses = addresses
        self._port = port
        self._factory = factory
        self._ports: list[IListeningPort] = []

    def privilegedStartService(self) -> None:
        """Bind, while we may still bind ports below 1024."""
        super().privilegedStartService()
        try:
            for address in self._addresses:
                self._ports.append(
                    self._reactor.listenTCP(
                        self._port, self._factory, backlog=BACKLOG, interface=address
                    )
                )
        except Exception:
            self.stop_accepting()
            raise

    def startService(self) -> None:
        """Bind, unless that has been done."""
        super().startService()
        if not self._ports:
            self.privilegedStartService()
        for port in self._ports:
            self._log.info("{name} listens on {address}", name=self.name, address=port.getHost())

    @property
    def bound(self) -> list[Any]:
        """The addresses it listens on."""
        return [port.getHost() for port in self._ports]

    def stop_accepting(self) -> Deferred[Any]:
        """Take no new connections; those that are open go on."""
        ports, self._ports = self._ports, []
        return DeferredList([maybeDeferred(port.stopListening) for port in ports])

    def stopService(self) -> Deferred[Any]:
        """Stop listening."""
        super().stopService()
        return self.stop_accepting()
