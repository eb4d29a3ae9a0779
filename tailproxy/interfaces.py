"""Every seam of tailproxy. Reading this file is reading the design.

A request goes one way: a listener accepts a connection and knows its `Caller`; an
`IIdentityResolver` turns that into an `Identity`; the pure `tailproxy.policy.decide` turns
identity and request into a decision; an `IUpstream` carries the request to the API server.
Beside that way stand certificates, drain, readiness, the audit trail and plugins.

Services know one another by these interfaces only. `tailproxy.testing` ships fakes of those
that reach outside; they are verified against this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from OpenSSL import SSL
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IStreamClientEndpoint
    from twisted.web.resource import IResource

    from tailproxy.errors import ApiError
    from tailproxy.policy.identity import Caller, Identity
    from tailproxy.recordings import Recording, RecordingPage, RecordingQuery
    from tailproxy.wire.addresses import AddressPort
    from tailproxy.wire.events import RecordedBody
    from tailproxy.wire.head import RequestHead
    from tailproxy.wire.http1 import Header
    from tailproxy.wire.requestinfo import RequestInfo


class IIdentity(Interface):
    """Who is calling. A plugin's resource has it by `IIdentity(request)`.

    The value is a `tailproxy.policy.identity.Identity`; these are its attributes.
    """

    user = Attribute("Login name of a user's node, FQDN of a tagged one.")
    groups = Attribute("Groups that would be impersonated, in order.")
    node = Attribute("FQDN of the caller's node, without the final dot.")
    node_id = Attribute("Stable ID of the caller's node.")
    tags = Attribute("Tags of the caller's node.")
    addresses = Attribute("The node's tailnet addresses.")


class ICaller(Interface):
    """Where a request comes from. A plugin's resource has it by `ICaller(request)`.

    The value is a `tailproxy.policy.identity.Caller`; these are its attributes.
    """

    address = Attribute("Of the connection, or out of the PROXY header in front of it.")
    port = Attribute("Its port.")
    service = Attribute("The Tailscale Service that was called, as `svc:NAME`, or None.")


class IIdentityResolver(Interface):
    """Says who is at the other end of a connection."""

    def recall(caller: Caller) -> Identity | None:
        """The caller's identity if it is known now, without asking anybody. Else `resolve`."""

    def resolve(caller: Caller) -> Deferred[Identity]:
        """The caller's identity as it is now.

        Asked for every request, so an implementation keeps answers (at most one second,
        spec/dataplane.md 3.8) and asks once for several requests that wait.

        The Deferred fails with `UnknownCallerError` when nobody has that address, with
        `UnusableIdentityError` when the answer cannot be used, and with
        `ResolverUnavailableError` when there is no answer.
        """


@attrs.frozen
class UpstreamRequest:
    """A request as it leaves for the API server, but for its body.

    `target` is the client's request target byte for byte; the upstream puts its path prefix
    in front. `block` is all header lines and the empty one behind them: the policy has made and
    checked it. `has_body`: whether anything will be written; `chunked`: its length is not among
    the headers.
    """

    method: bytes
    target: bytes
    block: bytes = attrs.field(repr=False)  # it holds tokens
    upgrade: bytes | None = None
    has_body: bool = False
    chunked: bool = False


@attrs.frozen
class ResponseHead:
    """Status line and headers of an answer, as they came."""

    code: int
    reason: bytes
    headers: Sequence[Header]


