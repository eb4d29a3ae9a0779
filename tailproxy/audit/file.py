"""A file of audit lines that several processes write to, and that is renamed when it is large.

Each process appends whole batches in one write, which the kernel does not mix with another's. Who
finds the file too large or too old renames it under a lock on the file itself. Everybody looks
before each batch whether the file is still the one of that name; so a file that somebody else
renames or removes (logrotate) is left behind, too, and no signal is needed.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.threads import deferToThreadPool

from tailproxy.audit.delivery import CarrierError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from twisted.internet.defer import Deferred

# Its group may read it, as a collector of logs must.
_MODE = 0o640
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class FileCarrier:
    """Appends batches to a file. A `tailproxy.audit.delivery.Carrier`.

    :param reactor: its threads write: a disk may take its time.
    :param path: of the file; the ones before it are called PATH.1, PATH.2 and so on.
    :param size: in bytes, from which another file is begun.
    :param age: seconds; another file is begun whenever so many have passed since 1970.
    :param keep: how many of the ones before are kept.
    :param now: seconds since 1970.
    """

    def __init__(
        self,
        reactor: Any,
        path: Path,
        *,
        size: int,
        age: int | None,
        keep: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._size = size
        self._age = age
        self._keep = keep
        self._now = now
        self._descriptor = -1
        self._torn = False
        self._writing = threading.Lock()
        self._closed = False

    def carry(self, lines: bytes) -> Deferred[None]:
        """See `Carrier.carry`."""
        done: Deferred[None] = deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), self.write, lines
        )
        return done

    def close(self) -> None:
        """See `Carrier.close`. A write that hangs closes the file itself, should it ever end."""
        self._closed = True
        if self._writing.acquire(blocking=False):
            self._let_go()
            self._writing.release()

    def write(self, lines: bytes) -> None:
        """Append whole lines, now.

        :raises CarrierError: not all of them could be written.
        :raises OSError: none of them could.
        """
        with self._writing:
            try:
                self._write(lines)
            finally:
                if self._closed:
                    self._let_go()

    def _let_go(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, lines: bytes) -> None:
        self._open()
        # What is left of a line that could not be written whole stands alone.
        mending = b"\n" if self._torn else b""
        data = mending + lines
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError as error:
            if not written:
                raise
            taken = lines.rfind(b"\n", 0, max(written - len(mending), 0)) + 1
            self._torn = written > taken + len(mending)
            raise CarrierError(str(error), taken=taken) from error
        self._torn = False

    def _open(self) -> None:
        """Have the descriptor of the file to write to."""
        while True:
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, _FLAGS, _MODE)
                self._torn = False
            status = os.fstat(self._descriptor)
            if not self._is_current(status):
                self._let_go()
            elif self._is_due(status):
                self._rotate(status)
            else:
                return

    def _is_current(self, status: os.stat_result) -> bool:
        """Whether that is the file of our name."""
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        return (named.st_dev, named.st_ino) == (status.st_dev, status.st_ino)

    def _is_due(self, status: os.stat_result) -> bool:
        if not status.st_size:
            return False
        if status.st_size >= self._size:
            return True
        age = self._age
        return age is not None and self._now() // age > status.st_mtime // age

    def _rotate(self, status: os.stat_result) -> None:
        """Rename the file that is open, unless somebody else has."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        if self._is_current(status):
            for number in range(self._keep - 1, 0, -1):
                with suppress(FileNotFoundError):
                    self._numbered(number).replace(self._numbered(number + 1))
            self._path.replace(self._numbered(1))
        self._let_go()  # and with it of the lock

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
