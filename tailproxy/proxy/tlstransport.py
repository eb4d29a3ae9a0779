"""TLS over a socket of our own: OpenSSL reads and writes the socket itself.

Twisted's TLS goes through memory: each byte is copied once more on its way in and out, and each
record costs several calls. Here `OpenSSL.SSL.Connection` is bound to the socket.

Ends are told as Twisted's TLS tells them: a close_notify is a `ConnectionDone`, a connection that
ends without one a `ConnectionLost` (RFC 8446, 6.1: it may have been cut off), and whatever else
goes wrong is the `OpenSSL.SSL.Error` itself. After a close_notify of the other side we send what
is still to be sent, say goodbye as well, and close.
"""

from __future__ import annotations

from socket import IPPROTO_TCP, TCP_CORK
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener

from tailproxy.proxy.transport import SocketTransport

if TYPE_CHECKING:
    import socket

    from twisted.python.failure import Failure

# The longest plaintext of a record (RFC 8446, 5.1). A read of that size leaves nothing behind in
# OpenSSL that the reactor could not see in the socket.
_RECORD_BYTES = 16 * 1024
# Behind a record of that size there is probably another one. Behind a small one there is none,
# and to find that out costs as much as half a turn of the reactor.
_LARGE_BYTES = 4096
# Records that are read in one go, and passed on as one.
_RECORDS = 8


class TLSTransport(SocketTransport):
    """One TLS connection.

    :param tls: in accept or connect state, bound to `connection`.
    """

    __slots__ = ("_goodbye_heard", "_goodbye_said", "_shaking", "_tls")

    def __init__(
        self, reactor: Any, connection: socket.socket, protocol: Any, tls: SSL.Connection
    ) -> None:
        super().__init__(reactor, connection, protocol)
        self._tls = tls
        self._shaking = True
        self._goodbye_said = False
        self._goodbye_heard = False

    def start(self) -> None:
        """Connect the protocol and begin the handshake: a client speaks first."""
        super().start()
        end = self._shake()
        if end is not None:
            self._end_soon(end)

    def doRead(self) -> Any:
        """The socket has something."""
        if self._shaking:
            end = self._shake()
            if end is not None or self._still_shaking or not self.connected:
                return end
            # Its first words come in the same breath as the end of a client's handshake.
        return self._receive()

    @property
    def _still_shaking(self) -> bool:
        return self._shaking

    def _receive(self) -> Any:
        receive = self._tls.recv
        records: list[bytes] = []
        end: Exception | None = None
        try:
            while True:
                record = receive(_RECORD_BYTES)
                records.append(record)
                if len(record) < _LARGE_BYTES or len(records) == _RECORDS:
                    break
        except SSL.WantReadError:
            pass
        except SSL.WantWriteError:
            self._await_writable()  # a key update has to be answered (RFC 8446, 4.6.3)
        except SSL.ZeroReturnError:
            end = ConnectionDone()
        except SSL.SysCallError:
            end = ConnectionLost()
        except SSL.Error as error:
            end = error
        if records and not self.disconnecting:
            self.deliver(records[0] if len(records) == 1 else b"".join(records))
        return None if end is None else self._ended(end)

    def _ended(self, end: Exception) -> Exception | None:
        if not self.connected:
            return None
        if not isinstance(end, ConnectionDone) or self._goodbye_said:
            return end
        self._goodbye_heard = True
        self.disconnecting = True
        if not self._unsent:
            return self._close()
        self._reactor.removeReader(self)
        self._await_writable()
        return None

    def resumeProducing(self) -> None:
        """Read on, also to see the other side's goodbye after ours."""
        if self.connected and not self._goodbye_heard:
            self._reactor.addReader(self)

    def _shake(self) -> Exception | None:
        """Go on with the handshake."""
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            if self._writing:
                self._writing = False
                self._reactor.removeWriter(self)
            return None
        except SSL.WantWriteError:
            self._await_writable()
            return None
        except SSL.SysCallError:
            return ConnectionLost()
        except SSL.Error as error:
            return error
        self._shaking = False
        if IHandshakeListener.providedBy(self.protocol):
            self.protocol.handshakeCompleted()
        if self._unsent:
            self._await_writable()
        return None

    def doWrite(self) -> Any:
        """The socket takes more."""
        return self._shake() if self._shaking else super().doWrite()

    def _send(self, data: bytes | memoryview) -> int:
        if self._shaking:
            return 0
        size = len(data)
        try:
            if size > _RECORD_BYTES:
                return self._send_records(memoryview(data))
            return self._tls.send(data)
        except (SSL.WantWriteError, SSL.WantReadError):
            return 0
        except SSL.Error:
            return self._broken(size)

    def _send_records(self, data: memoryview) -> int:
        """Send what takes several records. They leave together, for each segment wakes the other
        side.
        """
        send = self._tls.send
        self.socket.setsockopt(IPPROTO_TCP, TCP_CORK, 1)
        sent = 0
        try:
            while sent < len(data):
                sent += send(data[sent : sent + _RECORD_BYTES])
        except (SSL.WantWriteError, SSL.WantReadError):
            pass
        self.socket.setsockopt(IPPROTO_TCP, TCP_CORK, 0)
        return sent

    def loseConnection(self) -> None:
        """Say goodbye, once everything that was written is sent, and close when the other side
        has said so too. Nothing more is delivered. In the middle of a handshake there is nobody
        to talk to yet.
        """
        if not self.connected or self.disconnecting:
            return
        if self._shaking and not self._unsent:
            self.abortConnection()
            return
        self.disconnecting = True
        self._reactor.addReader(self)
        self._await_writable()

    def _close(self) -> Exception | None:
        self._say_goodbye()
        return ConnectionDone() if self._goodbye_heard else None

    def _close_writing(self) -> None:
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        if self._goodbye_said or self._failed:
            return
        self._goodbye_said = True
        try:
            if self._tls.shutdown():
                self._goodbye_heard = True
        except SSL.Error:
            self._broken(0)

    def connectionLost(self, reason: Failure) -> None:
        """The end, for whatever reason; once."""
        if self.connected:
            # OpenSSL resumes no session of a connection that ended without a goodbye, as ours to
            # the API server do whenever a client has gone.
            self._tls.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        super().connectionLost(reason)

    def readConnectionLost(self, reason: Failure) -> None:
        """There are no half-closed TLS connections here."""
        self.connectionLost(reason)

    def getHandle(self) -> SSL.Connection:
        """The TLS connection."""
        return self._tls
