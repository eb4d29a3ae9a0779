"""A recorder in the test's hands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface import implementer

from tailproxy.interfaces import (
    IRecordedSession,
    IRecording,
    IRequestEvents,
    ISessionRecorder,
    RecordedSession,
    ResponseHead,
)

if TYPE_CHECKING:
    from tailproxy.policy.identity import Identity
    from tailproxy.wire.events import RecordedBody
    from tailproxy.wire.head import RequestHead


@implementer(IRecording)
class FakeRecording:
    """A recording in the test's hands.

    :ivar told: the session's bytes, each with the way they go, `up` or `down`.
    :ivar session: what it can do to the session, once that has begun.
    :ivar keeps: how many bytes it keeps until more come.
    :ivar state: `waiting`, `running`, `ended` or `abandoned`.
    """

    where = "fake"
    exit_code: int | None = None

    def __init__(self) -> None:
        self.told: list[tuple[str, bytes]] = []
        self.session: IRecordedSession | None = None
        self.state = "waiting"
        self.keeps = 0
        self.kept = b""

    def begin(self, head: ResponseHead, session: IRecordedSession) -> None:
        """See `IRecording.begin`."""
        self._becomes("waiting", "running")
        self.session = session

    def abandon(self) -> None:
        """See `IRecording.abandon`."""
        self._becomes("waiting", "abandoned")

    def up(self, data: bytes) -> None:
        """See `IRecording.up`."""
        self.told.append(("up", data))

    def down(self, data: bytes) -> bytes:
        """See `IRecording.down`."""
        self.told.append(("down", data))
        data, self.kept = self.kept + data, b""
        if self.keeps:
            data, self.kept = data[: -self.keeps], data[-self.keeps :]
        return data

    def rest(self) -> bytes:
        """See `IRecording.rest`."""
        kept, self.kept = self.kept, b""
        return kept

    def ended(self) -> None:
        """See `IRecording.ended`."""
        if self.state == "waiting":
            self.state = "running"
        self._becomes("running", "ended")

    def _becomes(self, before: str, after: str) -> None:
        if self.state != before:
            raise AssertionError(f"a recording that is {self.state} cannot become {after}")
        self.state = after

    def bytes(self, way: str) -> bytes:
        """All that went one way."""
        return b"".join(data for each, data in self.told if each == way)


@implementer(ISessionRecorder)
class FakeSessionRecorder:
    """A recorder in the test's hands.

    :ivar error: why it takes nothing, or None.
    :ivar waiting: those who wait for an answer, if it is `slow`.
    :ivar asked: the sessions that it was asked for.
    :ivar recordings: what it has taken.
    :ivar observed: what it looks on at.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.slow = False
        self.waiting: list[Deferred[IRecording]] = []
        self.asked: list[RecordedSession] = []
        self.recordings: list[FakeRecording] = []
        self.observed: list[FakeRecording] = []

    def observe(self, session: RecordedSession) -> FakeRecording:
        """See `ISessionRecorder.observe`."""
        self.observed.append(FakeRecording())
        self.observed[-1].where = ""
        return self.observed[-1]

    def open(self, session: RecordedSession) -> Deferred[IRecording]:
        """See `ISessionRecorder.open`."""
        self.asked.append(session)
        if self.slow:
            self.waiting.append(Deferred())
            return self.waiting[-1]
        return self.answer(Deferred())

    def answer(self, waiting: Deferred[IRecording]) -> Deferred[IRecording]:
        """Take it, or refuse."""
        if self.error is not None:
            waiting.errback(self.error)
        else:
            self.recordings.append(FakeRecording())
            waiting.callback(self.recordings[-1])
        return waiting


@implementer(IRequestEvents)
class FakeRequestEvents:
    """Takes events as the test says.

    :ivar slow: whether an event waits for `answer`.
    :ivar error: why it takes none, or None.
    :ivar taken: the bodies of all events.
    """

    def __init__(self) -> None:
        self.slow = False
        self.error: Exception | None = None
        self.taken: list[RecordedBody] = []
        self.waiting: list[Deferred[str]] = []

    def report(self, identity: Identity, head: RequestHead, body: RecordedBody) -> Deferred[str]:
        """See `IRequestEvents.report`."""
        self.taken.append(body)
        self.waiting.append(Deferred())
        if not self.slow:
            self.answer(self.waiting[-1])
        return self.waiting[-1]

    def answer(self, waiting: Deferred[str]) -> None:
        """Take it, or refuse."""
        if self.error is not None:
            waiting.errback(self.error)
        else:
            waiting.callback("recorder")
