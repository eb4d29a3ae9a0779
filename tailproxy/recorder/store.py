"""What a recorder keeps: files, their index, and events. One thread does all of it.

Whatever waits for the disk is done there, so the reactor never does.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from tailproxy.recorder.folder import Folder
from tailproxy.recorder.index import Index

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from twisted.internet.defer import Deferred

    from tailproxy.recorder.folder import Part
    from tailproxy.recorder.seal import Seal
    from tailproxy.recordings import Recording, RecordingState

_T = TypeVar("_T")
INDEX = "index.sqlite"


class Thread:
    """One thread that does one thing after the other.

    :param name: for people who look at threads.
    """

    def __init__(self, reactor: Any, name: str) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(1, 1, name)

    def start(self) -> None:
        """Begin; `stop` must follow."""
        self._pool.start()

    def stop(self) -> None:
        """Do what is waiting, then end."""
        self._pool.stop()

    def run(self, work: Callable[..., _T], *arguments: Any, **named: Any) -> Deferred[_T]:
        """Do that when its turn comes. Fires with its result."""
        done: Deferred[_T] = deferToThreadPool(self._reactor, self._pool, work, *arguments, **named)
        return done


@attrs.frozen
class Bounds:
    """What is kept at most, and what is left free.

    :ivar age: in seconds; None without a limit.
    :ivar size: bytes of all recordings; None without a limit.
    :ivar free: bytes that must be left on the disk before anything new is taken.
    """

    age: float | None = None
    size: int | None = None
    free: int = 0


@attrs.frozen
class Sweep:
    """What a sweep has done, and how it stands.

    :ivar deleted: how many recordings were deleted.
    :ivar size: bytes of those that are kept.
    :ivar free: bytes that are left on the disk.
    """

    deleted: int
    size: int
    free: int


class Store:
    """All that is kept. Every method is for the one thread.

    :param path: of the folder.
    :param seal: encrypts what is finished; None to leave it as it is.
    """

    _log = Logger()

    def __init__(self, path: Path, seal: Seal | None = None) -> None:
        self.folder = Folder(path, seal)
        self._path = path / INDEX
        self._index: Index | None = None
        self._open: dict[str, Part] = {}

    @property
    def index(self) -> Index:
        """The index; opened when it is first asked for."""
        if self._index is None:
            self._index = Index(self._path)
        return self._index

    def open(self) -> int:
        """Make everything ready, and recordings of what an earlier process left behind.

        :returns: how many recordings were not finished.
        :raises OSError: the folder cannot be used.
        :raises sqlite3.Error: the index cannot be used.
        """
        self.folder.prepare()
        try:
            index = self.index
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            for path in self._path.parent.glob(f"{INDEX}*"):
                path.unlink()
            index = self.index
        recovered = list(self.folder.recover())
        index.put(recovered)
        if index.fresh:
            index.put(self.folder.all())
        self._reconcile()
        index.take_ends()
        return len(recovered)

    def close(self) -> None:
        """Give everything back."""
        if self._index is not None:
            self._index.close()
            self._index = None

    def _reconcile(self) -> None:
        """Have the index say what the files say of those that it has for live and are not."""
        for identifier in self.index.live():
            if identifier not in self._open:
                known = self.folder.known(identifier)
                if known is None:
                    self.index.remove(identifier)
                else:
                    self.index.put([known])

    def begin(self, recording: Recording) -> Part:
        """Begin a recording.

        :raises OSError: the disk does not let us.
        """
        part = self.folder.begin(recording)
        self._open[recording.id] = part
        self._note(recording)
        return part

    def append(self, part: Part, lines: bytes, *, told: bool, **known: Any) -> None:
        """Add lines to it.

        :param told: whether the index is to hear of it.
        :raises OSError: they are not kept.
        """
        part.append(lines, **known)
        if told:
            self._note(part.recording)

    def finish(self, part: Part, state: RecordingState, detail: str) -> Recording:
        """End it.

        :raises OSError: the disk does not let us; the next start will.
        """
        self._open.pop(part.recording.id, None)
        recording = self.folder.finish(part, state, detail)
        self._note(recording)
        return recording

    def _note(self, recording: Recording) -> None:
        """Tell the index. What it does not hear now it learns from the files."""
        try:
            self.index.put([recording])
        except sqlite3.Error as error:
            self._log.error("the index of recordings cannot be written: {reason}", reason=error)

    def free(self) -> int:
        """Bytes that are left on the disk.

        :raises OSError: the folder has gone.
        """
        return self.folder.free()

    def sweep(self, bounds: Bounds, now: float) -> Sweep:
        """Delete what is too old or too much, the oldest first; nothing that is live.

        :param now: seconds since 1970.
        :raises OSError: the disk does not let us.
        :raises sqlite3.Error: the index does not.
        """
        self._reconcile()
        deleted = 0
        size = self.index.size()
        while found := self._superfluous(bounds, now, size):
            self.folder.delete(found.id)
            self.index.remove(found.id)
            size -= found.size
            deleted += 1
        return Sweep(deleted, size, self.folder.free())

    def _superfluous(self, bounds: Bounds, now: float, size: int) -> Recording | None:
        if bounds.size is not None and size > bounds.size:
            return self.index.oldest()
        if bounds.age is not None:
            return self.index.oldest(now - bounds.age)
        return None

    def take_ends(self) -> list[tuple[str, str]]:
        """Which live ones are to be ended, and why."""
        return self.index.take_ends()
