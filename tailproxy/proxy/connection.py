"""The client side of HTTP/1.1: one connection to the API server, one exchange at a time.

Nothing is sent before the handshake is done and the server's name has been verified here, on the
connection itself (design rule 9); chain and validity are OpenSSL's part.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import attrs
import httptools
from OpenSSL import SSL
from service_identity import VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from zope.interface import implementer

from tailproxy.errors import UpstreamError
from tailproxy.interfaces import ResponseHead
from tailproxy.proxy.stream import Stream

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from twisted.python.failure import Failure

    from tailproxy.proxy.exchange import Exchange
    from tailproxy.wire.http1 import Header

# The longest head of an answer; also what may come in one go between two pieces of a body.
HEAD_BYTES = 64 * 1024

# X509_V_ERR_* of OpenSSL's x509_vfy.h, as far as people meet them.
_CHAIN_ERRORS = {
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed and not the configured CA",
    19: "its chain ends in a CA that is not the configured one",
    20: "its issuer is not the configured CA",
    21: "its issuer is not the configured CA",
    26: "it is not meant for servers",
}


class ServerVerification:
    """Makes the TLS connection for one dial and remembers what was wrong with the server.

    :param context: verifies chain and validity.
    :param server_name: host name or IP address that the certificate must have.
    :param session: of an earlier connection to the same server under the same context, which
        spares both sides the certificate; None to do without.
    """

    def __init__(
        self, context: SSL.Context, server_name: str, session: SSL.Session | None = None
    ) -> None:
        self._context = context
        self._session = session
        self._server_name = server_name
        self._is_address = is_address(server_name)
        self._chain_error: int | None = None

    def connect(self, connection: socket.socket) -> SSL.Connection:
        """TLS over a socket, in connect state; SNI is sent for names only (RFC 6066, 3)."""
        tls = SSL.Connection(self._context, connection)
        tls.set_verify(SSL.VERIFY_PEER, self._judge)
        if not self._is_address:
            tls.set_tlsext_host_name(self._server_name.encode("idna"))
        tls.set_connect_state()
        if self._session is not None:
            tls.set_session(self._session)
        return tls

    def _judge(
        self, connection: SSL.Connection, certificate: Any, error: int, depth: int, ok: int
    ) -> bool:
        if not ok and self._chain_error is None:
            self._chain_error = error
        return bool(ok)

    def verify_name(self, connection: SSL.Connection) -> None:
        """Check the certificate's names (RFC 9525).

        :raises UpstreamError: it is for somebody else.
        """
        try:
            if self._is_address:
                verify_ip_address(connection, self._server_name)
            else:
                verify_hostname(connection, self._server_name)
        except VerificationError as error:
            raise UpstreamError(
                502, "tls", f"its certificate is not for {self._server_name}"
            ) from error

    def explain(self, failure: Failure) -> UpstreamError:
        """Why the connection ended before it could be used."""
        if self._chain_error is not None:
            why = _CHAIN_ERRORS.get(self._chain_error, f"OpenSSL's error {self._chain_error}")
            return UpstreamError(502, "tls", f"its certificate is not valid: {why}")
        if failure.check(SSL.Error):
            return UpstreamError(502, "tls", f"the TLS handshake failed: {_ssl_words(failure)}")
        return UpstreamError(502, "connect", "it closed the connection during the TLS handshake")


def is_address(name: str) -> bool:
    """Whether a host is named by its IP address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _ssl_words(failure: Failure) -> str:
    reasons = [part[2] for part in getattr(failure.value, "args", [[]])[0] if len(part) > 2]
    return ", ".join(filter(None, reasons)) or "for no reason that was given"


@attrs.frozen
class Session:
    """A TLS session that was verified, and until when its server's certificate is valid."""

    tls: SSL.Session
    not_after: datetime


