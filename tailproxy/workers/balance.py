"""Which worker gets a connection: the one that has the fewest open.

Connections that no worker can take wait, and the listeners are told to accept no more, so that
further ones wait in the kernel's backlog; nobody is refused.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from zope.interface import implementer

from tailproxy.interfaces import IDoor

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

# Connections on their way to one worker; one that lags behind further gets no more for now.
UNSENT_AT_MOST = 64


class Taker(Protocol):
    """A worker, as far as connections go to it."""

    @property
    def load(self) -> int:
        """How many connections it has open, those on their way included."""

    @property
    def unsent(self) -> int:
        """How many messages have not even left for it."""

    def take(self, listener: str, connection: socket.socket) -> None:
        """One for it."""


class Dispatcher:
    """Hands connections to workers.

    :param held: called with True when listeners are to accept no more, and with False when they
        may go on.
    """

    def __init__(self, held: Callable[[bool], None]) -> None:
        self._held = held
        self._takers: list[Taker] = []
        self._waiting: deque[tuple[str, socket.socket]] = deque()
        self._holding = False
        self._closed = False

    def hold(self) -> None:
        """There is no worker yet."""
        self._look()

    def join(self, taker: Taker) -> None:
        """A worker is ready."""
        self._takers.append(taker)
        self.resume()

    def leave(self, taker: Taker) -> None:
        """A worker takes no more."""
        if taker in self._takers:
            self._takers.remove(taker)
            self._look()

    def admit(self, listener: str, connection: socket.socket) -> None:
        """A connection, for whoever has the fewest."""
        if self._closed:
            connection.close()
            return
        self._waiting.append((listener, connection))
        self.resume()

    def resume(self) -> None:
        """A worker may have room again."""
        while self._waiting and (taker := self._choose()) is not None:
            # Of equals the one that waited longest comes first.
            self._takers.remove(taker)
            self._takers.append(taker)
            taker.take(*self._waiting.popleft())
        self._look()

    def close(self) -> None:
        """Nobody will take any more."""
        self._closed = True
        self._takers.clear()
        while self._waiting:
            self._waiting.popleft()[1].close()

    def _choose(self) -> Taker | None:
        free = [taker for taker in self._takers if taker.unsent < UNSENT_AT_MOST]
        return min(free, key=lambda taker: taker.load, default=None)

    def _look(self) -> None:
        holding = bool(self._waiting) or self._choose() is None
        if holding is not self._holding:
            self._holding = holding
            self._held(holding)


@implementer(IDoor)
class PassingDoor:
    """A listener's door to the workers.

    :param listener: its label.
    """

    def __init__(self, listener: str, dispatcher: Dispatcher) -> None:
        self._listener = listener
        self._dispatcher = dispatcher

    def admit(self, connection: socket.socket) -> None:
        """See `IDoor.admit`."""
        self._dispatcher.admit(self._listener, connection)

    def close(self) -> None:
        """See `IDoor.close`. What waits is still handed on."""
