"""Uploads over HTTP/1.1 (spec/streaming.md 6.3), and events.

The connections are those of the data plane's kind; this is their root resource.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailproxy.interfaces import ResponseHead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailproxy.policy.identity import Caller
    from tailproxy.recorder.intake import Intake, Receiver
    from tailproxy.wire.http1 import Header

TEXT = b"text/plain; charset=utf-8"
# What may wait for the disk.
_HELD_BYTES = 1024 * 1024


class RecorderResource:
    """The root: each request is an exchange for the intake."""

    isLeaf = True

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def render(self, request: Any) -> None:
        """Answer one.

        :param request: a request of the data plane, its head complete.
        """
        self._intake.handle(PlainExchange(request))


class PlainExchange:
    """One request over HTTP/1.1.

    There are no acknowledgements: the answer comes when everything is kept.
    """

    version = "1.1"
    long_running = True

    def __init__(self, request: Any) -> None:
        self._request = request
        self._receiver: Receiver | None = None
        self._held = 0
        self._paused = False
        request.handle_by(self)

    @property
    def method(self) -> bytes:
        """See `Exchange.method`."""
        method: bytes = self._request.method
        return method

    @property
    def path(self) -> bytes:
        """See `Exchange.path`."""
        path: bytes = self._request.head.path
        return path

    @property
    def caller(self) -> Caller:
        """See `Exchange.caller`."""
        caller: Caller = self._request.caller
        return caller

    @property
    def gone(self) -> bool:
        """See `Exchange.gone`."""
        gone: bool = self._request.gone
        return gone

    def answer(self, code: int, text: str) -> None:
        """See `Exchange.answer`."""
        if not self._request.gone:
            self._request.answer(code, TEXT, f"{text}\n".encode() if text else b"")

    def receive(self, receiver: Receiver, *, streamed: bool) -> None:
        """See `Exchange.receive`. A client that waits for it is told to go on."""
        self._receiver = receiver
        if self._request.head.first(b"expect").lower() == b"100-continue":
            self._request.interim(ResponseHead(100, b"Continue", ()))
        if self._request.body is None:
            receiver.end()
        else:
            self._request.body.deliver_to(self)

    def acknowledge(self, size: int) -> None:
        """Nobody is told in this version."""

    def taken(self, size: int) -> None:
        """See `Sender.taken`."""
        self._held -= size
        if self._paused and self._held <= _HELD_BYTES and not self._request.gone:
            self._paused = False
            self._request.body.resumeProducing()

    def succeeded(self) -> None:
        """See `Sender.succeeded`."""
        self.answer(200, "")

    def failed(self, reason: str, *, end: bool = False) -> None:
        """See `Sender.failed`."""
        self.answer(500, reason)

    # What the request says.

    def body_data(self, chunks: Sequence[bytes]) -> None:
        """A part of the body."""
        data = b"".join(chunks)
        self._held += len(data)
        if self._held > _HELD_BYTES and not self._paused:
            self._paused = True
            self._request.body.pauseProducing()
        if self._receiver is not None:
            self._receiver.data(data)

    def body_end(self, trailers: Sequence[Header]) -> None:
        """The body is complete."""
        if self._receiver is not None:
            self._receiver.end()

    def client_lost(self) -> None:
        """The client has gone."""
        if self._receiver is not None:
            self._receiver.lost()

    def drain(self) -> None:
        """An upload ends when its session does, or when the time for leaving is over."""
