"""One recorder on the tailnet: dialled, asked which version it speaks, ready for a recording.

HTTP without TLS: the tailnet encrypts. Nothing of it goes through proxies that the environment
names (spec/streaming.md 6.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import connectProtocol

from tailproxy.interfaces import SinkError
from tailproxy.record.http1 import ExpectationError, Http1Upload
from tailproxy.record.http2 import Http2Upload, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tailproxy.interfaces import ITailnetDialer
    from tailproxy.record.upload import Upload
    from tailproxy.wire.addresses import AddressPort

#: Seconds, of one address: to be connected; until a session may begin (spec/streaming.md 12).
DIAL_SECONDS = 5.0
START_SECONDS = 10.0

_U = TypeVar("_U", Http1Upload, Http2Upload)


class TSRecorder:
    """The recorder at one address.

    :param clock: tells and keeps the time.
    :param limit: bytes of an upload's backlog that is full.
    """

    def __init__(
        self, clock: Any, dialer: ITailnetDialer, address: AddressPort, limit: int
    ) -> None:
        self.address = address
        self._clock = clock
        self._dialer = dialer
        self._limit = limit

    def start(self, connected: Callable[[], None] = lambda: None) -> Deferred[Upload]:
        """Have it ready for the first line of a recording, within 10 s.

        It fails with `SinkError`. Cancelling it leaves the recorder without a recording.

        :param connected: called once there is a connection.
        """
        started = Deferred.fromCoroutine(self._start(connected))
        return started.addTimeout(
            START_SECONDS, self._clock, self._late("is not ready", START_SECONDS)
        )

    async def _start(self, connected: Callable[[], None]) -> Upload:
        second = await self._connect(Http2Upload)
        connected()
        try:
            return await self._ready(second, second.start())
        except UnsupportedError:
            pass
        first = await self._connect(Http1Upload)
        try:
            return await self._ready(first, first.start(expect=True))
        except ExpectationError:
            first = await self._connect(Http1Upload)
            return await self._ready(first, first.start(expect=False))

    async def _connect(self, kind: Callable[[Any, str, int], _U]) -> _U:
        """Have a connection.

        :raises SinkError: there is none.
        """
        upload = kind(self._clock, str(self.address), self._limit)
        connecting = connectProtocol(self._dialer.endpoint(self.address), upload)
        connecting.addTimeout(
            DIAL_SECONDS, self._clock, self._late("cannot be reached", DIAL_SECONDS)
        )
        try:
            await connecting
        except (SinkError, CancelledError):
            raise
        except Exception as error:
            raise upload.trouble("cannot be reached", str(error)) from error
        return upload

    async def _ready(self, upload: _U, starting: Coroutine[Any, Any, None]) -> _U:
        """Wait until it can begin, or leave it."""
        try:
            await starting
        except BaseException:
            upload.abandon()
            raise
        return upload

    def _late(self, what: str, seconds: float) -> Callable[[object, float], NoReturn]:
        """Make an error of something that took too long."""

        def late(_result: object, _seconds: float) -> NoReturn:
            message = f"{what} within {seconds:g} s"
            raise SinkError(f"the recorder {message}", f"{self.address} {message}")

        return late
