"""What happens before a session that is to be recorded: somebody is found who takes it.

Only then is the request sent, since the command of a WebSocket session runs as soon as the API
server has accepted it (spec/streaming.md 5.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from tailproxy.errors import RecordingError
from tailproxy.interfaces import RecordedSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from tailproxy.interfaces import IRecording, ISessionRecorder
    from tailproxy.metrics import Metrics
    from tailproxy.policy.decide import Forward
    from tailproxy.policy.identity import Identity
    from tailproxy.proxy.request import Request


class Preparation:
    """A request that waits for its recorder.

    :param go_on: sends the request; with its recording, or without one if it may go unrecorded.
    """

    _log = Logger()
    long_running = False

    def __init__(
        self,
        request: Request,
        metrics: Metrics,
        go_on: Callable[[IRecording | None], None],
    ) -> None:
        self._request = request
        self._metrics = metrics
        self._go_on = go_on
        self._opening: Deferred[None] | None = None

    def start(self, recorder: ISessionRecorder, identity: Identity, decision: Forward) -> None:
        """Look for a recorder."""
        request = self._request
        request.handle_by(self)
        session = RecordedSession(
            request.id, decision.session or "", request.head, identity, decision.enforced
        )
        self._opening = (
            recorder.open(session)
            .addCallbacks(self._ready, self._nobody, errbackArgs=(session,))
            .addErrback(self._broken)
        )

    def _ready(self, recording: IRecording) -> None:
        if self._request.gone:
            recording.abandon()
        else:
            self._go_on(recording)

    def _nobody(self, failure: Failure, session: RecordedSession) -> None:
        request = self._request
        if request.gone or failure.check(CancelledError):
            return
        failure.trap(RecordingError)
        error = cast("RecordingError", failure.value)
        if session.enforced:
            request.refuse(error)
            return
        self._metrics.unrecorded.inc()
        request.reason = error.reason
        self._log.warn(
            "{user} goes on unrecorded with {method} {path}: {reason}",
            user=session.identity.user,
            method=session.head.method,
            path=session.head.path,
            reason=error.reason,
        )
        self._go_on(None)

    def _broken(self, failure: Failure) -> None:
        """Something that must not happen has: nothing goes on unrecorded because of it."""
        if not self._request.gone:
            self._request.broken(failure)

    def client_lost(self) -> None:
        """Nobody waits any more."""
        if self._opening is not None:
            self._opening.cancel()

    def drain(self) -> None:
        """It has its time, as any request."""
