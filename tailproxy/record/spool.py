"""Recordings that wait on this machine until somebody takes them.

What no recorder takes is written here, and counts as recorded. Each is a file whose first line says
whom it is for; the rest is the recording. They are sent one after another, the oldest first, and
one is deleted when all of it has been confirmed and no sooner: what fails is sent again from its
beginning, as a new recording. Several processes may share a folder: a file is locked by who writes
or sends it.

When the spool is full it takes no more; what is in it is not given up for what is new. What has
waited for too long is deleted.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.interfaces import ISessionSink, IUploadWatcher, SinkError
from tailproxy.record.files import BlockingUpload, RecordingFile, in_thread, locked, recover
from tailproxy.record.folder import file_name
from tailproxy.wire.addresses import AddressPort

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from twisted.python.failure import Failure

    from tailproxy.interfaces import IUpload
    from tailproxy.record.folder import Run

_SUFFIX = ".spool"
# Seconds between looks at the folder; while nobody takes anything, twice as long each time.
_LOOK_SECONDS = 10.0
_LONGEST_SECONDS = 300.0
_BLOCK = 256 << 10
# Seconds for which the size of the folder need not be counted again.
_COUNT_SECONDS = 1.0
# Recordings in a row that nobody takes the whole of, before it is taken for the other side's fault.
_STRIKES = 3


@attrs.frozen
class _Waiting:
    """A recording that waits.

    :ivar file: a descriptor that holds the lock.
    :ivar start: where in the file the recording begins.
    """

    path: Path
    file: int
    start: int
    addresses: tuple[AddressPort, ...]
    session: str


@attrs.frozen
class _Skipped:
    """What need not be tried again before a pause: recordings, and for whom nobody is there."""

    paths: set[Path] = attrs.field(factory=set)
    addresses: set[tuple[AddressPort, ...]] = attrs.field(factory=set)
    failures: Counter[tuple[AddressPort, ...]] = attrs.field(factory=Counter)

    def failed(self, waiting: _Waiting) -> None:
        """A recording could not be sent. It may be its own fault, but not for long."""
        self.paths.add(waiting.path)
        self.failures[waiting.addresses] += 1
        if self.failures[waiting.addresses] == _STRIKES:
            self.addresses.add(waiting.addresses)


class _FullError(OSError):
    """The spool holds as much as it may."""


class _UselessError(Exception):
    """There is nothing to send; the text says why."""


class SpoolFolder:
    """The folder, for threads: any method blocks, and may raise `OSError`.

    :param path: it is made if it is not there.
    :param size: bytes that it may hold.
    :param age: seconds after which a recording is deleted.
    """

    def __init__(self, path: Path, size: int, age: float) -> None:
        self.path = path
        self._size = size
        self._age = age
        # How much there was when it was last counted, and when that was.
        self._held = 0
        self._counted = float("-inf")

    def begin(self, name: str, session: str, addresses: Sequence[AddressPort]) -> SpoolFile:
        """Begin a recording."""
        head = {"session": session, "recorders": [str(each) for each in addresses]}
        line = json.dumps(head, separators=(",", ":")).encode() + b"\n"
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.reserve(len(line))
        return SpoolFile(self, self.path / name, line)

    def reserve(self, more: int) -> None:
        """See whether there is room, and take it.

        :raises OSError: there is none.
        """
        now = time.monotonic()
        if now > self._counted + _COUNT_SECONDS or self._held + more > self._size:
            self._held, self._counted = _size(self.path), now
        if self._held + more > self._size:
            raise _FullError(f"{self.path} is full: it may hold {self._size} bytes")
        self._held += more

    def oldest(self, now: float, skipped: _Skipped) -> tuple[_Waiting | None, list[str]]:
        """Take what is to be sent next, locked, and delete what is not worth it.

        :param now: seconds since 1970.
        :returns: it, and what was deleted and why.
        """
        recover(self.path)
        deleted: list[str] = []
        for path in sorted(self.path.glob(f"*{_SUFFIX}")):
            file = None if path in skipped.paths else locked(path)
            if file is None:
                continue
            try:
                if now - os.fstat(file).st_mtime > self._age:
                    raise _UselessError(f"nobody took it within {self._age:g} s")
                found = _read(path, file)
                if found.addresses not in skipped.addresses:
                    file = None
                    return found, deleted
            except _UselessError as error:
                path.unlink()
                deleted.append(f"{path}: {error}")
            finally:
                if file is not None:
                    os.close(file)
        return None, deleted


def _size(folder: Path) -> int:
    """Add up the files of a folder, from which others take some away meanwhile."""
    total = 0
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):
            total += entry.stat().st_size
    return total


class SpoolFile(RecordingFile):
    """A recording that is being written to the spool."""

    def __init__(self, folder: SpoolFolder, path: Path, head: bytes) -> None:
        self._folder = folder
        super().__init__(path, head)

    def append(self, lines: bytes) -> None:
        """See `RecordingFile.append`. A full spool is like a full disk."""
        self._folder.reserve(len(lines))
        super().append(lines)


def _read(path: Path, file: int) -> _Waiting:
    """Read whom a recording is for.

    :raises _UselessError: there is nothing to send.
    """
    line, _, rest = os.pread(file, _BLOCK, 0).partition(b"\n")
    try:
        head = json.loads(line)
        addresses = tuple(AddressPort.parse(each) for each in head["recorders"])
        session = str(head["session"])
    except (ValueError, TypeError, KeyError):
        raise _UselessError("it is no recording") from None
    if not rest:
        raise _UselessError("its session did not begin")
    return _Waiting(path, file, len(line) + 1, addresses, session)


@implementer(ISessionSink)
class SpoolSink:
    """The spool, for sessions that are to go to certain recorders."""

    name = "spool"

    def __init__(self, spool: Spool, addresses: Sequence[AddressPort]) -> None:
        self._spool = spool
        self._addresses = tuple(addresses)

    def open(self, session: str) -> Deferred[IUpload]:
        """See `ISessionSink.open`."""
        return Deferred.fromCoroutine(self._spool.open(session, self._addresses))


class Spool(Service):
    """Keeps recordings, and sends them when somebody takes them.

    :param clock: tells and keeps the time.
    :param run: calls a function in a thread.
    :param folder: where they are.
    :param target: whom recordings are sent to, by the addresses of the caller's grants.
    :param limit: bytes of an upload's backlog that is full.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Any,
        run: Run,
        folder: SpoolFolder,
        target: Callable[[Sequence[AddressPort]], ISessionSink | None],
        limit: int,
    ) -> None:
        self._clock = clock
        self._run = run
        self._folder = folder
        self._target = target
        self._limit = limit
        self._sending: Deferred[None] | None = None

    def sink(self, addresses: Sequence[AddressPort]) -> SpoolSink:
        """Return the spool as a sink.

        :param addresses: whom its recordings are for.
        """
        return SpoolSink(self, addresses)

    async def open(self, session: str, addresses: Sequence[AddressPort]) -> IUpload:
        """See `ISessionSink.open`."""
        name = file_name(self._clock.seconds(), session, _SUFFIX)
        try:
            file = await in_thread(
                self._run,
                lambda: self._folder.begin(name, session, addresses),
                RecordingFile.leave,
            )
        except _FullError as error:
            raise SinkError("the spool is full", str(error)) from error
        except OSError as error:
            raise SinkError("the spool cannot be written", str(error)) from error
        return BlockingUpload(self._clock, self._run, file, self._limit, "the spool")

    def startService(self) -> None:
        """Begin to send what is there, from before too."""
        super().startService()
        self._sending = Deferred.fromCoroutine(self._send_for_ever())

    def stopService(self) -> Deferred[None]:
        """Send no more. What is under way is sent again after the next start."""
        super().stopService()
        sending, self._sending = self._sending, None
        if sending is None:
            return succeed(None)
        sending.cancel()
        return sending.addErrback(_trap_cancelled)

    async def _send_for_ever(self) -> None:
        wait = _LOOK_SECONDS
        while True:
            skipped = _Skipped()
            try:
                while await self._send_oldest(skipped):
                    pass
            except OSError as error:
                self._log.warn("the spool cannot be read: {reason}", reason=error)
            wait = min(wait * 2, _LONGEST_SECONDS) if skipped.paths else _LOOK_SECONDS
            await deferLater(self._clock, wait)

    async def _send_oldest(self, skipped: _Skipped) -> bool:
        """Send one recording, or try to; return whether there was any."""
        now = self._clock.seconds()

        def give_back(result: tuple[_Waiting | None, list[str]]) -> None:
            if result[0] is not None:
                os.close(result[0].file)

        found, deleted = await in_thread(
            self._run, lambda: self._folder.oldest(now, skipped), give_back
        )
        for each in deleted:
            self._log.warn("deleted from the spool: {what}", what=each)
        if found is None:
            return False
        try:
            place = await self._send(found, skipped)
            await self._run(found.path.unlink)
            self._log.info("{path} has been sent to {place}", path=str(found.path), place=place)
        except SinkError as error:
            skipped.failed(found)
            self._log.warn(
                "{path} stays in the spool: {reason}", path=str(found.path), reason=error
            )
        finally:
            os.close(found.file)
        return True

    async def _send(self, found: _Waiting, skipped: _Skipped) -> str:
        """Send one recording, and return where it is now.

        :raises SinkError: it is not, or perhaps not.
        """
        target = self._target(found.addresses)
        if target is None:
            raise SinkError("there is no recorder")
        try:
            upload = await target.open(found.session)
        except SinkError:
            skipped.addresses.add(found.addresses)
            raise
        return await _Sending(self._run, found, upload).send()


