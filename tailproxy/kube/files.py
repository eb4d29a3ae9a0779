"""Files that others replace while we run: tokens, certificates, keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from twisted.internet.interfaces import IReactorTime

# A projected token must be read anew within 60 s (spec/dataplane.md 1.12). Looking more often
# costs nothing and lets a new CA in sooner.
PERIOD = 10.0
# How soon a file that was never good is looked at again.
_RETRY = 1.0


class Content(Protocol):
    """Bytes that may change."""

    def read(self) -> bytes | None:
        """The bytes now; the same object as long as they are equal. None if there are none."""

    def expire(self) -> None:
        """Look anew at the next `read`."""

    @property
    def error(self) -> str:
        """Why there are none."""


class Constant:
    """Bytes that do not change."""

    error = ""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self) -> bytes | None:
        """Always the same bytes."""
        return self._content

    def expire(self) -> None:
        """Nothing to look at."""


class WatchedFile:
    """A file, looked at again once in a while; its last good content is kept while it is not good.

    Comparing content rather than times also sees the swapped symbolic links by which a kubelet
    updates a mounted Secret.

    :param path: the file.
    :param clock: for the time between two looks.
    :param check: raises ValueError, saying why, for a content that is not good.
    :param period: seconds between two looks.
    """

    def __init__(
        self,
        path: Path,
        clock: IReactorTime,
        check: Callable[[bytes], object],
        period: float = PERIOD,
    ) -> None:
        self._path = path
        self._clock = clock
        self._check = check
        self._period = period
        self._content: bytes | None = None
        self._next = float("-inf")
        self.error = ""

    def read(self) -> bytes | None:
        """The last good content, not older than the period if the file is good now."""
        now = self._clock.seconds()
        if now >= self._next:
            self._look()
            self._next = now + (_RETRY if self._content is None else self._period)
        return self._content

    def expire(self) -> None:
        """Look at the file at the next `read`."""
        self._next = float("-inf")

    def _look(self) -> None:
        try:
            content = self._path.read_bytes()
            self._check(content)
        except OSError as error:
            self.error = f"{self._path}: {error.strerror}"
        except ValueError as error:
            self.error = f"{self._path}: {error}"
        else:
            self.error = ""
            if content != self._content:
                self._content = content
