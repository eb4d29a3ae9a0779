"""Bodies of answers, as they come from Twisted's HTTP client: whole, or line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.web.iweb import IResponse


class LineStream(Protocol):
    """An answer that goes on, one line after another.

    :param response: its head.
    :param limit: bytes of the longest line.
    """

    def __init__(self, response: IResponse, limit: int) -> None:
        self._response = response
        self._limit = limit
        self._rest = b""
        self._closed = False
        self._reason: str | None = None
        self._on_line: Callable[[bytes], None] = lambda _: None
        self._finished: Deferred[str | None] = Deferred(lambda _: self.close())

    def follow(self, on_line: Callable[[bytes], None]) -> Deferred[str | None]:
        """Begin to read.

        :param on_line: called with each line, without its end.
        :returns: fires at the end of the stream: with why it ended, or with ``None`` after
            `close`. Cancelling it closes the stream.
        """
        self._on_line = on_line
        self._response.deliverBody(self)
        if self._closed:
            self.close()
        return self._finished

    def close(self) -> None:
        """Want no more lines. The connection is closed once the stream is followed."""
        self._closed = True
        if self.transport is not None:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Split what came into lines; an over-long one ends the stream."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._closed:
                return
            if line:
                self._on_line(line)
        if len(self._rest) > self._limit and not self._closed:
            self._reason = f"tailscaled sent a message of more than {self._limit} bytes"
            self.close()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Tell whoever waits for the end."""
        if self._reason is None and not self._closed:
            self._reason = "tailscaled ended the stream of its messages"
        self._finished.callback(self._reason)


class WholeBody(Protocol):
    """The body of an answer, as one piece.

    :param response: its head.
    :param limit: bytes that it may have.
    :ivar done: fires with the body, or fails with `ResponseFailed`. Cancelling it closes the
        connection.
    """

    def __init__(self, response: IResponse, limit: int) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self._give_up())
        self._chunks: list[bytes] = []
        self._size = 0
        self._limit = limit
        response.deliverBody(self)

    def dataReceived(self, data: bytes) -> None:
        """Collect."""
        self._chunks.append(data)
        self._size += len(data)
        if self._size > self._limit:
            self._give_up()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Hand the body over if it is whole."""
        whole = reason is not None and reason.check(ResponseDone, PotentialDataLoss)
        if whole and self._size <= self._limit:
            self.done.callback(b"".join(self._chunks))
        else:
            self.done.errback(ResponseFailed([reason or Failure(ConnectionLost())]))

    def _give_up(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()
