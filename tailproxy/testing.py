"""Fakes of what tailproxy meets outside, for tests of its parts and of plugins.

Each is verified against `tailproxy.interfaces`, or speaks the protocol of the thing it stands
for.
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import attrs
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.protocols.policies import WrappingFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from tailproxy.errors import ApiError, UnknownCallerError
from tailproxy.interfaces import (
    IAuditSink,
    ICertificateSource,
    IExchange,
    IIdentityResolver,
    IReadinessCheck,
    ISessionSink,
    ISessionSinks,
    ITailnetDialer,
    IUpload,
    IUpstream,
    ResponseHead,
    SinkError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twisted.internet.interfaces import IListeningPort, IStreamClientEndpoint
    from twisted.web.http import Request
    from twisted.web.http_headers import Headers

    from tailproxy.interfaces import (
        AccessRecord,
        CheckResult,
        IResponseReceiver,
        IUploadWatcher,
        KeyPair,
        UpstreamRequest,
    )
    from tailproxy.policy.identity import Caller, Identity
    from tailproxy.wire.addresses import AddressPort, IPAddress
    from tailproxy.wire.http1 import Header


@implementer(IIdentityResolver)
class FakeIdentityResolver:
    """Knows the callers it is told of.

    :ivar known: by address, who calls, or the error to fail with. May change at any time.
    :ivar asked: every caller that was asked for.
    """

    def __init__(self, known: Mapping[IPAddress, Identity | ApiError] | None = None) -> None:
        self.known = dict(known or {})
        self.asked: list[Caller] = []

    def recall(self, caller: Caller) -> Identity | None:
        """See `IIdentityResolver.recall`: every question is one to `resolve`."""
        return None

    def resolve(self, caller: Caller) -> Deferred[Identity]:
        """See `IIdentityResolver.resolve`."""
        self.asked.append(caller)
        found = self.known.get(caller.address, UnknownCallerError(str(caller.address)))
        return fail(found) if isinstance(found, ApiError) else succeed(found)


@implementer(ICertificateSource)
class FakeCertificateSource:
    """Has the certificates it is given.

    :ivar default: for clients that ask for no name or one that is not there.
    :ivar pairs: by lower-case name.
    :ivar asked: every name that was asked for.
    """

    def __init__(
        self, default: KeyPair | None = None, pairs: Mapping[str, KeyPair] | None = None
    ) -> None:
        self.default = default
        self.pairs = dict(pairs or {})
        self.asked: list[str | None] = []

    def pair(self, server_name: str | None) -> KeyPair | None:
        """See `ICertificateSource.pair`."""
        self.asked.append(server_name)
        return self.default if server_name is None else self.pairs.get(server_name, self.default)


@attrs.frozen
class Reply:
    """An answer of `FakeLocalAPI`; text as it is, anything else as JSON."""

    body: Any = ""
    code: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict)

    def send(self, request: Request) -> None:
        """Write it and end the request."""
        text = isinstance(self.body, str)
        request.setResponseCode(self.code)
        request.setHeader("Content-Type", "text/plain" if text else "application/json")
        for name, value in self.headers.items():
            request.setHeader(name, value)
        request.write((self.body if text else json.dumps(self.body)).encode())
        request.finish()


class FakeLocalAPI(Resource):
    """A tailscaled's LocalAPI: HTTP over a unix socket, answering what it is told to.

    :ivar whois: answers of WhoIs by ``addr`` or by ``addr svc_name``; 404 for others.
    :ivar replies: answers by endpoint (``status``, ``cert/NAME``, ``whois``, …); they go before
        `whois`.
    :ivar hanging: endpoints that do not answer for now; see `release`.
    :ivar requests: method and target of every request, as sent.
    :ivar headers: of the same requests.
    :ivar bodies: of the same requests.
    :ivar path: its socket, once it was started.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.whois: dict[str, Any] = {}
        self.replies: dict[str, Reply] = {}
        self.hanging: set[str] = set()
        self.requests: list[str] = []
        self.headers: list[Headers] = []
        self.bodies: list[bytes] = []
        self.path = ""
        self._reactor: Any = None
        self._held: list[tuple[str, Request]] = []
        self._buses: list[Request] = []
        self._port: IListeningPort | None = None
        self._connections = _Connections(Site(self))
        self._awaited: list[tuple[int, Deferred[None]]] = []

    def start(self, reactor: Any, path: str) -> None:
        """Listen at a socket, as at the daemon's start."""
        self.path, self._reactor = path, reactor
        self._port = reactor.listenUNIX(path, self._connections)

    def restart(self) -> None:
        """Come back at the same socket after `stop`."""
        self.start(self._reactor, self.path)

    def stop(self) -> Deferred[Any]:
        """Vanish as the daemon does: the socket is removed and every connection cut."""
        for connection in list(self._connections.protocols):
            connection.transport.abortConnection()
        port, self._port = self._port, None
        return maybeDeferred(port.stopListening) if port is not None else succeed(None)

    def received(self, count: int) -> Deferred[None]:
        """Fires as soon as there were so many requests."""
        if len(self.requests) >= count:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._awaited.append((count, waiter))
        return waiter

    def release(self) -> None:
        """Answer everything that hangs."""
        self.hanging.clear()
        held, self._held = self._held, []
        for endpoint, request in held:
            self._answer(endpoint, request)

    def say(self, message: Mapping[str, Any] | bytes) -> None:
        """Send a message, or any bytes, to whoever watches the bus."""
        data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        for bus in self._buses:
            bus.write(data)

    @property
    def connections(self) -> int:
        """How many connections were accepted so far."""
        return self._connections.accepted

    @property
    def watchers(self) -> int:
        """How many watch the bus."""
        return len(self._buses)

    def bus_ended(self) -> Deferred[None]:
        """Fires when the first watch of the bus has ended."""
        ended: Deferred[None] = Deferred()
        self._buses[0].notifyFinish().addBoth(lambda _: ended.callback(None))
        return ended

    def end_bus(self) -> None:
        """End every watch of the bus."""
        for bus in list(self._buses):
            bus.finish()

    def render(self, request: Request) -> Any:
        """Answer one request."""
        target = request.uri.decode()
        self.requests.append(f"{request.method.decode()} {target}")
        self.headers.append(request.requestHeaders)
        self.bodies.append(request.content.read() if request.content else b"")
        waiting, self._awaited = self._awaited, []
        for count, waiter in waiting:
            if len(self.requests) >= count:
                waiter.callback(None)
            else:
                self._awaited.append((count, waiter))
        path = unquote(target.partition("?")[0])
        endpoint = path.removeprefix("/localapi/v0/")
        if request.getHeader("Host") != "local-tailscaled.sock" or endpoint == path:
            Reply("invalid localapi request\n", 403).send(request)
        elif endpoint in self.hanging:
            self._held.append((endpoint, request))
            request.notifyFinish().addErrback(lambda _: self._held.remove((endpoint, request)))
        else:
            self._answer(endpoint, request)
        return NOT_DONE_YET

    def _answer(self, endpoint: str, request: Request) -> None:
        if endpoint in self.replies:
            self.replies[endpoint].send(request)
        elif endpoint == "whois":
            key = request.args[b"addr"][0].decode()
            if b"svc_name" in request.args:
                key += f" {request.args[b'svc_name'][0].decode()}"
            found = self.whois.get(key)
            (Reply(found) if found is not None else Reply("no match for IP:port\n", 404)).send(
                request
            )
        elif endpoint == "watch-ipn-bus":
            self._buses.append(request)
            request.notifyFinish().addBoth(lambda _: self._buses.remove(request))
            request.write(b"")
        else:
            Reply("404 page not found\n", 404).send(request)


