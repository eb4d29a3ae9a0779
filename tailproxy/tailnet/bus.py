"""What happens in tailscaled, as it happens: its message bus (spec/dataplane.md 3.8).

The bus says that something changed, not reliably what: whoever listens must ask again after a
loss, since messages may have been missed. There is no message at all for some changes of
grants, so that nobody may rely on the bus alone.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from tailproxy.tailnet.localapi import LocalAPIError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from tailproxy.tailnet.bodies import LineStream
    from tailproxy.tailnet.localapi import LocalAPI

# State, settings and health at once, then peers that change. The first message could hold the
# whole network map too, which is big, and of no use to us: status has what we need of it.
MASK = 2 + 4 + 128 + 4096

# Bytes of one message. A new map of a large tailnet comes as one message with every peer; it is
# cheaper to begin anew, which means "everything may have changed", than to read that.
LINE_LIMIT = 1 << 20

# Seconds until the next attempt: short, since nothing works without tailscaled, and never so
# long that its return goes unnoticed for two seconds.
_FIRST_WAIT = 0.05
_LONGEST_WAIT = 1.0


class BusSubscriber(Protocol):
    """Hears of tailscaled's messages. None of these may raise or wait."""

    def bus_connected(self) -> None:
        """The bus is there, for the first time or again: everything may have changed."""

    def bus_message(self, message: Mapping[str, Any]) -> None:
        """Something changed. Fields that are absent or null did not."""

    def bus_lost(self, reason: str) -> None:
        """The bus is gone, or could not be reached yet.

        Called for each attempt that fails, not only the first.

        :param reason: why, in a sentence.
        """


class BusWatcher(Service):
    """Stays connected to the bus of one tailscaled.

    :param clock: for the time between attempts.
    :param api: the tailscaled.
    :param jitter: a number from 0 to 1, by which up to a quarter is taken off each wait, so
        that several replicas do not knock at once.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        api: LocalAPI,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._api = api
        self._jitter = jitter
        self._subscribers: list[BusSubscriber] = []
        self._wait = _FIRST_WAIT
        self._attempt: Deferred[None] | None = None
        self._retry: IDelayedCall | None = None
        self._stream: LineStream | None = None
        self._failing = False

    def subscribe(self, subscriber: BusSubscriber) -> None:
        """Tell somebody of everything from now on; before the service starts."""
        self._subscribers.append(subscriber)

    def startService(self) -> None:
        """Connect, and again whenever the bus is lost."""
        super().startService()
        self._connect()

    def stopService(self) -> None:
        """Disconnect for good."""
        super().stopService()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._stream is not None:
            self._stream.close()
        elif self._attempt is not None:
            self._attempt.cancel()

    def _connect(self) -> None:
        self._retry = None
        attempt = self._attempt = Deferred.fromCoroutine(self._follow())
        attempt.addErrback(lambda failure: failure.trap(CancelledError))

    async def _follow(self) -> None:
        """One connection, from the attempt to its end."""
        began: float | None = None
        try:
            self._stream = await self._api.watch_bus(MASK, limit=LINE_LIMIT)
            began = self._clock.seconds()
            self._connected()
            reason = await self._stream.follow(self._line)
        except LocalAPIError as error:
            reason = error.message
        finally:
            self._stream = self._attempt = None
        if not self.running:
            return
        if began is not None and self._clock.seconds() - began > _LONGEST_WAIT:
            self._wait = _FIRST_WAIT
        wait, self._wait = self._wait, min(2 * self._wait, _LONGEST_WAIT)
        self._retry = self._clock.callLater(wait * (1 - self._jitter() / 4), self._connect)
        self._lost(reason or "tailscaled sent a message that is not JSON")

    def _connected(self) -> None:
        if self._failing:
            self.log.info("tailscaled at {path} answers again", path=self._api.socket_path)
        self._failing = False
        for subscriber in self._subscribers:
            subscriber.bus_connected()

    def _lost(self, reason: str) -> None:
        if not self._failing:
            self.log.warn("Lost touch with tailscaled: {reason}", reason=reason)
        self._failing = True
        for subscriber in self._subscribers:
            subscriber.bus_lost(reason)

    def _line(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            if self._stream is not None:
                self._stream.close()
            return
        for subscriber in self._subscribers:
            subscriber.bus_message(message)