@implementer(IHandshakeListener)
class UpstreamConnection(Protocol):
    """One connection to the API server.

    :param key: what it may be used for, as the pool tells one thing from another.
    :param verification: of this very connection.
    :param ready: called once with this connection when it may be used.
    :param failed: called once instead, with an `UpstreamError`.
    :param closed: called with this connection when it is gone.
    :ivar verified: whether a request may be sent on it at all.
    :ivar used: whether it was kept after another request.
    :ivar idle_since: when the last one ended, in seconds of the reactor's clock.
    """

    transport: Any

    def __init__(
        self,
        key: object,
        verification: ServerVerification,
        ready: Callable[[UpstreamConnection], None],
        failed: Callable[[UpstreamError], None],
        closed: Callable[[UpstreamConnection], None],
    ) -> None:
        self.key = key
        self._verification = verification
        self._ready = ready
        self._failed = failed
        self._closed = closed
        self.verified = False
        self._exchange: Exchange | None = None
        self._stream: Stream | None = None
        self.used = False
        self.idle_since = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._forget_message()

    def handshakeCompleted(self) -> None:
        """The chain is good; the name decides whether anything is sent."""
        try:
            self._verification.verify_name(self.transport.getHandle())
        except UpstreamError as error:
            self.give_up(error)
            return
        self.verified = True
        ready, self._ready, self._failed = self._ready, _ignore, _ignore
        ready(self)

    def give_up(self, error: UpstreamError) -> None:
        """End a connection that is not verified yet, or cannot be."""
        if not self.verified:
            failed, self._failed = self._failed, _ignore
            self.transport.abortConnection()
            failed(error)

    # Sending.

    def begin(self, exchange: Exchange, head: bytes) -> None:
        """Send a request's head. The connection must be free."""
        self._exchange = exchange
        self.transport.write(head)

    @property
    def usable(self) -> bool:
        """Whether a request may be sent on it, as far as can be known."""
        return self.transport.connected and not self.transport.disconnecting

    @property
    def session(self) -> Session | None:
        """What the next connection may resume; once an answer has come, the server has said all
        that it needs.
        """
        tls: SSL.Connection = self.transport.getHandle()
        session, certificate = tls.get_session(), tls.get_peer_certificate()
        if session is None or certificate is None:
            return None
        return Session(session, certificate.to_cryptography().not_valid_after_utc)

    def abort(self) -> None:
        """End the connection at once."""
        self._exchange = None
        self.transport.abortConnection()

    def close(self) -> None:
        """End a connection that nobody uses."""
        self.transport.loseConnection()

    # The parser's callbacks. They only take notes; `dataReceived` acts on them.

    def _forget_message(self) -> None:
        self._reason = b""
        self._headers: list[Header] = []
        self._trailers: list[Header] = []
        self._chunks: list[bytes] = []
        self._bodiless_size = 0
        self._head_complete = False
        self._head_passed = False
        self._message_complete = False
        self._interim: list[ResponseHead] = []
        self._keep_alive = False
        self._upgrade = False
        self._surplus = False
        self._code = 0

    def on_message_begin(self) -> None:
        """Another answer begins: the final one behind an interim one, or one nobody asked for,
        of which nothing is noted but that it is there.
        """
        self._surplus = self._message_complete

    def on_status(self, part: bytes) -> None:
        """A part of the reason phrase."""
        if not self._surplus:
            self._reason += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or behind a body in chunks a trailer."""
        if self._surplus:
            return
        if self._head_complete:
            self._trailers.append((name, value))
        else:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head of an answer is complete."""
        if self._surplus:
            return
        code: int = self._parser.get_status_code()
        if 100 <= code < 200 and code != 101:
            self._interim.append(ResponseHead(code, self._reason, self._headers))
            self._reason, self._headers = b"", []
            return
        self._code = code
        self._head_complete = True
        self._keep_alive = self._parser.should_keep_alive()
        self._upgrade = self._parser.should_upgrade()

    def on_body(self, chunk: bytes) -> None:
        """Bytes of the body."""
        if not self._surplus:
            self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        """An answer is complete."""
        if self._head_complete:
            self._message_complete = True

    # Receiving.

    def dataReceived(self, data: bytes) -> None:
        """Parse what came and pass it on."""
        if self._stream is not None:
            self._stream.data(data)
            return
        if self._exchange is None:
            # Nobody asked: whatever this is, the connection cannot be trusted with a request.
            self.abort()
            return
        early = b""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            early = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            if self._message_complete:
                self._surplus = True  # or a 101 that says not to what
            else:
                self._fail(UpstreamError(502, "protocol", f"its answer is malformed ({error})"))
                return
        if self._chunks or self._message_complete:
            self._bodiless_size = 0
        else:
            self._bodiless_size += len(data)
            if self._bodiless_size > HEAD_BYTES:
                self._fail(UpstreamError(502, "protocol", "the headers of its answer are too long"))
                return
        self._pass_on(self._exchange, early)

    def _pass_on(self, exchange: Exchange, early: bytes) -> None:
        for head in self._interim:
            exchange.interim(head)
        self._interim = []
        if not self._head_complete:
            return
        if not self._head_passed:
            self._head_passed = True
            head = ResponseHead(self._code, self._reason, self._headers)
            if head.code == 101:
                self._switch(exchange, head, early)
                return
            if not exchange.expects_body(head.code):
                # llhttp doesn't know what was asked: behind a HEAD it would wait for a body.
                self._parser = httptools.HttpResponseParser(self)
                if self._chunks:
                    self._fail(UpstreamError(502, "protocol", "it sent a body behind a HEAD"))
                    return
                self._message_complete = True
            exchange.head(head)
            if self._exchange is not exchange:
                return
        if self._chunks:
            chunks, self._chunks = self._chunks, []
            exchange.body(chunks)
        if self._message_complete:
            self._end_message(exchange)
        else:
            exchange.flush()

    def _end_message(self, exchange: Exchange) -> None:
        trailers = self._trailers
        reusable = self._keep_alive and not self._surplus
        self._forget_message()
        self._exchange = None
        exchange.end(trailers, reusable=reusable)

    def _switch(self, exchange: Exchange, head: ResponseHead, early: bytes) -> None:
        if not self._upgrade or not exchange.accepts_switch(head):
            self._fail(UpstreamError(502, "protocol", "it switched to a protocol nobody asked for"))
            return
        self._exchange = None
        self._stream = Stream(self.transport)
        exchange.switched(head, self._stream, early)

    def _fail(self, error: UpstreamError) -> None:
        exchange = self._exchange
        self.abort()
        if exchange is not None:
            exchange.failed(error, answered=True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The API server is gone, or we have left."""
        self._closed(self)
        if not self.verified:
            failed, self._failed = self._failed, _ignore
            failed(self._verification.explain(reason))
            return
        if self._stream is not None:
            self._stream.lost()
            return
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        if self._head_passed and not _delimited(self._headers) and reason.check(ConnectionDone):
            # A body that ends with its connection (RFC 9112, 6.3), and it ended in good order.
            exchange.end((), reusable=False)
            return
        if reason.check(SSL.Error):
            error = UpstreamError(502, "tls", f"it ended TLS: {_ssl_words(reason)}")
            exchange.failed(error, answered=True)
            return
        how = "in the middle of" if self._head_passed else "without"
        exchange.failed(
            UpstreamError(502, "disconnect", f"it closed the connection {how} an answer"),
            answered=self._head_complete or self._bodiless_size > 0,
        )


def _delimited(headers: Sequence[Header]) -> bool:
    """Whether an answer with a body says where it ends (RFC 9112, 6.3)."""
    return any(name.lower() in {b"content-length", b"transfer-encoding"} for name, _ in headers)


def _ignore(_: object) -> None:
    """Somebody has been told already."""
