"""The recording of one session, from the search for a recorder to the last acknowledgement.

What passes is read beside the relay and becomes lines of an asciicast; a sink takes the lines.
Under enforcement nothing is shown that was not taken, and a session that cannot be recorded any
more is ended with a word to its user. Otherwise the session never suffers: another recorder is
tried once, and then it goes on unrecorded (spec/streaming.md 5 and 7).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import MultiService, Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.errors import ApiError, RecordingError
from tailproxy.interfaces import IRecording, ISessionRecorder, IUploadWatcher, SinkError
from tailproxy.record.archive import Archive
from tailproxy.record.observation import Observation, chosen_protocol, goes_up, query_of
from tailproxy.wire.cast import HEADER_SECONDS, CastHeader, CastWriter, session_header
from tailproxy.wire.requestinfo import boolean
from tailproxy.wire.session import FrameHolder, tap
from tailproxy.wire.sessionevents import Outcome, Output, Resized, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from tailproxy.interfaces import (
        IRecordedSession,
        ISessionSink,
        ISessionSinks,
        IUpload,
        RecordedSession,
        ResponseHead,
    )
    from tailproxy.metrics import Metrics
    from tailproxy.wire.session import SessionTap
    from tailproxy.wire.sessionevents import Event

# How long a recording that need not be may lag behind before it is given up.
LAG_SECONDS = 30.0
_SAID = 200  # characters of what a recorder says, shown at most
_UNSEEN = "nobody saw how it began; the command may have run"


@implementer(ISessionRecorder)
class SessionRecorder(MultiService):
    """Has sessions recorded. When it is stopped it waits for what is still on its way, and stops
    the services below it then.

    :param sinks: who takes recordings.
    :param clock: keeps the time of sessions.
    :param header_seconds: how long a terminal's size is waited for.
    :param now: seconds since 1970.
    """

    _log = Logger()

    def __init__(
        self,
        sinks: ISessionSinks,
        metrics: Metrics,
        clock: IReactorTime,
        header_seconds: float = HEADER_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.clock = clock
        self.metrics = metrics
        self.header_seconds = header_seconds
        self.now = now
        self._sinks = sinks
        self._finishing: set[Deferred[None]] = set()

    def observe(self, session: RecordedSession) -> Observation:
        """See `ISessionRecorder.observe`."""
        return Observation(session, self.clock)

    def open(self, session: RecordedSession) -> Deferred[IRecording]:
        """See `ISessionRecorder.open`."""
        return Deferred.fromCoroutine(self._open(session))

    async def _open(self, session: RecordedSession) -> IRecording:
        sink = self.sink(session)
        if sink is None:
            raise RecordingError("there is nowhere to record it")
        try:
            upload = await sink.open(session.id)
        except SinkError as error:
            self._log.warn(
                "no recorder for {user}: {reason}",
                user=session.identity.user,
                reason=error.detail,
            )
            raise RecordingError(error.reason) from error
        return Recording(self, session, upload)

    def sink(self, session: RecordedSession) -> ISessionSink | None:
        """Where a session is recorded."""
        addresses = dict.fromkeys(session.identity.grants.recorder_addresses)
        return self._sinks.sink(tuple(addresses))

    def finish(self, upload: IUpload) -> None:
        """See that the last line arrives, though the session is over."""
        done: Deferred[None] = Deferred()
        self._finishing.add(done)
        Deferred.fromCoroutine(self._finish(upload)).addErrback(
            lambda failure: self._log.failure("the end of a recording", failure)
        ).addCallback(lambda _: self._finished(done))

    async def _finish(self, upload: IUpload) -> None:
        try:
            await upload.finish()
        except SinkError as error:
            self.metrics.recordings.labels("lost").inc()
            self._log.error("the end of a recording may be lost: {reason}", reason=error.detail)
        else:
            self.metrics.recordings.labels("kept").inc()

    def _finished(self, done: Deferred[None]) -> None:
        self._finishing.remove(done)
        done.callback(None)

    def stopService(self) -> Deferred[Any]:
        """Wait for the recordings of sessions that have ended."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        Service.stopService(self)
        await DeferredList(list(self._finishing))
        for service in reversed(list(self)):
            await maybeDeferred(service.stopService)