class IResponseReceiver(Interface):
    """Takes one answer of the API server.

    In this order: any interim answers, then either head, body chunks and end, or a switch of
    protocols; or a failure at any point, which is last.
    """

    def request_sent() -> None:
        """The request's head is on its way: there was a connection, and the server is verified.

        Twice when the request had to be repeated on another connection.
        """

    def response_interim(head: ResponseHead) -> None:
        """A 1xx answer other than 101."""

    def response_head(head: ResponseHead) -> None:
        """The final answer begins."""

    def response_body(chunks: Sequence[bytes]) -> None:
        """Bytes of the body, without their framing, as they came in one read."""

    def response_end(trailers: Sequence[Header]) -> None:
        """The body is complete."""

    def response_flush() -> None:
        """Everything that came in one read has been passed on: what was held back to be sent
        with it must go now. Not after `response_end`.
        """

    def response_switched(head: ResponseHead, stream: IStream, early: bytes) -> None:
        """A 101: from now on the connection is a byte stream.

        :param early: bytes of the stream that came right behind the head.
        """

    def response_failed(error: ApiError) -> None:
        """There will be nothing more. Before `response_head` the error can still be answered."""


class IStream(Interface):
    """One end of a connection that has become a plain stream of bytes."""

    transport = Attribute("Its `twisted.internet.interfaces.ITransport`, a push producer too.")

    def deliver_to(receiver: IStreamReceiver) -> None:
        """From now on the bytes go there."""


class IStreamReceiver(Interface):
    """Takes the bytes of a stream."""

    def stream_data(data: bytes) -> None:
        """Bytes, as they came in one read."""

    def stream_half_closed() -> None:
        """The other side will send no more, but still reads."""

    def stream_lost() -> None:
        """The connection is gone."""


class IExchange(Interface):
    """The sending side of one request on its way to the API server."""

    def write_body(chunk: bytes) -> None:
        """Send bytes of the request's body."""

    def end_body(trailers: Sequence[Header]) -> None:
        """The request's body is complete."""

    def register_body_producer(producer: Any) -> None:
        """Slow down an `IPushProducer` while the API server reads slowly."""

    def pause_response() -> None:
        """Stop reading the answer: the client reads slowly."""

    def resume_response() -> None:
        """Read on."""

    def abort() -> None:
        """Nobody wants the answer any more: end the request at once."""


class IUpstream(Interface):
    """The API server."""

    host = Attribute("Value of the Host header, bytes.")

    def bearer() -> bytes | None:
        """Our own token now, or None where a client certificate serves.

        :raises UpstreamError: there is no usable credential (503).
        """

    def send(request: UpstreamRequest, receiver: IResponseReceiver) -> IExchange:
        """Begin a request. The receiver hears everything else, failures to connect included;
        nothing is sent before the server is verified (design rule 9).
        """


@attrs.frozen
class RecordedSession:
    """A session that is to be recorded or looked on at, before it begins.

    `id` is the request's; `kind` is `exec`, `attach` or, not to be recorded, `portforward`;
    `enforced`: it must not go on unrecorded.
    """

    id: str
    kind: str
    head: RequestHead
    identity: Identity
    enforced: bool


class ISessionRecorder(Interface):
    """Has sessions recorded."""

    def observe(session: RecordedSession) -> IRecording:
        """Look on at a session that is not recorded, for the audit trail."""

    def open(session: RecordedSession) -> Deferred[IRecording]:
        """Reach somebody who takes the recording, within 30 s; nothing is written yet.

        The Deferred fails with `RecordingError` when there is nobody. It may be cancelled.
        """


class IRecording(Interface):
    """One session that is being recorded. None of its methods raises or waits.

    Bytes are told before they are passed on, so that under enforcement nothing is shown that was
    not taken.
    """

    where = Attribute("Who has it, for the audit trail, str; empty if it is not recorded any more.")
    exit_code = Attribute("The command's, once the API server has told it; else None.")

    def begin(head: ResponseHead, session: IRecordedSession) -> None:
        """The API server has switched protocols."""

    def abandon() -> None:
        """It has not, and never will, and nothing was run: no recording must be left."""

    def up(data: bytes) -> None:
        """The client has sent this."""

    def down(data: bytes) -> bytes:
        """The API server has sent this.

        :returns: what may be passed on now, of this and of what was kept before.
        """

    def rest() -> bytes:
        """The API server will send no more: what was kept."""

    def ended() -> None:
        """The session is over. The recording is completed, however long that takes.

        Without `begin`: the request was sent, and nobody knows what became of it.
        """


