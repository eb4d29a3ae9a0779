"""Who may send, and where their requests go (spec/streaming.md 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from tailproxy.errors import ApiError
from tailproxy.recorder.events import EVENT_BYTES, EventError, read_event
from tailproxy.recorder.upload import Upload

if TYPE_CHECKING:
    from tailproxy.interfaces import IIdentityResolver
    from tailproxy.policy.identity import Caller, Identity
    from tailproxy.recorder.events import Events
    from tailproxy.recorder.upload import Desk

    class Receiver(Protocol):
        """Takes the body of a request."""

        def data(self, data: bytes) -> None:
            """A part of it; `Exchange.taken` says when it is done with."""

        def end(self) -> None:
            """It is complete."""

        def lost(self) -> None:
            """The client has gone."""

    class Exchange(Protocol):
        """One request and its answer, whatever the version of HTTP; a sender for uploads."""

        @property
        def version(self) -> str:
            """Of HTTP: `1.1` or `2`."""

        @property
        def method(self) -> bytes:
            """As sent."""

        @property
        def path(self) -> bytes:
            """Of the request target, without its query."""

        @property
        def caller(self) -> Caller:
            """Where the connection comes from."""

        @property
        def gone(self) -> bool:
            """Whether the client has."""

        def answer(self, code: int, text: str) -> None:
            """Give a whole answer. What comes of the body is thrown away."""

        def receive(self, receiver: Receiver, *, streamed: bool) -> None:
            """Hand over the body.

            :param streamed: the answer begins now (`taken`, `acknowledge` and so on follow); else
                `answer` gives it.
            """

        def acknowledge(self, size: int) -> None:
            """See `tailproxy.recorder.upload.Sender`."""

        def taken(self, size: int) -> None:
            """See `tailproxy.recorder.upload.Sender`."""

        def succeeded(self) -> None:
            """See `tailproxy.recorder.upload.Sender`."""

        def failed(self, reason: str, *, end: bool = False) -> None:
            """See `tailproxy.recorder.upload.Sender`."""


_ROUTES = {
    (b"/v2/record", "2"): (b"HEAD", b"POST"),
    (b"/record", "1.1"): (b"POST",),
    (b"/v2/event", "1.1"): (b"HEAD", b"POST"),
    (b"/v2/event", "2"): (b"HEAD", b"POST"),
}


@attrs.frozen
class Admission:
    """Who may send.

    :ivar resolver: says who calls.
    :ivar senders: tags of their nodes, or login names.
    :ivar free: bytes that must be left on the disk before anything new is taken.
    """

    resolver: IIdentityResolver
    senders: frozenset[str]
    free: int

    def admits(self, identity: Identity) -> bool:
        """Whether they may."""
        names = {*identity.tags} if identity.login is None else {identity.login}
        return not names.isdisjoint(self.senders)


class Intake:
    """Takes uploads and events of those who may send them.

    :ivar admission: who they are; may change at any time.
    """

    _log = Logger()

    def __init__(self, desk: Desk, events: Events, admission: Admission) -> None:
        self.admission = admission
        self._desk = desk
        self._events = events

    def handle(self, exchange: Exchange) -> None:
        """Answer a request whose head is complete."""
        Deferred.fromCoroutine(self._handle(exchange)).addErrback(self._broken, exchange)

    def _broken(self, failure: Any, exchange: Exchange) -> None:
        self._log.failure("cannot answer {path}", failure, path=exchange.path)
        if not exchange.gone:
            exchange.answer(500, "an error of the recorder's own; its log says more")

    async def _handle(self, exchange: Exchange) -> None:
        resolver = self.admission.resolver
        identity = resolver.recall(exchange.caller)
        try:
            if identity is None:
                identity = await resolver.resolve(exchange.caller)
        except ApiError as error:
            if not exchange.gone:
                exchange.answer(error.code, error.message)
            return
        if exchange.gone:
            return
        methods = _ROUTES.get((exchange.path, exchange.version))
        if not self.admission.admits(identity):
            self._log.warn(
                "{node} may not send recordings: Tailproxy.Recorder.From does not name {names}",
                node=identity.node,
                names=", ".join(identity.tags) or identity.login,
            )
            exchange.answer(
                403,
                f"{identity.node} may not send recordings; Tailproxy.Recorder.From of this recorder"
                " names who may",
            )
        elif methods is None:
            exchange.answer(404, "there is /v2/record over HTTP/2, /record and /v2/event")
        elif exchange.method not in methods:
            exchange.answer(405, f"use {b' or '.join(methods).decode()}")
        elif exchange.method == b"HEAD":
            exchange.answer(200, "")
        elif exchange.path == b"/v2/event":
            exchange.receive(_Event(exchange, self, identity), streamed=False)
        else:
            await self._take(exchange, identity)

    async def _take(self, exchange: Exchange, identity: Identity) -> None:
        try:
            free = await self._desk.thread.run(self._desk.store.free)
        except OSError as error:
            exchange.answer(507, f"the recorder cannot write: {error.strerror}")
            return
        if exchange.gone:
            return
        if free < self.admission.free:
            self._desk.metrics.recorder_uploads.labels("refused").inc()
            exchange.answer(
                507,
                f"the recorder's disk is full: {free} bytes are left, and"
                f" {self.admission.free} must be; free some, or lower"
                " Tailproxy.Recorder.KeepBytes",
            )
            return
        exchange.receive(Upload(self._desk, identity, exchange), streamed=True)

    async def keep_event(self, exchange: Exchange, proxy: Identity, body: bytes) -> None:
        """Keep an event, then answer."""
        try:
            event = read_event(body)
            await self._desk.thread.run(self._events.add, event, proxy, self._desk.now())
        except EventError as error:
            code, text = 400, str(error)
        except OSError as error:
            code, text = 507, f"the recorder cannot write: {error.strerror}"
        else:
            code, text = 200, ""
            self._desk.metrics.recorder_events.inc()
        if not exchange.gone:
            exchange.answer(code, text)

    def event_received(self, exchange: Exchange, proxy: Identity, body: bytes) -> None:
        """The body of an event is complete."""
        Deferred.fromCoroutine(self.keep_event(exchange, proxy, body)).addErrback(
            self._broken, exchange
        )


class _Event:
    """Gathers the body of an event."""

    def __init__(self, exchange: Exchange, intake: Intake, proxy: Identity) -> None:
        self._exchange = exchange
        self._intake = intake
        self._proxy = proxy
        self._body: list[bytes] = []
        self._size = 0
        self._done = False

    def data(self, data: bytes) -> None:
        self._exchange.taken(len(data))
        self._size += len(data)
        if self._size <= EVENT_BYTES:
            self._body.append(data)
        elif not self._done:
            self._done = True
            self._exchange.answer(413, f"the event is larger than {EVENT_BYTES} bytes")

    def end(self) -> None:
        if not self._done:
            self._done = True
            self._intake.event_received(self._exchange, self._proxy, b"".join(self._body))

    def lost(self) -> None:
        self._done = True
