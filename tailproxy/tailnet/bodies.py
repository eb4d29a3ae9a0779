"""Bodies of answers that go on, one line after another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

if TYPE_CHECKING:
    from collections.abc import Callable


class LineStream:
    """An answer that goes on, one line after another.

    :param hang_up: ends the connection.
    :param limit: bytes of the longest line.
    """

    def __init__(self, hang_up: Callable[[], None], limit: int) -> None:
        self._hang_up = hang_up
        self._limit = limit
        self._rest: list[bytes] = []
        self._size = 0
        self._closed = False
        self._ended = False
        self._reason: str | None = None
        self._on_line: Callable[[bytes], None] | None = None
        self._finished: Deferred[str | None] = Deferred(lambda _: self.close())

    def follow(self, on_line: Callable[[bytes], None]) -> Deferred[str | None]:
        """Begin to read.

        :param on_line: called with each line, without its end.
        :returns: fires at the end of the stream: with why it ended, or with ``None`` after
            `close`. Cancelling it closes the stream.
        """
        self._on_line = on_line
        early, self._rest, self._size = b"".join(self._rest), [], 0
        self.receive(early)
        if self._ended:
            self._finish()
        return self._finished

    def close(self) -> None:
        """Want no more lines."""
        if not self._closed:
            self._closed = True
            self._hang_up()

    def receive(self, data: bytes) -> None:
        """Split what came into lines; an over-long one ends the stream."""
        if self._on_line is None or b"\n" not in data:
            self._keep(data)
            return
        first, *lines, rest = data.split(b"\n")
        whole = b"".join((*self._rest, first))
        self._rest, self._size = [], 0
        for line in (whole, *lines):
            if line and not self._closed:
                self._on_line(line)
        self._keep(rest)

    def _keep(self, data: bytes) -> None:
        self._rest.append(data)
        self._size += len(data)
        if self._size > self._limit and not self._closed:
            self._reason = f"tailscaled sent a message of more than {self._limit} bytes"
            self.close()

    def end(self) -> None:
        """The connection is gone: tell whoever follows, now or later."""
        self._ended = True
        if self._on_line is not None:
            self._finish()

    def _finish(self) -> None:
        if self._reason is None and not self._closed:
            self._reason = "tailscaled ended the stream of its messages"
        self._finished.callback(self._reason)
