"""Getting a connection to the API server: TCP, then TLS, then the look at its name.

An address is dialled by a bare socket. A name needs more, which Twisted has: looking it up, and
trying several addresses side by side (RFC 8305).
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, DNSLookupError, getConnectError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IWriteDescriptor
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tailproxy.errors import UpstreamError
from tailproxy.proxy.connection import ServerVerification, UpstreamConnection, is_address
from tailproxy.proxy.keepalive import watch_peer
from tailproxy.proxy.tlstransport import TLSTransport

if TYPE_CHECKING:
    from OpenSSL import SSL
    from twisted.internet.interfaces import IDelayedCall

    from tailproxy.interfaces import IClusterAccess
    from tailproxy.proxy.exchange import Exchange
    from tailproxy.proxy.upstream import Upstream


class Dial:
    """One attempt to get a connection for an exchange."""

    _log = Logger()

    def __init__(
        self,
        upstream: Upstream,
        exchange: Exchange,
        context: SSL.Context,
        key: object,
        access: IClusterAccess,
    ) -> None:
        self._upstream = upstream
        self._exchange = exchange
        self._key = key
        self._host: str = access.host
        self._port: int = access.port
        self._verification = ServerVerification(context, access.server_name, upstream.session)
        self._connecting: Deferred[Any] | None = None
        self._connection: UpstreamConnection | None = None
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Connect. What follows is told to the exchange."""
        reactor, limit = self._upstream.clock, self._upstream.limits.connect_seconds
        self._upstream.dialling(self)
        if is_address(self._host):
            self._connecting = _Connecting(reactor, self._host, self._port, limit).connected
        else:
            name = self._host.encode("ascii" if self._host.isascii() else "idna")
            endpoint = HostnameEndpoint(reactor, name, self._port, timeout=limit)
            found: Deferred[Any] = endpoint.connect(_FACTORY)
            self._connecting = found.addCallback(lambda protocol: protocol.socket)
        self._connecting.addCallback(self._secure).addErrback(self._not_connected)

    def cancel(self) -> None:
        """The service ends."""
        error = UpstreamError(503, "connect", "the service is being stopped")
        if self._connection is not None:
            self._connection.give_up(error)
        elif self._connecting is not None:
            self._connecting.cancel()

    def _secure(self, connected: socket.socket) -> None:
        """There is a socket: begin TLS on it."""
        self._connecting = None
        limits = self._upstream.limits
        connection = self._connection = UpstreamConnection(
            self._key, self._verification, self._ready, self._failed, self._upstream.closed
        )
        self._upstream.opened(connection)
        self._timer = self._upstream.clock.callLater(
            limits.handshake_seconds,
            connection.give_up,
            UpstreamError(504, "connect", "its TLS handshake takes too long"),
        )
        watch_peer(connected)
        tls = self._verification.connect(connected)
        TLSTransport(self._upstream.clock, connected, connection, tls).start()

    def _end(self) -> None:
        self._upstream.dialled(self)
        if self._timer is not None:
            _cancel(self._timer)

    def _ready(self, connection: UpstreamConnection) -> None:
        self._end()
        self._upstream.verified(connection)
        if self._exchange.done:
            self._upstream.release(connection, reusable=True)
        else:
            self._exchange.connected(connection)

    def _failed(self, error: UpstreamError) -> None:
        self._end()
        self._exchange.failed(error, answered=False)

    def _not_connected(self, failure: Failure) -> None:
        where = f"{self._host}:{self._port}"
        if failure.check(ConnectTimeout):
            error = UpstreamError(504, "connect", f"no answer from {where}")
        elif failure.check(DNSLookupError):
            error = UpstreamError(502, "connect", f"its name {self._host} is unknown")
        elif failure.check(ConnectError):
            error = UpstreamError(502, "connect", f"cannot connect to {where}: {failure.value}")
        elif failure.check(CancelledError):
            error = UpstreamError(503, "connect", "the service is being stopped")
        else:
            self._log.failure("cannot dial {where}", failure, where=where)
            error = UpstreamError(502, "connect", f"cannot connect to {where}")
        self._failed(error)


@implementer(IWriteDescriptor)
class _Connecting:
    """A socket on its way to an address.

    :param connected: fires with the socket; cancelling it gives up.
    """

    def __init__(self, reactor: Any, address: str, port: int, seconds: float) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._reactor = reactor
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self.connected: Deferred[socket.socket] = Deferred(lambda _: self._give_up())
        self._timer: IDelayedCall = reactor.callLater(seconds, self._too_late)
        reactor.addWriter(self)
        code = self._socket.connect_ex((address, port))
        if code not in {0, errno.EINPROGRESS}:
            reactor.callLater(0, self._fail, _error(code))

    def doWrite(self) -> None:
        """It has come somewhere, or nowhere."""
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(_error(code))
        else:
            self._end()
            self.connected.callback(self._socket)

    def connectionLost(self, reason: Failure) -> None:
        """It has come nowhere."""
        self.doWrite()

    def _too_late(self) -> None:
        self._fail(ConnectTimeout())

    def _fail(self, error: Exception) -> None:
        if not self.connected.called:
            self._give_up()
            self.connected.errback(Failure(error))

    def _give_up(self) -> None:
        self._end()
        self._socket.close()

    def _end(self) -> None:
        self._reactor.removeWriter(self)
        if self._timer.active():
            self._timer.cancel()

    def fileno(self) -> int:
        """The socket's file descriptor; -1 when it is closed."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """What Twisted's log puts in front of errors."""
        return type(self).__name__


class _Connected(Protocol):
    """Takes the socket of a connection over from Twisted."""

    transport: Any
    socket: socket.socket

    def connectionMade(self) -> None:
        """The reactor forgets its transport, and the socket is ours."""
        self.transport.stopReading()
        self.socket = self.transport.getHandle()


_FACTORY = Factory.forProtocol(_Connected)
_FACTORY.noisy = False


def _error(code: int) -> Exception:
    error: Exception = getConnectError((code, os.strerror(code)))
    return error


def _cancel(timer: IDelayedCall) -> None:
    if timer.active():
        timer.cancel()
