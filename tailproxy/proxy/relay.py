"""Joins two streams: what arrives at one leaves at the other, byte for byte (design rule 4).

Each side is the producer of the other: when one reads slowly, the other is not read. Nothing is
kept here; what is under way is in the two transports' write buffers, which are bounded.

When one side sends no more but still reads, that is passed on, and the other direction goes on for
as long as something moves there. Only plain clients can be heard to do so: over TLS a
close_notify is taken for the end of both directions (`tlstransport`), and then both sides are
closed once what came has been delivered, as the API server's own proxy does.

A session ends inside its protocol before its connections do, and then either end may close first.
We let the client: whoever closes first keeps the pair of ports for a minute (TIME-WAIT, RFC 9293,
3.6.1), and a userspace tailscaled that keeps it does not answer a client that takes the same port
again, which then hangs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from tailproxy.interfaces import IRecordedSession, IStreamReceiver

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from tailproxy.interfaces import IRecording, IStream

# How long the other direction may be silent after one has ended.
HALF_CLOSED_SECONDS = 30.0
# How long the client may take to close after the API server has.
PARTING_SECONDS = 0.5
# How long either side may take to read its last bytes and to accept the end.
GOODBYE_SECONDS = 30.0


@implementer(IStreamReceiver, IPushProducer)
class _Direction:
    """One way through the relay: from a stream to the other side's transport."""

    __slots__ = ("_relay", "_sink", "_source", "bytes", "ended")

    def __init__(self, relay: Relay, source: Any, sink: Any) -> None:
        self._relay = relay
        self._source = source
        self._sink = sink
        self.bytes = 0
        self.ended = False

    def stream_data(self, data: bytes) -> None:
        self.bytes += len(data)
        self._relay.moved = True
        self._sink.write(data)

    def stream_half_closed(self) -> None:
        if not self.ended:
            self.ended = True
            self._relay.half_closed(self._sink)

    def stream_lost(self) -> None:
        self.ended = True
        self._relay.lost(self._sink)

    def pauseProducing(self) -> None:
        self._source.pauseProducing()

    def resumeProducing(self) -> None:
        self._source.resumeProducing()

    def stopProducing(self) -> None:
        """The sink is gone; its stream says so as well."""


class _RecordedUp(_Direction):
    """What the client says; it is recorded before it is passed on."""

    __slots__ = ("_recording",)

    def __init__(self, relay: Relay, source: Any, sink: Any, recording: IRecording) -> None:
        super().__init__(relay, source, sink)
        self._recording = recording

    def stream_data(self, data: bytes) -> None:
        if not self._relay.cut_off:
            self._recording.up(data)
            if not self._relay.cut_off:
                super().stream_data(data)


class _RecordedDown(_Direction):
    """What the API server says. It is not read while the client or the recorder is slow."""

    __slots__ = ("_full", "_recording", "_slow")

    def __init__(self, relay: Relay, source: Any, sink: Any, recording: IRecording) -> None:
        super().__init__(relay, source, sink)
        self._recording = recording
        self._slow = False
        self._full = False

    def stream_data(self, data: bytes) -> None:
        if not self._relay.cut_off:
            self._pass_on(self._recording.down(data))

    def _pass_on(self, data: bytes) -> None:
        if data and not self._relay.cut_off:
            super().stream_data(data)

    def stream_half_closed(self) -> None:
        self._pass_on(self._recording.rest())
        super().stream_half_closed()

    def stream_lost(self) -> None:
        self._pass_on(self._recording.rest())
        super().stream_lost()

    def pauseProducing(self) -> None:
        self._slow = True
        self._source.pauseProducing()

    def resumeProducing(self) -> None:
        self._slow = False
        if not self._full:
            self._source.resumeProducing()

    def hold(self) -> None:
        self._full = True
        self._source.pauseProducing()

    def go_on(self) -> None:
        self._full = False
        if not self._slow:
            self._source.resumeProducing()


