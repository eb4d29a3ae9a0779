"""A recording as a file of whole lines, whatever happens to the disk or to us.

While it is written its name ends in `.part` and the file is locked; in the end it is flushed to
the disk and gets its name in one step. Who finds a `.part` that nobody holds locked knows that its
writer has died, and can end it at its last whole line. All of it blocks, and so runs in threads.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.python.failure import Failure

from tailproxy.record.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_T = TypeVar("_T")

#: Of a file that is being written.
PART = ".part"
# Seconds between flushes to the disk of what goes on being written.
_FLUSH_SECONDS = 5.0
# Free bytes without which no recording is begun.
_FREE = 1 << 20
_BLOCK = 64 << 10


class Keeper(Protocol):
    """What a recording is written to. Its methods block, are called one at a time, and raise an
    `Exception` that says why it cannot be done.
    """

    @property
    def place(self) -> str:
        """Where it is, for the log."""

    def append(self, lines: bytes) -> object:
        """Write whole lines."""

    def complete(self) -> object:
        """There is no more; when it returns, all of it is kept."""

    def leave(self) -> object:
        """There is no more, and it is not whole. Nothing else is called after it."""


class RecordingFile:
    """A file that is being written: a `Keeper`.

    :param path: what it is to be called in the end; it is made to be another one if that is taken.
    :param head: whole lines in front of what is recorded.
    """

    def __init__(self, path: Path, head: bytes = b"") -> None:
        folder = path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        usage = os.statvfs(folder)
        if usage.f_bavail * usage.f_frsize < _FREE:
            raise OSError(f"less than {_FREE >> 20} MiB are free in {folder}")
        self._file, self.path = _create(path)
        self._size = 0
        self._flushed = time.monotonic()
        if head:
            self.append(head)
        self._empty = self._size

    @property
    def place(self) -> str:
        """Its name in the end."""
        return str(self.path)

    @property
    def _part(self) -> Path:
        return _part(self.path)

    def append(self, lines: bytes) -> None:
        """Write whole lines. If not all of it can be written, none of it is."""
        try:
            written = 0
            while written < len(lines):
                written += os.write(self._file, lines[written : written + (1 << 20)])
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(lines)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            os.fdatasync(self._file)
            self._flushed = time.monotonic()

    def complete(self) -> None:
        """There is no more. Once it has its name it will survive the loss of power."""
        os.fsync(self._file)
        self._part.rename(self.path)
        flush_folder(self.path)
        os.close(self._file)

    def leave(self) -> None:
        """Keep what there is, if there is anything, and let go of it."""
        try:
            if self._size > self._empty:
                self._part.rename(self.path)
            else:
                self._part.unlink()
        finally:
            os.close(self._file)


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART)


def _create(path: Path) -> tuple[int, Path]:
    """Make a file that is not there yet, locked, and return it with what it will be called."""
    number = 1
    while True:
        name = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        number += 1
        if name.exists():
            continue
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            file = os.open(_part(name), flags, 0o600)
        except FileExistsError:
            continue
        fcntl.flock(file, fcntl.LOCK_EX)
        # Before it was locked it could be taken for what somebody has left behind.
        if _is(file, _part(name)):
            return file, name
        os.close(file)


def _is(file: int, path: Path) -> bool:
    """Tell whether an open file still has that name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def flush_folder(path: Path) -> None:
    """Have the names in a file's folder survive the loss of power."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def locked(path: Path) -> int | None:
    """Open a file for us alone; None if somebody has it, or it is gone.

    :returns: a descriptor; whoever closes it lets go of the file.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    # It may have been renamed or deleted by who had it before us.
    if _is(file, path):
        return file
    os.close(file)
    return None


def recover(folder: Path) -> list[Path]:
    """End every file whose writer has died at its last whole line, and return their names."""
    found = []
    for part in sorted(folder.glob(f"*{PART}")):
        file = locked(part)
        if file is None:
            continue
        try:
            size = _whole_lines(file)
            os.ftruncate(file, size)
            if size:
                os.fsync(file)
                path = part.with_name(part.name.removesuffix(PART))
                part.rename(path)
                found.append(path)
            else:
                part.unlink()
        finally:
            os.close(file)
    if found:
        flush_folder(found[0])
    return found


def _whole_lines(file: int) -> int:
    """Return how many bytes of a file are whole lines."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - _BLOCK)
        at = os.pread(file, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


class BlockingUpload(Upload):
    """A recording on its way into a file or something like it.

    :param run: calls a function in a thread.
    :param keeper: new and empty.
    :param noun: what it is, for people.
    """

    def __init__(
        self,
        clock: Any,
        run: Callable[[Callable[[], Any]], Deferred[Any]],
        keeper: Keeper,
        limit: int,
        noun: str,
    ) -> None:
        super().__init__(clock, keeper.place, limit)
        self.noun = noun
        self._run = run
        self._keeper = keeper
        self._writing = False
        # One thing after another, and nothing of it in the reactor's thread.
        self._turn = DeferredLock()

    def send(self) -> None:
        """See `Upload.send`."""
        if self._writing or not self.backlog:
            return
        self._writing = True
        lines = self.peek()
        self._do(lambda: self._keeper.append(lines)).addCallbacks(
            self._written, self._broken, callbackArgs=(len(lines),)
        )

    def send_end(self) -> None:
        """See `Upload.send_end`."""
        self._do(self._keeper.complete).addCallbacks(lambda _: self.kept(), self._broken)

    def hang_up(self) -> None:
        """See `Upload.hang_up`."""
        self._do(self._keeper.leave).addErrback(lambda _: None)

    def _do(self, work: Callable[[], Any]) -> Deferred[Any]:
        return self._turn.run(self._run, work)

    def _written(self, _: object, size: int) -> None:
        self._writing = False
        if not self.over:
            self.take(size)
            self.moved()
            self.send()

    def _broken(self, failure: Failure) -> None:
        self.failed("cannot be written", failure.getErrorMessage())


def in_thread(
    run: Callable[[Callable[[], Any]], Deferred[Any]],
    work: Callable[[], _T],
    undo: Callable[[_T], object],
) -> Deferred[_T]:
    """Have something done in a thread, and undone if nobody waits for it any more."""
    waiting: Deferred[_T] = Deferred()

    def done(result: Any) -> None:
        if not waiting.called:
            waiting.callback(result)
        elif not isinstance(result, Failure):
            run(lambda: undo(result))

    run(work).addBoth(done)
    return waiting
