"""The recordings for whoever looks at them: `IRecordings`, in any process of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from tailproxy.interfaces import IRecordings
from tailproxy.recorder.folder import Folder
from tailproxy.recorder.index import Index
from tailproxy.recorder.store import INDEX, Thread
from tailproxy.recordings import RecordingPage, RecordingState

if TYPE_CHECKING:
    from pathlib import Path

    from tailproxy.interfaces import IRecordingFollower
    from tailproxy.recordings import Recording, RecordingQuery

# Seconds between two looks at a recording that is live.
_LOOK = 0.25


@implementer(IRecordings)
class Library(Service):
    """Looks into a recorder's folder.

    :param path: of the folder; it may be made later.
    """

    def __init__(self, reactor: Any, path: Path) -> None:
        self._reactor = reactor
        self._thread = Thread(reactor, "recordings")
        self._folder = Folder(path)
        self._path = path / INDEX
        self._index: Index | None = None

    def startService(self) -> None:
        """Be ready for questions."""
        super().startService()
        self._thread.start()

    def stopService(self) -> Deferred[None]:
        """Answer no more."""
        super().stopService()
        return self._thread.run(self._close).addBoth(lambda _: self._thread.stop())

    def _close(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None

    def _opened(self) -> Index | None:
        """The index; None before there is one."""
        if self._index is None and self._path.exists():
            self._index = Index(self._path)
        return self._index

    def search(self, query: RecordingQuery) -> Deferred[RecordingPage]:
        """See `IRecordings.search`."""
        return self._thread.run(self._search, query)

    def _search(self, query: RecordingQuery) -> RecordingPage:
        index = self._opened()
        return RecordingPage((), more=False) if index is None else index.search(query)

    def find(self, recording: str) -> Deferred[Recording | None]:
        """See `IRecordings.find`."""
        return self._thread.run(self._find, recording)

    def _find(self, recording: str) -> Recording | None:
        index = self._opened()
        return None if index is None else index.find(recording)

    def read(self, recording: str, offset: int) -> Deferred[bytes]:
        """See `IRecordings.read`."""
        return self._thread.run(self._read, recording, offset)

    def _read(self, recording: str, offset: int) -> bytes:
        known = self._find(recording)
        encrypted = known is not None and known.encrypted
        return self._folder.read(recording, offset, encrypted=encrypted)

    def follow(self, recording: str, offset: int, follower: IRecordingFollower) -> Deferred[None]:
        """See `IRecordings.follow`."""
        return Deferred.fromCoroutine(self._follow(recording, offset, follower))

    async def _follow(self, recording: str, offset: int, follower: IRecordingFollower) -> None:
        rest = b""
        while True:
            # In this order: what is written between the two is read the next time.
            known = await self.find(recording)
            data = await self._thread.run(self._folder.read, recording, offset)
            offset += len(data)
            lines, end, rest = (rest + data).rpartition(b"\n")
            waiting = follower.recorded(lines + end) if lines else None
            if waiting is not None:
                await waiting
            if data:
                continue
            if known is None or known.state is not RecordingState.LIVE:
                return
            await deferLater(self._reactor, _LOOK)

    def end(self, recording: str, reason: str) -> Deferred[bool]:
        """See `IRecordings.end`."""
        return self._thread.run(self._end, recording, reason)

    def _end(self, recording: str, reason: str) -> bool:
        index = self._opened()
        return index is not None and index.ask_end(recording, reason)