@implementer(IUploadWatcher)
class _Sending:
    """A recording on its way out of the spool."""

    def __init__(self, run: Run, waiting: _Waiting, upload: IUpload) -> None:
        self._run = run
        self._waiting = waiting
        self._upload = upload
        self._room: Deferred[None] = succeed(None)
        self._error: SinkError | None = None
        upload.watch(self)

    def upload_drained(self) -> None:
        """See `IUploadWatcher.upload_drained`."""
        self._go_on()

    def upload_failed(self, error: SinkError) -> None:
        """See `IUploadWatcher.upload_failed`."""
        self._error = error
        self._go_on()

    def _go_on(self) -> None:
        if not self._room.called:
            self._room.callback(None)

    async def send(self) -> str:
        """Send it, and return where it is now.

        :raises SinkError: it is not, or perhaps not.
        """
        at = self._waiting.start
        rest = b""
        try:
            while self._error is None:
                block = await self._run(partial(os.pread, self._waiting.file, _BLOCK, at))
                at += len(block)
                lines, newline, rest = (rest + block).rpartition(b"\n")
                if lines:
                    self._upload.write(lines + newline)
                if not block:
                    break
                if self._upload.full:
                    self._room = Deferred()
                    await self._room
            if self._error is not None:
                raise self._error
        except BaseException:
            self._upload.abandon()
            raise
        await self._upload.finish()
        return str(self._upload.place)


def _trap_cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)