class _Connections(WrappingFactory):
    """Knows the open connections and counts them all."""

    accepted = 0

    def buildProtocol(self, addr: Any) -> Any:
        self.accepted += 1
        return super().buildProtocol(addr)


@implementer(IExchange)
class FakeExchange:
    """A request that `FakeUpstream` got; the test answers it.

    :ivar request: its head.
    :ivar body: what was sent of its body so far.
    :ivar complete: whether that is all.
    :ivar paused: whether the sender wants no more of the answer for now.
    :ivar aborted: whether the sender wants no answer any more.
    :ivar producer: what sends the body, if it said so.
    """

    def __init__(self, request: UpstreamRequest, receiver: IResponseReceiver) -> None:
        self.request = request
        self.body = b""
        self.complete = False
        self.paused = False
        self.aborted = False
        self.producer: Any = None
        self._receiver = receiver

    def write_body(self, chunk: bytes) -> None:
        """See `IExchange.write_body`."""
        self.body += chunk

    def end_body(self, trailers: Sequence[Header]) -> None:
        """See `IExchange.end_body`."""
        self.complete = True

    def register_body_producer(self, producer: Any) -> None:
        """See `IExchange.register_body_producer`."""
        self.producer = producer

    def pause_response(self) -> None:
        """See `IExchange.pause_response`."""
        self.paused = True

    def resume_response(self) -> None:
        """See `IExchange.resume_response`."""
        self.paused = False

    def abort(self) -> None:
        """See `IExchange.abort`."""
        self.aborted = True

    def answer(self, code: int = 200, body: bytes = b"", headers: Sequence[Header] = ()) -> None:
        """Give a whole answer."""
        self._receiver.request_sent()
        self._receiver.response_head(ResponseHead(code, b"", headers))
        self._receiver.response_body([body])
        self._receiver.response_end(())

    def fail(self, error: ApiError) -> None:
        """Give none."""
        self._receiver.response_failed(error)


