"""A recording on its way to a browser or a file, no faster than it is taken."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from tailproxy.interfaces import IRecordingFollower
from tailproxy.wire.cast import read_cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.web.server import Request

    from tailproxy.interfaces import IRecordings
    from tailproxy.recordings import Recording
    from tailproxy.wire.cast import CastEvent, CastHeader

# Of what was on the screen before somebody began to look, so much is sent at most.
_BEFORE = 1024 * 1024
_COLUMNS, _ROWS = 80, 24


@implementer(IPushProducer)
class Gate:
    """Lets pass as much as a client takes.

    :ivar gone: whether there is no client any more.
    :ivar release: called when it goes.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._paused = False
        self._waiting: Deferred[None] | None = None
        self.gone = False
        self.release: Callable[[], None] = lambda: None
        request.notifyFinish().addErrback(lambda _: self.stopProducing())
        request.registerProducer(self, streaming=True)

    async def write(self, data: bytes) -> None:
        """Write, and wait until there is room for more."""
        if data and not self.gone:
            self._request.write(data)
        if self._paused and not self.gone:
            self._waiting = Deferred()
            await self._waiting

    def finish(self) -> None:
        """There is no more."""
        if not self.gone:
            self._request.unregisterProducer()
            self._request.finish()

    def pauseProducing(self) -> None:
        """There is no room."""
        self._paused = True

    def resumeProducing(self) -> None:
        """There is."""
        self._paused = False
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(None)

    def stopProducing(self) -> None:
        """The client has gone."""
        if not self.gone:
            self.gone = True
            self.release()
            self.resumeProducing()


async def send_lines(recordings: IRecordings, recording: Recording, gate: Gate) -> None:
    """Send the lines that a recording has by now."""
    offset = 0
    while offset < recording.size and not gate.gone:
        data = await recordings.read(recording.id, offset)
        if not data:
            break
        data = data[: recording.size - offset]
        offset += len(data)
        await gate.write(data)
    gate.finish()


async def send_events(recordings: IRecordings, recording: Recording, gate: Gate) -> None:
    """Send a recording while it is made, as server-sent events (HTML standard, 9.2).

    First comes everything that was on the screen before, as one; then each event at its time; at
    the end an event `done`.
    """
    screen = _Screen()
    offset = 0
    rest = b""
    while offset < recording.size and not gate.gone:
        data = await recordings.read(recording.id, offset)
        if not data:
            break
        offset += len(data)
        whole, end, rest = (rest + data).rpartition(b"\n")
        screen.take(whole + end)
    offset -= len(rest)
    await gate.write(screen.before())
    if gate.gone:
        return
    following = recordings.follow(recording.id, offset, _Follower(gate, screen))
    gate.release = following.cancel
    with suppress(CancelledError):
        await following
    await gate.write(b"event: done\ndata:\n\n")
    gate.finish()


class _Screen:
    """Makes events for the player of lines."""

    def __init__(self) -> None:
        self._header: tuple[CastHeader, bytes] | None = None
        self._size = (_COLUMNS, _ROWS)
        self._shown: list[str] = []
        self._shown_size = 0
        self._seconds = 0.0

    def take(self, lines: bytes) -> None:
        """Remember what was shown."""
        for event in self._events(lines):
            self._seconds = event.seconds
            if event.code == "o":
                self._shown.append(event.data)
                self._shown_size += len(event.data)
            elif event.code == "r":
                self._resize(event.data)
        if self._shown_size > 2 * _BEFORE:
            self._shown = ["".join(self._shown)[-_BEFORE:]]
            self._shown_size = _BEFORE

    def before(self) -> bytes:
        """All of that as one event."""
        columns, rows = self._size
        shown = "".join(self._shown)[-_BEFORE:]
        return _event({"cols": columns, "rows": rows, "time": self._seconds, "init": shown})

    def after(self, lines: bytes) -> bytes:
        """What comes then."""
        sent = []
        for event in self._events(lines):
            value: Any = event.data
            if event.code == "r":
                self._resize(event.data)
                value = dict(zip(("cols", "rows"), self._size, strict=True))
            if event.code in {"o", "r"}:
                sent.append(_event([event.seconds, event.code, value]))
        return b"".join(sent)

    def _events(self, lines: bytes) -> list[CastEvent]:
        split = lines.splitlines(keepends=True)
        if not split:
            return []
        if self._header is None:
            header, events = read_cast(split)
            self._header = (header, split[0])
            if header.width and header.height:
                self._size = (header.width, header.height)
        else:
            header, events = read_cast([self._header[1], *split])
        if header.width:
            return list(events)
        # Without a terminal nothing has made carriage returns of line ends.
        return [_with_returns(event) for event in events]

    def _resize(self, size: str) -> None:
        columns, _, rows = size.partition("x")
        if columns.isdigit() and rows.isdigit() and int(columns) and int(rows):
            self._size = (int(columns), int(rows))


def _with_returns(event: CastEvent) -> CastEvent:
    return type(event)(event.seconds, event.code, event.data.replace("\n", "\r\n"))


def _event(value: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(value, separators=(",", ":")).encode()


@implementer(IRecordingFollower)
class _Follower:
    """Passes on lines as they come."""

    def __init__(self, gate: Gate, screen: _Screen) -> None:
        self._gate = gate
        self._screen = screen

    def recorded(self, lines: bytes) -> Deferred[None]:
        """See `IRecordingFollower.recorded`."""
        return Deferred.fromCoroutine(self._gate.write(self._screen.after(lines)))
