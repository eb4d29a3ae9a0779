"""When each event of a recording is shown: speed, pauses, steps, markers. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tailproxy.wire.cast import CastEvent

SLOWEST, FASTEST = 1 / 64, 64.0
"""What `Playback.speed` can be."""


class Playback:
    """A recording that is being played.

    Time is a clock's, in seconds; where it stands in the recording counts without what `idle` cuts
    out of it.

    :param events: in their order; read no further than they are needed.
    :param speed: so many seconds of the recording go by in one of the clock's.
    :param idle: between two events no more than so many seconds go by; None for as many as did.
    :ivar paused: whether it stands still.
    :ivar ended: whether all events have been given.
    """

    def __init__(
        self,
        events: Iterator[CastEvent],
        now: float,
        *,
        speed: float = 1.0,
        idle: float | None = None,
    ) -> None:
        self.paused = False
        self._events = events
        self._idle = idle
        self._speed = speed
        self._position = 0.0  # at the time of _seen
        self._seen = now
        self._recorded = 0.0  # of the last event that was read, as it is written there
        self._due = 0.0  # of the next one, as a position
        self._next: CastEvent | None = None
        self._read()

    @property
    def ended(self) -> bool:
        """Whether there are no more events."""
        return self._next is None

    @property
    def speed(self) -> float:
        """How fast it plays."""
        return self._speed

    def change_speed(self, now: float, factor: float) -> None:
        """Play faster or slower from now on."""
        self._settle(now)
        self._speed = min(max(self._speed * factor, SLOWEST), FASTEST)

    def pause(self, now: float, *, paused: bool) -> None:
        """Stand still, or go on."""
        self._settle(now)
        self.paused = paused

    def wait(self, now: float) -> float | None:
        """Seconds until the next event is due; None while it stands still."""
        if self.paused:
            return None
        self._settle(now)
        return max(self._due - self._position, 0.0) / self._speed

    def take(self, now: float) -> Iterator[CastEvent]:
        """The events that are due."""
        self._settle(now)
        while self._next is not None and not self.paused and self._due <= self._position:
            yield self._pop()

    def step(self, now: float) -> Iterator[CastEvent]:
        """Everything up to the next output, at once."""
        return self._skip(now, "o")

    def to_marker(self, now: float) -> Iterator[CastEvent]:
        """Everything up to the next marker, at once; up to the end if there is none."""
        return self._skip(now, "m")

    def _skip(self, now: float, code: str) -> Iterator[CastEvent]:
        while self._next is not None:
            self._seen, self._position = now, self._due
            event = self._pop()
            yield event
            if event.code == code:
                return

    def _settle(self, now: float) -> None:
        if not self.paused:
            self._position += (now - self._seen) * self._speed
        self._seen = now

    def _pop(self) -> CastEvent:
        event = self._next
        if event is None:
            raise IndexError("there are no more events")
        self._read()
        return event

    def _read(self) -> None:
        self._next = next(self._events, None)
        if self._next is not None:
            gap = max(self._next.seconds - self._recorded, 0.0)
            self._recorded = max(self._next.seconds, self._recorded)
            self._due += gap if self._idle is None else min(gap, self._idle)
