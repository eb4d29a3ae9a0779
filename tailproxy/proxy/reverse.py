"""The leaf of the data plane: decides about a request and carries it to the API server.

It never waits for a body. Headers are rewritten once, body chunks are passed on as they come,
with back-pressure both ways; an answer 101 turns both connections into a `Relay`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tailproxy.errors import ApiError
from tailproxy.interfaces import IResponseReceiver, RecordedSession, ResponseHead, UpstreamRequest
from tailproxy.policy.decide import Mode, Refusal, decide
from tailproxy.policy.headers import outgoing_block
from tailproxy.policy.identity import Unsendable
from tailproxy.proxy.hints import Hints
from tailproxy.proxy.recording import Preparation
from tailproxy.proxy.relay import RecordedRelay, Relay
from tailproxy.proxy.reporting import Reporting
from tailproxy.proxy.watch import events_of
from tailproxy.wire.http1 import response_end_to_end
from tailproxy.wire.requestinfo import is_long_running

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from tailproxy.interfaces import (
        IExchange,
        IRecording,
        IRequestEvents,
        ISessionRecorder,
        IStream,
        IUpstream,
    )
    from tailproxy.metrics import Metrics
    from tailproxy.policy.decide import Forward, Rules
    from tailproxy.policy.identity import Identity
    from tailproxy.proxy.request import Request
    from tailproxy.proxy.watch import FramedEvents, JSONEvents
    from tailproxy.wire.http1 import Header

# A watch whose events we cannot tell apart is ended when nothing has come for so long.
QUIET_SECONDS = 0.1
# What no trailer may say: it would come behind our back (RFC 9110, 6.5.1).
_NEVER_TRAILERS = frozenset((b"content-length", b"host", b"authorization", b"x-real-ip"))
_NEVER_TRAILER_PREFIXES = (b"impersonate-", b"x-remote-", b"x-forwarded-")

_OBSERVED = frozenset(("exec", "attach", "portforward"))

log = Logger()


@implementer(IResource)
class ReverseProxyResource:
    """Everything that is not tailproxy's own goes to the API server from here.

    :param recorder: has sessions recorded.
    :param events: tells recorders about requests.
    :param rules: mode, and what becomes of a client's own impersonation.
    """

    isLeaf = True

    def __init__(
        self,
        upstream: IUpstream,
        recorder: ISessionRecorder,
        events: IRequestEvents,
        rules: Rules,
        metrics: Metrics,
        clock: IReactorTime,
    ) -> None:
        self.upstream = upstream
        self._recorder = recorder
        self._events = events
        self.metrics = metrics
        self.clock = clock
        self.hints = Hints(clock) if rules.mode is not Mode.NOAUTH else None
        self._rules = rules

    def render(self, request: Request) -> int:
        """Decide, and forward or refuse. The request's identity is known by now."""
        identity = request.identity
        if identity is None:
            raise RuntimeError("a request without an identity must not come here")
        head = request.head
        decision = decide(identity, head, self._rules)
        if isinstance(decision, Refusal):
            if decision.cause is not None:
                log.error(
                    "no decision about {method} {path}: {cause!r}",
                    method=head.method,
                    path=head.path,
                    cause=decision.cause,
                )
            request.refuse(ApiError(decision.code, decision.reason, decision.message))
            return NOT_DONE_YET
        if decision.session is not None:
            request.session = decision.session
        if decision.unrecorded is not None:
            request.reason = decision.unrecorded
            self.metrics.unrecorded.inc()
            log.warn(
                "{user} may go on unrecorded with {method} {path}: {reason}",
                user=identity.user,
                method=head.method,
                path=head.path,
                reason=decision.unrecorded,
            )
        if decision.report:
            self._report(request, identity, decision)
        else:
            self._go_on(request, identity, decision)
        return NOT_DONE_YET

    def _report(self, request: Request, identity: Identity, decision: Forward) -> None:
        go_on = partial(self._go_on, request, identity, decision)
        enforced = not identity.grants.fail_open
        Reporting(request, identity, self.metrics, go_on, enforced=enforced).start(self._events)

    def _go_on(self, request: Request, identity: Identity, decision: Forward) -> None:
        if decision.record and request.head.upgrade is not None:
            send = partial(self._send, request, identity, decision)
            Preparation(request, self.metrics, send).start(self._recorder, identity, decision)
        else:
            self._send(request, identity, decision, None)

    def _send(
        self,
        request: Request,
        identity: Identity,
        decision: Forward,
        recording: IRecording | None,
    ) -> None:
        session = decision.session
        if recording is None and session in _OBSERVED:
            recording = self._recorder.observe(
                RecordedSession(request.id, session, request.head, identity, enforced=False)
            )
        try:
            block = self._outgoing(request, identity, recorded=decision.record)
        except Unsendable as error:
            refusal = ApiError(403, "unsendable", f"the request cannot be forwarded: {error}")
        except ApiError as error:
            refusal = error
        else:
            Forwarding(self, request, session or "", recording).start(block)
            return
        if recording is not None:
            recording.abandon()
        request.refuse(refusal)

    def _outgoing(self, request: Request, identity: Identity, *, recorded: bool) -> bytes:
        auth = self._rules.mode is not Mode.NOAUTH
        block = outgoing_block(
            request.head,
            identity=identity if auth else None,
            host=self.upstream.host,
            client=identity.forwarded_for(request.caller),
            bearer=self.upstream.bearer() if auth else None,
            request_id=request.id.encode(),
            readable=recorded,
        )
        request.forwarded = True
        return block

    def getChildWithDefault(self, name: bytes, request: Request) -> IResource:
        """Every path is answered here."""
        return self

    def putChild(self, path: bytes, child: IResource) -> None:
        """There are no children."""
        raise TypeError("the API server decides what is below")


