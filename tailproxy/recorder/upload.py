"""One upload: from the bytes that come to lines that are kept and acknowledged.

What is acknowledged is on the disk. While the disk is busy the sender waits; what has come
meanwhile is then written in one go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from tailproxy.recorder.folder import new_id
from tailproxy.recorder.lines import Lines, describe
from tailproxy.recordings import RecordingState

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.interfaces import IReactorTime

    from tailproxy.metrics import Metrics
    from tailproxy.policy.identity import Identity
    from tailproxy.recorder.folder import Part
    from tailproxy.recorder.store import Store, Thread
    from tailproxy.recordings import Recording

    class Sender(Protocol):
        """The proxy at the other end."""

        def acknowledge(self, size: int) -> None:
            """So many bytes of the upload are kept."""

        def taken(self, size: int) -> None:
            """So many more bytes may come."""

        def succeeded(self) -> None:
            """All of it is kept: end the answer."""

        def failed(self, reason: str, *, end: bool = False) -> None:
            """No more is taken: end the answer.

            :param end: whether the session is to end too.
            """


# Seconds between two writes to the disk: a terminal's echo is not worth one each.
PACE = 0.1
#: Seconds between two acknowledgements, whether there is news or not; senders give up after 30 s.
HEARTBEAT = 5.0


@attrs.frozen
class Desk:
    """What all uploads share.

    :ivar uploads: those that are under way, by the ID of the recording; it has one from the first
        line on.
    :ivar now: seconds since 1970.
    """

    store: Store
    thread: Thread
    metrics: Metrics
    clock: IReactorTime
    now: Callable[[], float]
    uploads: set[Upload] = attrs.field(factory=set)


class Upload:
    """Takes the body of an upload.

    :param proxy: who sends it.
    :ivar identifier: the recording's ID; empty before the first line.
    :ivar ended: fires when there is nothing more to be done.
    """

    _log = Logger()

    def __init__(self, desk: Desk, proxy: Identity, sender: Sender) -> None:
        self.identifier = ""
        self.ended: Deferred[None] = Deferred()
        self._desk = desk
        self._proxy = proxy
        self._sender = sender
        self._lines = Lines()
        self._part: Part | None = None
        self._pending: list[bytes] = []
        self._held = 0
        self._received = 0
        self._kept = 0
        self._outcome: tuple[RecordingState, str] | None = None
        self._gone = False
        self._stopped = False
        self._busy = False
        self._told = desk.clock.seconds()
        desk.uploads.add(self)
        desk.metrics.recorder_live.inc()
        self._heart = desk.clock.callLater(HEARTBEAT, self._beat)

    # What the sender does.

    def data(self, data: bytes) -> None:
        """A part of the body."""
        if self._outcome is not None:
            self._sender.taken(len(data))
            return
        self._received += len(data)
        lines = self._lines.feed(data)
        if lines:
            self._pending.append(lines)
            self._held += len(data)
        else:
            self._sender.taken(len(data))
        if self._lines.damage:
            self._settle(RecordingState.DAMAGED, self._lines.damage)
        elif lines:
            self._work()

    def end(self) -> None:
        """The body is complete."""
        if self._outcome is None:
            self._pending.append(self._lines.end())
            if self._lines.damage:
                self._settle(RecordingState.DAMAGED, self._lines.damage)
            else:
                self._settle(RecordingState.COMPLETE, "")

    def lost(self) -> None:
        """The sender has gone."""
        self._gone = True
        self._settle(RecordingState.INTERRUPTED, "the connection to the proxy was lost")

    def stop(self, reason: str) -> None:
        """Take no more of it, and have the session end.

        :param reason: for the sender, and for the person whose session it is.
        """
        self._stopped = True
        self._settle(RecordingState.INTERRUPTED, reason)

    # What becomes of it.

    def _settle(self, state: RecordingState, reason: str) -> None:
        if self._outcome is None:
            self._outcome = state, reason
            self._work()

    def _work(self) -> None:
        if not self._busy:
            self._busy = True
            Deferred.fromCoroutine(self._store()).addErrback(self._broken)

    def _broken(self, failure: object) -> None:
        """An error of our own."""
        self._log.error("an upload cannot go on: {reason}", reason=failure)
        self._finished("an error of the recorder's own; its log says more")

    async def _store(self) -> None:
        """Write until there is nothing left to be written."""
        while self._pending:
            await self._write()
            if self._outcome is None:
                await deferLater(self._desk.clock, PACE)
        self._busy = False
        if self._outcome is not None:
            self._busy = True
            await self._finish(*self._outcome)

    async def _write(self) -> None:
        lines, self._pending = b"".join(self._pending), []
        held, self._held = self._held, 0
        thread, store = self._desk.thread, self._desk.store
        now = self._desk.clock.seconds()
        told = now - self._told >= HEARTBEAT
        try:
            if self._part is None and self._lines.header is not None:
                self._part = await thread.run(store.begin, self._described())
            if self._part is not None and lines:
                known = {"duration": self._lines.duration, "exit_code": self._lines.exit_code}
                await thread.run(store.append, self._part, lines, told=told, **known)
        except OSError as error:
            self._log.error("a recording cannot be written: {reason}", reason=error)
            self._pending = []
            self._outcome = (
                RecordingState.INTERRUPTED,
                f"the recorder cannot write: {error.strerror}",
            )
        else:
            if told:
                self._told = now
            self._desk.metrics.recorder_bytes.inc(len(lines))
            # The end of a line that its sender left out is ours.
            self._kept = min(self._kept + len(lines), self._received)
            if lines and not self._gone:
                self._acknowledge()
        self._sender.taken(held)

    def _described(self) -> Recording:
        now = self._desk.now()
        self.identifier = new_id(now)
        return attrs.evolve(
            describe(self._lines.header or {}, self.identifier, now),
            proxy=self._proxy.node,
            proxy_id=self._proxy.node_id,
        )

    def _acknowledge(self) -> None:
        self._sender.acknowledge(self._kept)
        if self._heart.active():
            self._heart.reset(HEARTBEAT)

    def _beat(self) -> None:
        self._heart = self._desk.clock.callLater(HEARTBEAT, self._beat)
        self._acknowledge()

    async def _finish(self, state: RecordingState, reason: str) -> None:
        part, self._part = self._part, None
        if part is not None:
            try:
                recording = await self._desk.thread.run(
                    self._desk.store.finish, part, state, reason
                )
            except OSError as error:
                self._log.error(
                    "recording {id} cannot be finished before the next start: {reason}",
                    id=self.identifier,
                    reason=error,
                )
                reason = reason or f"the recorder cannot write: {error.strerror}"
            else:
                self._log.info(
                    "recording {id} of {user} in {namespace}/{pod} from {proxy}: {state}",
                    id=recording.id,
                    user=recording.user or recording.node,
                    namespace=recording.namespace,
                    pod=recording.pod,
                    proxy=recording.proxy,
                    state=f"{state.value}, {reason}" if reason else state.value,
                )
            self._desk.metrics.recorder_uploads.labels(state.value).inc()
        self._finished(reason)

    def _finished(self, reason: str) -> None:
        if self.ended.called:
            return
        if self._heart.active():
            self._heart.cancel()
        self._desk.uploads.discard(self)
        self._desk.metrics.recorder_live.dec()
        self._sender.taken(self._held)
        if not self._gone and reason:
            self._sender.failed(reason, end=self._stopped)
        elif not self._gone:
            self._sender.succeeded()
        self.ended.callback(None)
