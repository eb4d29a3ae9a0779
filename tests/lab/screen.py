"""A program that draws on the whole terminal, as the person in front of it sees it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pyte

from tests.lab.kubectl import SECONDS, Terminal

if TYPE_CHECKING:
    from tests.lab.kubectl import Kubectl


class Screen(Terminal):
    """A terminal of which the last state counts, not what was written to it on the way."""

    def __init__(self, kubectl: Kubectl, *words: str, rows: int = 40, columns: int = 120) -> None:
        super().__init__(kubectl, *words, rows=rows, columns=columns)
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def text(self) -> str:
        """What is on the screen, without the blank ends of lines."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def shows(self, pattern: str, *, timeout: float = SECONDS) -> str:
        """Wait until a regular expression is found on the screen; what is on it then.

        :raises AssertionError: it is not in *timeout* seconds, or the program ends before.
        """
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.text, re.MULTILINE):
            data = self.read(max(deadline - time.monotonic(), 0))
            if data is None:
                raise AssertionError(f"{self.name} does not show {pattern!r}, but:\n{self.text}")
            if not data:
                raise AssertionError(
                    f"{self.name} ended with status {self.wait()} before it showed {pattern!r}; "
                    f"the terminal shows:\n{self.text}"
                )
            self._stream.feed(data)
        return self.text
