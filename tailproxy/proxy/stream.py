"""Connections that have become plain streams of bytes, after an upgrade.

Both ends of a relay look alike: a transport, and somebody who takes what arrives. What arrives
before there is somebody is kept, and the transport is told to wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zope.interface import implementer

from tailproxy.interfaces import IStream

if TYPE_CHECKING:
    from tailproxy.interfaces import IStreamReceiver


@implementer(IStream)
class Stream:
    """One end of an upgraded connection.

    :param transport: of the connection.
    :param early: what came before the upgrade was answered; it is delivered first.
    """

    __slots__ = ("_early", "_half_closed", "_lost", "_receiver", "transport")

    def __init__(self, transport: Any, early: bytes = b"") -> None:
        self.transport = transport
        self._early = early
        self._receiver: IStreamReceiver | None = None
        self._half_closed = False
        self._lost = False

    def deliver_to(self, receiver: IStreamReceiver) -> None:
        """From now on the bytes go there, first those that came early."""
        # Before anything is delivered, so that a receiver that wants to wait has the last word.
        if not self._half_closed:
            self.transport.resumeProducing()
        self._receiver = receiver
        self.transport.deliver = receiver.stream_data
        early, self._early = self._early, b""
        if early:
            receiver.stream_data(early)
        if self._half_closed:
            receiver.stream_half_closed()
        if self._lost:
            receiver.stream_lost()

    def data(self, data: bytes) -> None:
        """The connection has read something."""
        if self._receiver is None:
            self._early += data
            self.transport.pauseProducing()
        else:
            self._receiver.stream_data(data)

    def half_closed(self) -> None:
        """The other side will send no more."""
        self._half_closed = True
        if self._receiver is not None:
            self._receiver.stream_half_closed()

    def lost(self) -> None:
        """The connection is gone."""
        self._lost = True
        if self._receiver is not None:
            self._receiver.stream_lost()
