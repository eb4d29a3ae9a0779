"""One port for two protocols: the first bytes say which it is (RFC 9113, 3.3 and 3.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Protocol, connectionDone

from tailproxy.recorder.http2 import HTTP2Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall, IProtocol
    from twisted.python.failure import Failure

    from tailproxy.policy.identity import Caller
    from tailproxy.recorder.http2 import Connections
    from tailproxy.recorder.intake import Intake

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class FirstBytes(Protocol):
    """A connection that has not said yet which protocol it speaks.

    :param plain: makes the one for HTTP/1.1.
    :param seconds: how long the first bytes may take.
    """

    transport: Any
    long_running = False

    def __init__(
        self,
        intake: Intake,
        plain: Callable[[Any, Caller, str], IProtocol],
        seconds: float,
        connections: Connections,
        caller: Caller,
        listener: str,
    ) -> None:
        self.listener = listener
        self._intake = intake
        self._plain = plain
        self._seconds = seconds
        self._connections = connections
        self._caller = caller
        self._data = b""
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Wait for them."""
        self._connections.opened(self)
        self._timer = self._connections.clock.callLater(self._seconds, self.end_now)

    def dataReceived(self, data: bytes) -> None:
        """Look at them; as soon as they are clear, the right protocol goes on."""
        self._data += data
        if len(self._data) < len(_PREFACE) and _PREFACE.startswith(self._data):
            return
        protocol: Any
        if self._data.startswith(_PREFACE):
            protocol = HTTP2Connection(self._intake, self._connections, self._caller, self.listener)
        else:
            protocol = self._plain(self._connections, self._caller, self.listener)
        transport = self.transport
        transport.protocol = protocol
        transport.deliver = protocol.dataReceived
        protocol.makeConnection(transport)
        self._end()
        protocol.dataReceived(self._data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It has gone before it said anything of use."""
        self._end()

    def drain(self) -> None:
        """Nothing was begun."""
        self.end_now()

    def end_now(self) -> None:
        """The time is over."""
        self.transport.loseConnection()

    def _end(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._connections.closed(self)