@implementer(IUpstream)
class FakeUpstream:
    """An API server that keeps what it is asked until the test answers.

    :ivar token: our own, or the error to raise for want of one.
    :ivar pending: requests without an answer, oldest first.
    """

    host = b"api.example.com"

    def __init__(self) -> None:
        self.token: bytes | ApiError | None = b"our-token"
        self.pending: deque[FakeExchange] = deque()

    def bearer(self) -> bytes | None:
        """See `IUpstream.bearer`."""
        if isinstance(self.token, ApiError):
            raise self.token
        return self.token

    def send(self, request: UpstreamRequest, receiver: IResponseReceiver) -> FakeExchange:
        """See `IUpstream.send`."""
        exchange = FakeExchange(request, receiver)
        self.pending.append(exchange)
        return exchange


@implementer(IReadinessCheck)
class FakeReadinessCheck:
    """A check that stands as the test says.

    :ivar result: how.
    """

    def __init__(self, name: str, result: CheckResult) -> None:
        self.name = name
        self.result = result

    def check(self) -> CheckResult:
        """See `IReadinessCheck.check`."""
        return self.result


@implementer(IAuditSink)
class FakeAuditSink:
    """Keeps what it is told.

    :ivar records: oldest first.
    """

    def __init__(self) -> None:
        self.records: list[AccessRecord] = []

    def answered(self, record: AccessRecord) -> None:
        """See `IAuditSink.answered`."""
        self.records.append(record)


