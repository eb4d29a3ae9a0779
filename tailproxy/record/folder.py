"""Recordings in a folder of this machine, each a file that players open."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.interfaces import ISessionSink, SinkError
from tailproxy.record.files import BlockingUpload, RecordingFile, in_thread, recover

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tailproxy.interfaces import IUpload

    Run = Callable[[Callable[[], Any]], Deferred[Any]]


_NOUN = "the folder of recordings"


def file_name(seconds: float, session: str, suffix: str) -> str:
    """Return the name of a recording's file.

    :param seconds: when it began, since 1970.
    :param session: the session's ID.
    """
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%SZ}-{session}{suffix}"


@implementer(ISessionSink)
class Folder:
    """A folder.

    :param clock: tells and keeps the time.
    :param run: calls a function in a thread.
    :param path: the folder; it is made if it is not there.
    :param limit: bytes of an upload's backlog that is full.
    """

    name = "folder"
    _log = Logger()

    def __init__(self, clock: Any, run: Run, path: Path, limit: int) -> None:
        self._clock = clock
        self._run = run
        self._path = path
        self._limit = limit

    def start(self) -> Deferred[None]:
        """End recordings whose writer has died."""

        def found(paths: list[Path]) -> None:
            for path in paths:
                self._log.info("{path} was left unfinished and is ended", path=str(path))

        recovering = self._run(lambda: recover(self._path))
        return recovering.addCallbacks(
            found,
            lambda failure: self._log.warn(
                "recordings in {path} cannot be read: {reason}",
                path=str(self._path),
                reason=failure.getErrorMessage(),
            ),
        )

    def open(self, session: str) -> Deferred[IUpload]:
        """See `ISessionSink.open`."""
        return Deferred.fromCoroutine(self._open(session))

    async def _open(self, session: str) -> IUpload:
        path = self._path / file_name(self._clock.seconds(), session, ".cast")
        try:
            file = await in_thread(self._run, lambda: RecordingFile(path), RecordingFile.leave)
        except OSError as error:
            raise SinkError(f"{_NOUN} cannot be written", str(error)) from error
        return BlockingUpload(self._clock, self._run, file, self._limit, _NOUN)