class IRecordedSession(Interface):
    """What a recording may do to its session."""

    def hold() -> None:
        """Read no more from the API server: the recorder is too slow."""

    def go_on() -> None:
        """Read again."""

    def cut(farewell: bytes) -> None:
        """End it at once, in both directions.

        :param farewell: last words for the client, in its protocol; may be empty.
        """


class IClusterAccess(Interface):
    """Where the API server is, how it is verified, and how we prove who we are.

    What it says may change at any time (a rotated token, a new CA): ask for every use.
    """

    host = Attribute("Name or address to connect to, str.")
    port = Attribute("TCP port, int.")
    prefix = Attribute("Path in front of every request target, bytes without a final slash.")
    server_name = Attribute("Name or IP address that the certificate must have, str.")

    def tls_context() -> SSL.Context:
        """A client context: TLS 1.2 or newer, chain and validity verified by OpenSSL against the
        cluster's CA, with the client certificate if there is one. The name is checked by whoever
        connects. The same object as long as nothing changed, so that it can key a pool.

        :raises UpstreamError: the CA or the client certificate cannot be read (503).
        """

    def bearer() -> bytes | None:
        """Our token, without the word `Bearer`; None where a client certificate serves.

        :raises UpstreamError: a token is configured and there is none (503).
        """

    def rejected() -> None:
        """The API server answered 401: read the token anew before it is used again."""


@attrs.frozen
class KeyPair:
    """A certificate chain and its key, PEM, and until when it is valid."""

    chain: bytes
    key: bytes = attrs.field(repr=False)
    not_after: datetime


class ICertificateSource(Interface):
    """Keeps the listener's certificate at hand. It never makes a handshake wait."""

    def pair(server_name: str | None) -> KeyPair | None:
        """What to serve now.

        :param server_name: the name the client asked for (SNI), lower case; None when it sent
            none, as clients do that dial an IP address. A name we have no certificate for gets
            the default one.
        :returns: None while there is none at all: the handshake is refused.
        """


class IDoor(Interface):
    """Where an accepted connection goes: to an HTTP channel here, or to a worker process."""

    def admit(connection: socket.socket) -> None:
        """Take a connected TCP socket, and with it the duty to close it. Never raises."""

    def close() -> None:
        """No more connections will come; those that came go on."""


@attrs.frozen
class DrainTimes:
    """How long leaving may take, in seconds.

    `requests`: for requests in flight; `streams`: for exec, attach, port-forward and logs. Both
    count from the beginning of the drain.
    """

    requests: float
    streams: float


class IDrainable(Interface):
    """Something that leaves in an orderly way: a listener, later a worker or a replica."""

    def drain() -> Deferred[None]:
        """Take no new work, finish what is under way within its times, then fire.

        Safe to call twice: the second caller waits for the same end.
        """


@attrs.frozen
class CheckResult:
    """Outcome of one readiness check. `detail` says in a sentence why."""

    ok: bool
    detail: str


class IReadinessCheck(Interface):
    """One condition without which a request that arrives now would not be served."""

    name = Attribute("Short name as `/readyz?verbose` prints it, str, lower case with hyphens.")

    def check() -> CheckResult:
        """How it stands now, from what is already known: it must not wait for anything."""