@implementer(IResponseReceiver, IPushProducer)
class Forwarding:
    """One request on its way to the API server, and its answer on the way back.

    :param session: `exec`, `attach`, `portforward`, `node-exec`, or empty.
    :param recording: of that session, if it is recorded.
    """

    __slots__ = (
        "_clock",
        "_events",
        "_exchange",
        "_hints",
        "_leaving",
        "_metrics",
        "_producing",
        "_quiet",
        "_recording",
        "_request",
        "_sent",
        "_session",
        "_upstream",
        "_watch",
        "long_running",
    )

    def __init__(
        self,
        proxy: ReverseProxyResource,
        request: Request,
        session: str,
        recording: IRecording | None,
    ) -> None:
        self._upstream = proxy.upstream
        self._metrics = proxy.metrics
        self._clock = proxy.clock
        self._hints = proxy.hints
        self._request = request
        self._session = session
        self._recording = recording
        self._exchange: IExchange | None = None
        self._producing = False
        self._leaving = False
        self._sent = False
        self._events: JSONEvents | FramedEvents | None = None
        self._quiet: IDelayedCall | None = None
        info = request.head.info
        self._watch = info.verb == "watch"
        self.long_running = is_long_running(info)

    def start(self, block: bytes) -> None:
        """Send the request.

        :param block: its headers.
        """
        request = self._request
        head = request.head
        body = request.body
        request.handle_by(self)
        self._exchange = self._upstream.send(
            UpstreamRequest(
                head.method,
                head.target,
                block,
                upgrade=head.upgrade,
                has_body=body is not None,
                chunked=head.framing.chunked,
            ),
            self,
        )
        if body is not None and not request.gone:
            self._exchange.register_body_producer(body)
            body.deliver_to(self)

    # The request's body.

    def body_data(self, chunks: Sequence[bytes]) -> None:
        """The client has sent a part of the body."""
        if self._exchange is not None:
            self._exchange.write_body(chunks[0] if len(chunks) == 1 else b"".join(chunks))

    def body_end(self, trailers: Sequence[Header]) -> None:
        """The client has sent all of it."""
        if self._exchange is not None:
            self._exchange.end_body(_safe_trailers(trailers) if trailers else trailers)

    # The answer.

    def request_sent(self) -> None:
        """Measure what we added to the request's way, once."""
        if not self._sent:
            self._sent = True
            self._metrics.added_latency.observe(self._clock.seconds() - self._request.received_at)

    def response_interim(self, head: ResponseHead) -> None:
        """Pass a 1xx on."""
        self._request.interim(
            ResponseHead(head.code, head.reason, response_end_to_end(head.headers))
        )

    def response_head(self, head: ResponseHead) -> None:
        """The answer begins."""
        self._abandon()
        if head.code == 403 and self._hints is not None:
            head = self._with_hint(head, self._hints)
        self._request.start(head)
        if self._watch:
            self._events = events_of(head.headers)
            if self._request.draining:
                self.drain()

    def _with_hint(self, head: ResponseHead, hints: Hints) -> ResponseHead:
        identity = self._request.identity
        hint = hints.hint(identity) if identity is not None else None
        if hint is None:
            return head
        return ResponseHead(head.code, head.reason, [*head.headers, (b"Warning", hint)])

    def response_body(self, chunks: Sequence[bytes]) -> None:
        """Pass a part of the body on."""
        if self._events is not None:
            chunks = (b"".join(chunks),)
            end = self._events.last_end(chunks[0])
            if self._leaving and end:
                self._request.write((chunks[0][:end],))
                self._end_watch()
                return
        self._request.write(chunks)
        if self._quiet is not None:
            self._quiet.reset(QUIET_SECONDS)

    def response_flush(self) -> None:
        """Send on what came in one read. There will be more, so the client may slow it down."""
        if not self._producing:
            self._producing = True
            self._request.register_producer(self)
        self._request.flush()

    def response_end(self, trailers: Sequence[Header]) -> None:
        """The answer is complete."""
        self._stop()
        self._request.finish(_safe_trailers(trailers) if trailers else trailers)

    def response_switched(self, head: ResponseHead, stream: IStream, early: bytes) -> None:
        """Both connections become one stream."""
        request = self._request
        client = request.take_over(head)
        self._stop()
        protocol = (request.upgrade or b"").decode("ascii", "replace").lower()
        kind = "spdy" if protocol.startswith("spdy/") else protocol
        gauge = self._metrics.sessions.labels(
            kind if kind in {"spdy", "websocket"} else "other", self._session or "other"
        )
        gauge.inc()

        def ended(received: int, sent: int) -> None:
            gauge.dec()
            self._metrics.session_bytes.labels("received").inc(received)
            self._metrics.session_bytes.labels("sent").inc(sent)
            request.received, request.sent = received, sent
            if recording is not None:
                recording.ended()
                request.recorded = recording.where
                request.exit_code = recording.exit_code
            request.stream_ended()

        recording, self._recording = self._recording, None
        if recording is None:
            Relay(client, stream, self._clock, ended).start(early)
            return
        relay = RecordedRelay(client, stream, self._clock, ended, recording)
        recording.begin(head, relay)
        relay.start(early)

    def _abandon(self) -> None:
        """There is no session that could be recorded."""
        if self._recording is not None:
            self._recording.abandon()
            self._recording = None

    def _unanswered(self) -> None:
        """The API server may run a command by now, and nobody here has seen it begin."""
        recording = self._recording
        if self._sent and recording is not None:
            self._recording = None
            recording.ended()
            self._request.recorded = recording.where
        else:
            self._abandon()

    def response_failed(self, error: ApiError) -> None:
        """There is no answer, or no more of it."""
        self._unanswered()
        self._stop()
        self._request.refuse(error)

    # What the client does.

    def client_lost(self) -> None:
        """Nobody waits any more: end the request at the API server too."""
        exchange = self._exchange
        self._unanswered()
        self._stop()
        if exchange is not None:
            exchange.abort()

    def drain(self) -> None:
        """End a watch between two events; its client begins a new one elsewhere."""
        if not self._watch or not self._request.started or self._leaving:
            return  # `response_head` looks again
        self._leaving = True
        if self._events is None:
            self._quiet = self._clock.callLater(QUIET_SECONDS, self._quiet_now)
        elif self._events.between:
            self._end_watch()

    def _quiet_now(self) -> None:
        self._quiet = None
        self._end_watch()

    def _end_watch(self) -> None:
        exchange = self._exchange
        if exchange is not None:
            self._stop()
            exchange.abort()
            self._request.finish()

    # Back-pressure: this is the producer of the answer.

    def pauseProducing(self) -> None:
        """The client reads slowly."""
        if self._exchange is not None:
            self._exchange.pause_response()

    def resumeProducing(self) -> None:
        """The client reads again."""
        if self._exchange is not None:
            self._exchange.resume_response()

    def stopProducing(self) -> None:
        """The client is gone; the channel says so as well."""

    def _stop(self) -> None:
        self._exchange = None
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = None
        if self._producing:
            self._producing = False
            self._request.unregister_producer()


def _safe_trailers(trailers: Sequence[Header]) -> list[Header]:
    return [
        field
        for field in response_end_to_end(trailers)
        if (name := field[0].lower()) not in _NEVER_TRAILERS
        and not name.startswith(_NEVER_TRAILER_PREFIXES)
    ]