@implementer(IRecording, IUploadWatcher)
class Recording:
    """One session.

    :param wanted: what it is.
    :param upload: takes its lines.
    :ivar exit_code: of the command, once the API server has told it.
    """

    _log = Logger()

    def __init__(self, recorder: SessionRecorder, wanted: RecordedSession, upload: IUpload) -> None:
        self.exit_code: int | None = None
        self._recorder = recorder
        self._wanted = wanted
        self._clock = recorder.clock
        self._query = query_of(wanted)
        self._archive = Archive.of(wanted, self._query.get("command", ()))
        self._terminal = boolean(self._query.get("tty", ()))
        self._protocol = ""
        self._tap: SessionTap | None = None
        self._holder = FrameHolder() if wanted.enforced else None
        self._session: IRecordedSession | None = None
        self._timer: IDelayedCall | None = None
        self._lagging: IDelayedCall | None = None
        self._moving: Deferred[None] | None = None
        self._moved = False
        self._over = False
        self._lost: ApiError | None = (
            None  # why there is no recorder any more; the session has not begun
        )
        self._take(upload, (0, 0))

    def _take(self, upload: IUpload, size: tuple[int, int]) -> None:
        """Write there from now on, from the beginning of a cast."""
        self._upload: IUpload | None = upload
        self.where = upload.place
        self._since = self._clock.seconds()
        self._began = self._recorder.now()
        self._size = size
        upload.watch(self)

    # The session.

    def begin(self, head: ResponseHead, session: IRecordedSession) -> None:
        """See `IRecording.begin`."""
        self._session = session
        self._protocol, inside = chosen_protocol(head)
        self._tap = tap(self._protocol, inside, self._terminal, with_input=goes_up(self._archive))
        if self._lost is not None:
            self._cut(self._lost)
            return
        self._cast = CastWriter(self._header(), self._terminal)
        self._write(self._cast.begin())
        if self._cast.waiting:
            self._timer = self._clock.callLater(self._recorder.header_seconds, self._release)

    def _release(self) -> None:
        """The terminal has not told its size."""
        self._timer = None
        self._write(self._cast.release())

    def abandon(self) -> None:
        """See `IRecording.abandon`."""
        self._over = True
        self._stop_moving()
        if self._upload is not None:
            self._upload.abandon()

    def up(self, data: bytes) -> None:
        """See `IRecording.up`."""
        if self._tap is not None:
            self._see(self._tap.up(data))

    def down(self, data: bytes) -> bytes:
        """See `IRecording.down`. Under enforcement only whole frames are passed on, so that last
        words can be said at any time.
        """
        session = self._tap
        if session is None:
            return data
        self._see(session.down(data))
        if self._upload is not None and self._upload.full:
            self._lag(self._upload)
        return data if self._holder is None else self._holder.take(data, session.down_border)

    def rest(self) -> bytes:
        """See `IRecording.rest`."""
        return b"" if self._holder is None or self._over else self._holder.take(b"", 0)

    def _see(self, events: Sequence[Event]) -> None:
        for event in events:
            if self._archive is not None:
                self._archive.see(event)
            match event:
                case Output():
                    self._write(self._cast.output(self._seconds(), event.stream, event.data))
                case Resized():
                    self._write(self._cast.resize(self._seconds(), event.columns, event.rows))
                case Outcome():
                    self.exit_code = event.code
                case Unreadable():
                    self._unreadable(event.reason)

    def _unreadable(self, reason: str) -> None:
        """What was seen until here is kept; no other recorder could do better from here on."""
        upload = self._upload
        if upload is not None and not self._over:
            self._write(self._cast.end(self._seconds()))
            self._write(self._cast.marker(self._seconds(), "its streams cannot be read any more"))
            self._recorder.finish(upload)
        self._moved = True
        self._fail(SinkError("its streams cannot be read", f"unreadable: {reason}"))

    def ended(self) -> None:
        """See `IRecording.ended`."""
        if self._over:
            return
        if self._tap is not None:
            self._see(self._tap.end())
        if self._archive is not None:
            self._archive.end()
        self._over = True
        self._stop_timers()
        self._stop_moving()
        upload = self._upload
        if upload is not None:
            if self._session is None:
                self._cast = CastWriter(self._header(), self._terminal)
            self._write(self._cast.end(self._seconds()))
            if self._session is None:
                self._write(self._cast.marker(self._seconds(), _UNSEEN))
            if self.exit_code is not None:
                self._write(self._cast.marker(self._seconds(), f"exit {self.exit_code}"))
            self._recorder.finish(upload)

    def _seconds(self) -> float:
        return self._clock.seconds() - self._since

    def _write(self, lines: bytes) -> None:
        if lines and self._upload is not None:
            self._upload.write(lines)

    def _header(self) -> CastHeader:
        wanted, identity = self._wanted, self._wanted.identity
        info = wanted.head.info
        header = session_header(
            node=identity.node,
            node_id=identity.node_id,
            user_id=identity.user_id,
            login=identity.login or "",
            tags=identity.tags,
            query=self._query,
            namespace=info.namespace,
            pod=info.name,
            session_type=wanted.kind,
            timestamp=int(self._began),
            tailproxy={
                "command": self._query.get("command", []),
                "protocol": self._protocol,
                "request": wanted.id,
                "user": identity.user,
                "groups": list(identity.groups),
                "enforced": wanted.enforced,
            },
        )
        width, height = self._size
        return attrs.evolve(header, width=width, height=height)

    # What goes wrong.

    def upload_drained(self) -> None:
        """See `IUploadWatcher.upload_drained`."""
        if self._lagging is not None:
            self._lagging.cancel()
            self._lagging = None
        if self._wanted.enforced and self._session is not None:
            self._session.go_on()

    def upload_failed(self, error: SinkError) -> None:
        """See `IUploadWatcher.upload_failed`."""
        self._fail(error)

    def _lag(self, upload: IUpload) -> None:
        """The recorder does not keep up."""
        if self._wanted.enforced:
            if self._session is not None:
                self._session.hold()
        elif self._lagging is None:
            self._lagging = self._clock.callLater(LAG_SECONDS, self._too_slow, upload)

    def _too_slow(self, upload: IUpload) -> None:
        self._lagging = None
        upload.abandon()
        self._fail(SinkError("the recorder is too slow"))

    def _fail(self, error: SinkError) -> None:
        """There is no more to be had of this recording."""
        if self._over or self._upload is None:
            return
        self._stop_timers()
        self._upload = None
        self._recorder.metrics.recordings.labels("broken").inc()
        self._log.error(
            "the recording of {user} at {where} has broken off: {reason}",
            user=self._wanted.identity.user,
            where=self.where,
            reason=error.detail,
        )
        if error.end:
            message = f"this session is {_plain(error.reason)}; the command may still run"
            self._cut(ApiError(403, "session-ended", message))
        elif self._wanted.enforced:
            message = (
                f"this session is ended: it must be recorded, and {error.reason};"
                " the command may still run"
            )
            self._cut(ApiError(403, "recorder-lost", message))
        elif self._moved:
            self._unrecorded()
        else:
            self._moved = True
            self._moving = Deferred.fromCoroutine(self._move())
            self._moving.addErrback(lambda failure: failure.trap(CancelledError))

    def _cut(self, error: ApiError) -> None:
        self._over = True
        self._lost = error
        if self._session is not None and self._tap is not None:
            held = 0 if self._holder is None else self._holder.held
            text = f"\r\ntailproxy: {error.message}\r\n"
            self._session.cut(self._tap.farewell(text, error.status(), held))

    async def _move(self) -> None:
        """Go on with another recorder, in a recording of its own."""
        sink = self._recorder.sink(self._wanted)
        try:
            upload = None if sink is None else await sink.open(f"{self._wanted.id}-2")
        except SinkError:
            upload = None
        self._moving = None
        if upload is None:
            self._unrecorded()
            return
        if self._session is None:
            self._take(upload, (0, 0))
            return
        self._take(upload, self._cast.size)
        self._cast = CastWriter(self._header(), self._terminal)
        self._write(self._cast.begin())
        self._write(self._cast.marker(self._seconds(), "another recorder goes on from here"))

    def _unrecorded(self) -> None:
        self.where = ""
        self._recorder.metrics.unrecorded.inc()
        self._tap = None
        self._log.warn("{user} goes on unrecorded in a session", user=self._wanted.identity.user)

    def _stop_moving(self) -> None:
        if self._moving is not None:
            self._moving.cancel()

    def _stop_timers(self) -> None:
        for timer in (self._timer, self._lagging):
            if timer is not None and timer.active():
                timer.cancel()
        self._timer = self._lagging = None


def _plain(text: str) -> str:
    """What a recorder says, as it can be shown on a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text[:_SAID])