@attrs.frozen(slots=False)  # with slots, making one costs a third more, at every request
class AccessRecord:
    """One request that was answered, as the audit trail keeps it (spec/dataplane.md 1.13).

    Nothing in it holds a query, a header with a credential or a body: selectors and commands may
    be secrets. (The selectors of `info` must not be written anywhere.)

    :ivar id: the request's, of letters, digits and hyphens; the API server has it as `Audit-ID`.
    :ivar identity: None for a caller nobody knows.
    :ivar listener: the listener's name.
    :ivar path: as sent.
    :ivar info: the request in the API server's words.
    :ivar status: 499 when the client went before there was an answer.
    :ivar sent: bytes of bodies or streams that went to the client; `received` came from it.
    :ivar duration: in seconds, to the end of the answer or stream.
    :ivar upgrade: the protocol that the client wanted to switch to.
    :ivar session: what kind of session it was, as `Forward.session` has it; empty for none.
    :ivar exit_code: of the command of a session, if it is known.
    :ivar recorded: where the session or the request was recorded; empty if it was not.
    :ivar decision: `forward` for what went to the API server, `serve` for what is answered here,
        `refuse`, or `none` when the client went first.
    :ivar denied: the label of an error of our own as the answer, else empty.
    :ivar reason: why it was refused, or why nothing was recorded, for people.
    """

    id: str
    identity: Identity | None
    caller: Caller
    listener: str
    method: str
    path: str
    info: RequestInfo
    status: int
    sent: int
    received: int
    duration: float
    upgrade: str
    session: str
    exit_code: int | None
    recorded: str
    decision: str
    denied: str
    reason: str
    user_agent: str

    @property
    def user(self) -> str:
        """As whom the request ran; empty for a caller nobody knows."""
        return "" if self.identity is None else self.identity.user

    @property
    def verb(self) -> str:
        """The API's word for it, or the method in lower case for what is no resource."""
        return self.info.verb


class IAuditSink(Interface):
    """Where the audit trail goes. Never waits, never raises."""

    def answered(record: AccessRecord) -> None:
        """A request has its answer (for streams: the stream has ended)."""


class ITailnetDialer(Interface):
    """The way from here to other nodes of the tailnet."""

    def endpoint(address: AddressPort) -> IStreamClientEndpoint:
        """Where to connect for a TCP connection to a node.

        It goes through the tailnet, whatever kind of networking tailscaled has, and never through
        a proxy that the environment names. `connect` fails with any exception whose text says why.
        """


class SinkError(Exception):
    """A recording is not kept, or not the whole of it.

    :ivar reason: why, for the caller: the end of a sentence, without addresses and paths.
    :ivar detail: the same for the log, with them; the reason if there is no more to say.
    :ivar end: whether the session is to end whatever its policy is, since somebody at the recorder
        wants it; the reason says who.
    """

    def __init__(self, reason: str, detail: str = "", *, end: bool = False) -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail or reason
        self.end = end


class IUploadWatcher(Interface):
    """Whoever records. Never called from within a call of theirs to the upload."""

    def upload_drained() -> None:
        """The upload was full and now has room."""

    def upload_failed(error: SinkError) -> None:
        """There is no more to be had of the upload, and what it has may be lost.

        At most once, and not after `IUpload.finish` or `IUpload.abandon`.
        """


class IUpload(Interface):
    """One recording on its way to where it is kept."""

    place = Attribute("Where that is, for the log: an address or a path, str.")
    backlog = Attribute("Bytes that were written and that nobody has taken yet, int.")
    full = Attribute(
        "Whether the backlog has reached its limit, bool: time to read less of what is recorded."
        " `IUploadWatcher.upload_drained` says when it is over."
    )

    def watch(watcher: IUploadWatcher) -> None:
        """Tell this one how it goes. A failure from before is told at the next turn."""

    def write(lines: bytes) -> None:
        """Keep whole lines; the first one is the header. Never waits and never raises: what comes
        when it is full is taken all the same, and what comes after a failure is forgotten.
        """

    def finish() -> Deferred[None]:
        """There are no more lines. Fires when all of them are kept, within 30 s; it fails with
        `SinkError` if some may not be.
        """

    def abandon() -> None:
        """The session did not begin: nothing was written, and nothing is to be kept.

        After lines were written it gives the recording up where it is.
        """