@implementer(IUpload)
class FakeUpload:
    """A recording that the test keeps.

    :ivar session: whose it is.
    :ivar written: what was written so far.
    :ivar limit: bytes of backlog at which it is full.
    :ivar stalled: whether what is written stays in the backlog until `drain`.
    :ivar finished: whether there will be no more; the test answers with `acknowledge` or `fail`.
    :ivar abandoned: whether it was given up.
    """

    place = "fake"

    def __init__(self, session: str, limit: int = 1 << 20) -> None:
        self.session = session
        self.written = b""
        self.backlog = 0
        self.limit = limit
        self.stalled = False
        self.finished = False
        self.abandoned = False
        self._error: SinkError | None = None
        self._end: Deferred[None] = Deferred()
        self._watcher: IUploadWatcher | None = None

    @property
    def full(self) -> bool:
        """See `IUpload.full`."""
        return self.backlog >= self.limit

    def watch(self, watcher: IUploadWatcher) -> None:
        """See `IUpload.watch`."""
        self._watcher = watcher

    def write(self, lines: bytes) -> None:
        """See `IUpload.write`."""
        if self.finished or self.abandoned or not lines.endswith(b"\n"):
            raise AssertionError(f"this may not be written: {lines!r}")
        if self._error is None:
            self.written += lines
            self.backlog += len(lines) if self.stalled else 0

    def finish(self) -> Deferred[None]:
        """See `IUpload.finish`."""
        self.finished = True
        if self._error is not None:
            return fail(self._error)
        return self._end

    def abandon(self) -> None:
        """See `IUpload.abandon`."""
        self.abandoned = True

    # What the test does.

    def drain(self) -> None:
        """Take the whole backlog."""
        was_full = self.full
        self.backlog = 0
        if was_full and self._watcher is not None:
            self._watcher.upload_drained()

    def acknowledge(self) -> None:
        """Everything is kept."""
        self._end.callback(None)

    def fail(self, reason: str = "the recorder has gone") -> None:
        """Break down, at the end or before it."""
        self._error = SinkError(reason)
        if self.finished:
            self._end.errback(self._error)
        elif self._watcher is not None:
            self._watcher.upload_failed(self._error)


@implementer(ISessionSink)
class FakeSessionSink:
    """A recorder in the test's hands.

    :ivar error: why it takes no recording, or None.
    :ivar hanging: whether it does not answer until `release`.
    :ivar stalled: whether its uploads take nothing until they are told to `drain`.
    :ivar uploads: what it took, oldest first.
    :ivar given_up: sessions that did not wait for it.
    """

    name = "fake"

    def __init__(self) -> None:
        self.error: SinkError | None = None
        self.hanging = False
        self.stalled = False
        self.uploads: list[FakeUpload] = []
        self.given_up: list[str] = []
        self._waiting: list[tuple[str, Deferred[IUpload]]] = []

    def open(self, session: str) -> Deferred[IUpload]:
        """See `ISessionSink.open`."""
        if not self.hanging:
            return self._answer(session)

        def give_up(waiter: Deferred[IUpload]) -> None:
            self._waiting.remove((session, waiter))
            self.given_up.append(session)

        waiter: Deferred[IUpload] = Deferred(give_up)
        self._waiting.append((session, waiter))
        return waiter

    def release(self) -> None:
        """Answer everybody who waits."""
        self.hanging = False
        waiting, self._waiting = self._waiting, []
        for session, waiter in waiting:
            self._answer(session).chainDeferred(waiter)

    def _answer(self, session: str) -> Deferred[IUpload]:
        if self.error is not None:
            return fail(self.error)
        upload = FakeUpload(session)
        upload.stalled = self.stalled
        self.uploads.append(upload)
        return succeed(upload)


@implementer(ISessionSinks)
class FakeSessionSinks:
    """Has one sink for everybody, or none.

    :ivar one: it.
    :ivar asked: the addresses of every question.
    """

    def __init__(self, one: ISessionSink | None) -> None:
        self.one = one
        self.asked: list[tuple[AddressPort, ...]] = []

    def sink(self, addresses: Sequence[AddressPort]) -> ISessionSink | None:
        """See `ISessionSinks.sink`."""
        self.asked.append(tuple(addresses))
        return self.one


@implementer(ITailnetDialer)
class FakeDialer:
    """A tailnet whose nodes are elsewhere.

    :ivar endpoints: where each address really is.
    :ivar dialled: every address that was asked for.
    """

    def __init__(self, endpoints: Mapping[AddressPort, IStreamClientEndpoint]) -> None:
        self.endpoints = dict(endpoints)
        self.dialled: list[AddressPort] = []

    def endpoint(self, address: AddressPort) -> IStreamClientEndpoint:
        """See `ITailnetDialer.endpoint`."""
        self.dialled.append(address)
        return self.endpoints[address]
