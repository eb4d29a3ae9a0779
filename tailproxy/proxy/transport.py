"""A TCP connection as the data plane wants it: read by the reactor, written to at once.

Twisted's own transports gather what is written and send it when the reactor comes round again,
which costs two system calls and a turn of the loop for each write. Here a write goes straight to
the socket as long as nothing waits in front of it; only what the socket does not take is kept.

The transport is a descriptor of the reactor (`IReactorFDSet`) and to its protocol what Twisted's
are: `connectionMade`, `dataReceived`, `readConnectionLost`, `connectionLost`, producers. (What
`doRead` and `doWrite` return is an exception: Twisted's hints say otherwise, its reactors do not.)
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    IPushProducer,
    IReadDescriptor,
    ITransport,
    IWriteDescriptor,
)
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# What is read in one go.
READ_BYTES = 64 * 1024
# With more than this waiting to be sent, whoever makes it is told to pause.
FULL_BYTES = 64 * 1024

_LINGER = struct.pack("ii", 1, 0)


@implementer(
    IReadDescriptor,
    IWriteDescriptor,
    IHalfCloseableDescriptor,
    ITransport,
    IPushProducer,
    IConsumer,
)
class SocketTransport:
    """One connected socket.

    :param reactor: provides `IReactorFDSet` and `IReactorTime`.
    :param connection: connected and non-blocking; ours from now on.
    :param protocol: gets what arrives. It is connected by `start`.
    :ivar deliver: takes what arrives: the protocol's `dataReceived`, or who gets it from there.
    :ivar connected: whether the protocol has not heard of the end yet.
    :ivar disconnecting: whether `loseConnection` was called.
    """

    __slots__ = (
        "_failed",
        "_offset",
        "_paused_producer",
        "_producer",
        "_reactor",
        "_streaming",
        "_unsent",
        "_unsent_bytes",
        "_write_ended",
        "_writing",
        "connected",
        "deliver",
        "disconnecting",
        "protocol",
        "socket",
    )

    def __init__(self, reactor: Any, connection: socket.socket, protocol: Any) -> None:
        self._reactor = reactor
        self.socket = connection
        self.protocol = protocol
        self.deliver: Callable[[bytes], None] = protocol.dataReceived
        self.connected = False
        self.disconnecting = False
        self._write_ended = False
        self._failed = False
        self._writing = False
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._offset = 0
        self._producer: Any = None
        self._streaming = True
        self._paused_producer = False

    def start(self) -> None:
        """Connect the protocol and begin to read."""
        self.connected = True
        self._reactor.addReader(self)
        self.protocol.makeConnection(self)

    # Reading.

    def doRead(self) -> Any:
        """The socket has something."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return ConnectionLost()
        if not data:
            return ConnectionDone()
        self.deliver(data)
        return None

    def pauseProducing(self) -> None:
        """Read no more until `resumeProducing`."""
        self._reactor.removeReader(self)

    def resumeProducing(self) -> None:
        """Read on."""
        if self.connected and not self.disconnecting:
            self._reactor.addReader(self)

    def stopProducing(self) -> None:
        """Whoever took what we read takes no more."""
        self.loseConnection()

    # Writing.

    @property
    def buffered(self) -> int:
        """Bytes that were written here and that the socket has not taken yet."""
        return self._unsent_bytes - self._offset

    def write(self, data: bytes) -> None:
        """Send bytes: now what the socket takes, the rest as soon as it can."""
        if self._write_ended or self.disconnecting or not self.connected or not data:
            return
        if not self._unsent:
            sent = self._send(data)
            if sent == len(data):
                return
            self._offset = sent
            self._await_writable()
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        if (
            self._producer is not None
            and self._streaming
            and not self._paused_producer
            and self.buffered > FULL_BYTES
        ):
            self._paused_producer = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send several pieces as one."""
        self.write(b"".join(data))

    def _await_writable(self) -> None:
        if not self._writing:
            self._writing = True
            self._reactor.addWriter(self)

    def _send(self, data: bytes | memoryview) -> int:
        """Hand bytes to the socket. How many it took; all of them once it is broken."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return self._broken(len(data))

    def _broken(self, size: int) -> int:
        """The socket takes no more; whoever is writing must not hear of it from within."""
        self._end_soon(ConnectionLost())
        return size

    def _end_soon(self, why: Exception) -> None:
        """End the connection when the reactor comes round again."""
        if not self._failed:
            self._failed = True
            self._reactor.callLater(0, self.connectionLost, Failure(why))

    def doWrite(self) -> Any:
        """The socket takes more."""
        if self._unsent:
            data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
            sent = self._offset + self._send(memoryview(data)[self._offset :])
            if sent < len(data):
                self._unsent, self._unsent_bytes, self._offset = [data], len(data), sent
                return None
            self._unsent, self._unsent_bytes, self._offset = [], 0, 0
        return self._drained()

    def _drained(self) -> Exception | None:
        """Everything is sent: ask for more, or end what was to be ended."""
        producer = self._producer
        if producer is not None and not self._streaming and not self.disconnecting:
            producer.resumeProducing()  # the reactor comes again, until it is unregistered
            return None
        self._writing = False
        self._reactor.removeWriter(self)
        if self.disconnecting:
            return self._close()
        if self._write_ended:
            self._close_writing()
        elif self._paused_producer:
            self._paused_producer = False
            producer.resumeProducing()
        return None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Slow down a producer while the socket takes no more.

        :param streaming: whether it is an `IPushProducer`; an `IPullProducer` is asked for its
            next piece whenever everything is sent.
        :raises RuntimeError: there is one already.
        """
        if self._producer is not None:
            raise RuntimeError("there is a producer already, and it has not finished")
        if not self.connected:
            producer.stopProducing()
            return
        self._producer = producer
        self._streaming = streaming
        self._paused_producer = False
        if not streaming:
            self._await_writable()
        elif self.buffered > FULL_BYTES:
            self._paused_producer = True
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """The producer has finished."""
        self._producer = None
        self._paused_producer = False

    # The end.

    def loseConnection(self) -> None:
        """Close, once everything that was written is sent. Nothing more is read."""
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self._reactor.removeReader(self)
            self._await_writable()

    def loseWriteConnection(self) -> None:
        """Say that nothing more will be written, once everything is sent, and go on reading."""
        if self.connected and not self._write_ended:
            self._write_ended = True
            self._await_writable()

    def abortConnection(self) -> None:
        """Close at once; what was not sent is lost, and the other side sees a reset."""
        if self.connected and not self._failed:
            self.disconnecting = True
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
            self._end_soon(ConnectionAborted())

    def _close(self) -> Exception | None:
        """Everything is sent and nothing more will be."""
        return ConnectionDone()

    def _close_writing(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._broken(0)

    def readConnectionLost(self, reason: Failure) -> None:
        """The other side sends no more. Not every protocol lives on with that."""
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self.protocol.readConnectionLost()
        else:
            self.connectionLost(reason)

    def writeConnectionLost(self, reason: Failure) -> None:
        """Nothing can be written any more."""
        self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        """The end, for whatever reason; once."""
        if not self.connected:
            return
        self.connected = False
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        try:
            if reason.check(ConnectionAborted):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            else:
                self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side has gone already
        self.socket.close()
        self._unsent, self._unsent_bytes, self._offset = [], 0, 0
        producer, self._producer = self._producer, None
        protocol, self.protocol = self.protocol, None
        self.deliver = _ignore
        if producer is not None:
            producer.stopProducing()
        protocol.connectionLost(reason)

    # What the reactor and the curious want to know.

    def fileno(self) -> int:
        """The socket's file descriptor; -1 when it is closed."""
        return self.socket.fileno()

    def logPrefix(self) -> str:
        """What Twisted's log puts in front of errors."""
        return type(self.protocol).__name__

    def getPeer(self) -> IPv4Address | IPv6Address:
        """The other end.

        :raises OSError: it is gone.
        """
        return _address(self.socket.getpeername())

    def getHost(self) -> IPv4Address | IPv6Address:
        """Our end.

        :raises OSError: it is closed.
        """
        return _address(self.socket.getsockname())

    def getHandle(self) -> Any:
        """The socket."""
        return self.socket


def _ignore(data: bytes) -> None:
    """It came too late."""


def _address(name: tuple[Any, ...]) -> IPv4Address | IPv6Address:
    if len(name) == 2:
        return IPv4Address("TCP", *name)
    return IPv6Address("TCP", *name)