class Relay:
    """Two streams as one.

    :param client: the client's end.
    :param upstream: the API server's end.
    :param ended: called once, with the bytes that went up and down, when both are gone or going.
    :ivar cut_off: whether nothing is passed on any more.
    """

    def __init__(
        self,
        client: IStream,
        upstream: IStream,
        clock: IReactorTime,
        ended: Callable[[int, int], None],
    ) -> None:
        self._clock = clock
        self._ended: Callable[[int, int], None] | None = ended
        self._transports = (client.transport, upstream.transport)
        self.cut_off = False
        self._up = self._direction_up()
        self._down = self._direction_down()
        self._client = client
        self._upstream = upstream
        self._timer: IDelayedCall | None = None
        self._present = 2
        self.moved = False

    def _direction_up(self) -> _Direction:
        client, upstream = self._transports
        return _Direction(self, client, upstream)

    def _direction_down(self) -> _Direction:
        client, upstream = self._transports
        return _Direction(self, upstream, client)

    def start(self, early: bytes) -> None:
        """Begin to copy.

        :param early: what the API server sent right behind its 101.
        """
        client, upstream = self._transports
        if not self.cut_off:  # as where its recorder was lost before it began
            upstream.registerProducer(self._up, True)
            client.registerProducer(self._down, True)
        if early:
            self._down.stream_data(early)
        self._upstream.deliver_to(self._down)
        self._client.deliver_to(self._up)

    def half_closed(self, sink: Any) -> None:
        """One side sends no more: say so to the other, and wait for its last words."""
        if self._up.ended and self._down.ended:
            self.close()
        elif sink is self._client.transport:
            self._timer = self._clock.callLater(PARTING_SECONDS, self._pass_on_end, sink)
        else:
            self._pass_on_end(sink)

    def _pass_on_end(self, sink: Any) -> None:
        sink.unregisterProducer()
        sink.loseWriteConnection()
        self._await_silence()

    def _await_silence(self) -> None:
        self.moved = False
        self._timer = self._clock.callLater(HALF_CLOSED_SECONDS, self._silent)

    def _silent(self) -> None:
        self._timer = None
        if self.moved:
            self._await_silence()
        else:
            self.close()

    def lost(self, survivor: Any) -> None:
        """One side is gone.

        :param survivor: the other side's transport.
        """
        self._present -= 1
        if not self._present:
            self._stop_timer()
            self._finish()
        elif survivor is self._client.transport and self._ended is not None:
            self._finish()
            self._timer = self._clock.callLater(PARTING_SECONDS, self._hang_up)
        else:
            self.close()

    def close(self) -> None:
        """End both sides, each after what was written to it has been delivered."""
        if self._ended is not None:
            self._finish()
            self._hang_up()

    def _finish(self) -> None:
        """Neither side sends anything that would matter any more."""
        ended, self._ended = self._ended, None
        if ended is None:
            return
        self._stop_timer()
        for transport in self._transports:
            transport.unregisterProducer()
            # A paused transport would not notice that its peer says goodbye.
            transport.resumeProducing()
        ended(self._up.bytes, self._down.bytes)

    def _hang_up(self) -> None:
        for transport in self._transports:
            transport.loseConnection()
        # Somebody who does not read our last bytes must not keep the connection for ever.
        self._timer = self._clock.callLater(GOODBYE_SECONDS, self._abort)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _abort(self) -> None:
        self._timer = None
        for transport in self._transports:
            transport.abortConnection()


@implementer(IRecordedSession)
class RecordedRelay(Relay):
    """Two streams as one, and somebody who is told everything first.

    :param recording: is told.
    """

    def __init__(
        self,
        client: IStream,
        upstream: IStream,
        clock: IReactorTime,
        ended: Callable[[int, int], None],
        recording: IRecording,
    ) -> None:
        self._recording = recording
        super().__init__(client, upstream, clock, ended)

    def _direction_up(self) -> _Direction:
        client, upstream = self._transports
        return _RecordedUp(self, client, upstream, self._recording)

    def _direction_down(self) -> _Direction:
        client, upstream = self._transports
        self._recorded = _RecordedDown(self, upstream, client, self._recording)
        return self._recorded

    def hold(self) -> None:
        """See `IRecordedSession.hold`."""
        self._recorded.hold()

    def go_on(self) -> None:
        """See `IRecordedSession.go_on`."""
        self._recorded.go_on()

    def cut(self, farewell: bytes) -> None:
        """See `IRecordedSession.cut`."""
        if not self.cut_off:
            self.cut_off = True
            if farewell:
                self._client.transport.write(farewell)
            self.close()