class ISessionSink(Interface):
    """Where recordings of sessions are kept."""

    name = Attribute("Which kind it is, for logs and metrics, str.")

    def open(session: str) -> Deferred[IUpload]:
        """Have a place for a recording, so sure that a session may begin; it has nothing yet
        (spec/streaming.md 5.4). Within 30 s; it fails with `SinkError`. Cancelling it gives up.

        :param session: the session's ID, of letters, digits and hyphens; it tells recordings of
            the same second apart.
        """


class ISessionSinks(Interface):
    """Which sink a session is recorded at."""

    def sink(addresses: Sequence[AddressPort]) -> ISessionSink | None:
        """Say where, or None if there is no such place.

        :param addresses: the recorders that the caller's grants name, in order.
        """


class IRequestEvents(Interface):
    """Tells recorders about requests (spec/streaming.md 8)."""

    def report(identity: Identity, head: RequestHead, body: RecordedBody) -> Deferred[str]:
        """Have one of the recorders that the caller's grants name take an event.

        It fires with the place of the recorder that took it, within 30 s. It fails with `SinkError`
        if none has; one that knows no events has not (W7). Then the request goes on if
        `identity.grants.fail_open`, else it is refused.

        :param body: what is recorded of the request's body; nothing of an upgrade's.
        """


class IRecordings(Interface):
    """The recordings that a recorder of ours keeps, for people to look at.

    Any process on the recorder's machine may have one.
    """

    def search(query: RecordingQuery) -> Deferred[RecordingPage]:
        """Some of those that fit, the latest first."""

    def find(recording: str) -> Deferred[Recording | None]:
        """One of them by its ID; None if there is none."""

    def read(recording: str, offset: int) -> Deferred[bytes]:
        """A piece of it from there on; of one that is live, of the lines that it has by now; of one
        that is encrypted, as it is.

        :returns: nothing at its end, or if there is no such recording.
        """

    def follow(recording: str, offset: int, follower: IRecordingFollower) -> Deferred[None]:
        """Hand over its lines from there on, as they come; none of one that is encrypted. Fires
        behind its end; cancelling it ends it too.

        :param offset: where a line begins.
        """

    def end(recording: str, reason: str) -> Deferred[bool]:
        """End a live one: its upload fails with this reason, and a proxy of ours ends the session.
        Another one does so if it must be recorded (spec/streaming.md 5.6). Whether it is live.

        :param reason: for the person whose session it is, such as "ended by ada@corp.example".
        """


class IRecordingFollower(Interface):
    """Takes a recording while it is made."""

    def recorded(lines: bytes) -> Deferred[None] | None:
        """Whole lines. There are no more until the Deferred fires, if there is one."""


@attrs.frozen
class PluginContext:
    """What a plugin's resource may know of the service.

    `options` is the plugin's own object from the configuration, `Tailproxy.Plugins.NAME`.
    `recordings` are those of the recorder in this service, if it has one.
    """

    options: Mapping[str, Any]
    version: str
    mode: str
    upstream: IUpstream
    recordings: IRecordings | None = None


class IResourcePlugin(IPlugin):
    """A resource that another distribution adds (found by `twisted.plugin.getPlugins`).

    On the tailnet listeners it is at `/.tailproxy/NAME`, reached by known callers only; with the
    mount `admin` it is at `/NAME` of the admin listener, where there is no caller.

    It may have an attribute `title` too: what it is, in a few words, for the page at `/.tailproxy/`
    that lists the plugins of the tailnet listeners.
    """

    name = Attribute("Lower-case letters, digits and hyphens.")
    mount = Attribute("`tailnet` or `admin`.")

    def resource(context: PluginContext) -> IResource:
        """Any `twisted.web` resource. Called at start, and again after a reload that changes what
        the context says; requests under way keep the resource that they have. On a tailnet
        listener each request adapts to `IIdentity` and `ICaller`; its body was read before, 1 MiB
        at most.
        """
