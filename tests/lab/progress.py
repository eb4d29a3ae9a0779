"""How the lab shows what it is doing: a live line on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds between two lines of one step where there is no terminal: signs of life for a log.
LOG_EVERY = 30.0
TERMINAL_EVERY = 0.5


class Progress:
    """Shows steps on a stream.

    :param stream: standard error by default.
    :param log_every: see `LOG_EVERY`.
    """

    def __init__(self, stream: TextIO | None = None, log_every: float = LOG_EVERY) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._every = TERMINAL_EVERY if self._live else log_every
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """One line, with the seconds since this object was made."""
        self._write(f"[{time.monotonic() - self._start:5.1f} s] {text}\n")

    @contextmanager
    def step(self, what: str, number: int, count: int) -> Iterator[None]:
        """Show that step *number* of *count* goes on, and for how long, until the block ends."""
        start = time.monotonic()
        ended = threading.Event()

        def line() -> str:
            seconds = int(time.monotonic() - start)
            return f"[{number}/{count}] {what}: {seconds // 60}:{seconds % 60:02d}"

        def show() -> None:
            while True:
                self._write(f"\r{line()}\x1b[K" if self._live else f"{line()}\n")
                if ended.wait(self._every):
                    return

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        result = "failed"
        try:
            yield
            result = "done"
        finally:
            ended.set()
            thread.join()
            start_of_line = "\r" if self._live else ""
            self._write(f"{start_of_line}{line()} {result}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
