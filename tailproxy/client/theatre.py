"""A recording played in a terminal, with keys."""

from __future__ import annotations

import os
import re
import select
import termios
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tailproxy.client.playback import Playback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tailproxy.wire.cast import CastEvent, CastHeader

KEYS = "space: pause or go on; . one step; ] to the next marker; + - speed; q: end"

# What terminals say by themselves when the recording asks them: reports, not keys.
_REPORT = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\)|O.|.|$)", re.ASCII | re.DOTALL
)
# Whatever a recording may have left on: colours, a hidden cursor, keys and mouse of applications,
# bracketed paste, a scrolling region.
_ORDER = "\x1b[0m\x1b[?25h\x1b[?1l\x1b>\x1b[?1000;1002;1003;1006l\x1b[?2004l\x1b7\x1b[r\x1b8\r\n"
_OTHER_SCREEN = re.compile(r"\x1b\[\?(?:1049|1047|47)([hl])")
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", re.ASCII)
_CHUNK = 1024


class Keyboard:
    """The keys of a terminal.

    :param terminal: its file descriptor; None where there is none, and no key is ever pressed.
    """

    def __init__(self, terminal: int | None) -> None:
        self._terminal = terminal

    def keys(self, seconds: float | None) -> str:
        """What is pressed next, within some seconds if they are named."""
        if self._terminal is None:
            time.sleep(seconds or 0)
            return ""
        if not select.select([self._terminal], [], [], seconds)[0]:
            return ""
        read = os.read(self._terminal, _CHUNK)
        # Without a terminal to read from there is nobody who could go on.
        return _REPORT.sub("", read.decode(errors="replace")) if read else "q"

    @contextmanager
    def raw(self, *, output: bool) -> Iterator[None]:
        """Have each key as it is pressed, and none of them shown.

        :param output: whether the terminal shall take what is written as it is, too.
        """
        if self._terminal is None:
            yield
            return
        before = termios.tcgetattr(self._terminal)
        mode: list[Any] = list(before)
        mode[0] &= ~(termios.ICRNL | termios.IXON)
        mode[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
        if output:
            mode[1] &= ~termios.OPOST
        termios.tcsetattr(self._terminal, termios.TCSADRAIN, mode)
        try:
            yield
        finally:
            termios.tcsetattr(self._terminal, termios.TCSADRAIN, before)


class Theatre:
    """Plays one recording.

    :param write: puts text on the terminal, at once.
    :ivar sizes: those that the terminal of the recording had, columns and rows, in order.
    """

    def __init__(
        self,
        header: CastHeader,
        events: Iterator[CastEvent],
        keyboard: Keyboard,
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keyboard = keyboard
        self._events = events
        self._write = write
        self._clock = clock
        self._other_screen = False
        self._tail = ""
        self._terminal = bool(header.width and header.height)
        self.sizes: list[tuple[int, int]] = []
        if self._terminal:
            self.sizes.append((header.width, header.height))

    def play(self, speed: float, idle: float | None) -> None:
        """Play it to its end, or until somebody has enough.

        :param speed: see `Playback`.
        :param idle: see `Playback`.
        :raises CastError: an event cannot be read. What was before it has been shown.
        """
        with self._keyboard.raw(output=self._terminal):
            try:
                self._run(Playback(self._events, self._clock(), speed=speed, idle=idle))
            finally:
                if self._terminal:
                    self._write(("\x1b[?1049l" if self._other_screen else "") + _ORDER)

    def _run(self, playback: Playback) -> None:
        while True:
            self._show(playback.take(self._clock()))
            if playback.ended:
                return
            for key in self._keyboard.keys(playback.wait(self._clock())):
                now = self._clock()
                match key:
                    case " ":
                        playback.pause(now, paused=not playback.paused)
                    case ".":
                        playback.pause(now, paused=True)
                        self._show(playback.step(now))
                    case "]":
                        self._show(playback.to_marker(now))
                    case "+":
                        playback.change_speed(now, 2)
                    case "-":
                        playback.change_speed(now, 0.5)
                    case "q" | "\x03" | "\x04":
                        return

    def _show(self, events: Iterator[CastEvent]) -> None:
        for event in events:
            if event.code == "o":
                self._write(event.data)
                # One that is cut in two counts as well.
                for found in _OTHER_SCREEN.finditer(self._tail + event.data):
                    self._other_screen = found[1] == "h"
                self._tail = event.data[-8:]
            elif event.code == "r" and (size := _SIZE.fullmatch(event.data)):
                self.sizes.append((int(size[1]), int(size[2])))


def too_small(sizes: list[tuple[int, int]], columns: int, rows: int) -> str:
    """Say that a terminal cannot show what was recorded; empty if it can.

    :param sizes: `Theatre.sizes`.
    """
    widest = max((width for width, _ in sizes), default=0)
    highest = max((height for _, height in sizes), default=0)
    if widest <= columns and highest <= rows:
        return ""
    return (
        f"recorded in a terminal of {widest}x{highest}, and this one has {columns}x{rows}, so it "
        "may not look as it did"
    )
