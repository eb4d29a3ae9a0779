"""Real servers and clients on loopback, for tests of the data plane.

The API server's part is played by a TLS server whose every byte the test writes; clients are
plain sockets driven by the reactor, so that a test can send exactly what it wants.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from zope.interface import implementer

from tailproxy.errors import UpstreamError
from tailproxy.interfaces import IClusterAccess


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """A CA of the test's own."""

    def __init__(self, name: str = "test CA") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _name(name)
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *names: str,
        days: int = 10,
        first_day: int = -1,
        self_signed: bool = False,
        for_clients: bool = False,
    ) -> tuple[object, object]:
        """A certificate for host names or addresses, and its key; `days` may be negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        sans: list[x509.GeneralName] = []
        for name in names:
            try:
                sans.append(x509.IPAddress(ip_address(name)))
            except ValueError:
                sans.append(x509.DNSName(name))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(names[0]))
            .issuer_name(_name(names[0]) if self_signed else self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=-20 if days < 0 else first_day))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName(sans), critical=False)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [
                        ExtendedKeyUsageOID.CLIENT_AUTH
                        if for_clients
                        else ExtendedKeyUsageOID.SERVER_AUTH
                    ]
                ),
                critical=False,
            )
            .sign(key if self_signed else self.key, hashes.SHA256())
        )
        return certificate, key

    def client_context(self) -> SSL.Context:
        """What `IClusterAccess.tls_context` gives for this CA."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.get_cert_store().add_cert(X509.from_cryptography(self.certificate))
        return context


@implementer(IOpenSSLClientConnectionCreator)
class ClientTLS:
    """A TLS client that trusts one authority.

    :param server_name: what to send as SNI; none by default, as when an address is dialled.
    :param newest: newest version of TLS to offer.
    """

    def __init__(
        self, authority: Authority, server_name: str | None = None, newest: int | None = None
    ) -> None:
        self.context = authority.client_context()
        self.context.set_verify(SSL.VERIFY_PEER, lambda *details: bool(details[-1]))
        self.context.set_alpn_protos([b"h2", b"http/1.1"])
        if newest is not None:
            self.context.set_min_proto_version(newest)
            self.context.set_max_proto_version(newest)
            self.context.set_cipher_list(b"ALL:@SECLEVEL=0")
        self._server_name = server_name

    def clientConnectionForTLS(self, _: object) -> SSL.Connection:
        connection = SSL.Connection(self.context, None)
        if self._server_name is not None:
            connection.set_tlsext_host_name(self._server_name.encode())
        connection.set_connect_state()
        return connection


@implementer(IClusterAccess)
@attrs.define
class Access:
    """An `IClusterAccess` of fixed values."""

    host: str
    port: int
    context: SSL.Context
    server_name: str = "127.0.0.1"
    prefix: bytes = b""
    token: bytes | None = b"our-token"
    rejections: int = 0
    broken: UpstreamError | None = None

    def tls_context(self) -> SSL.Context:
        if self.broken is not None:
            raise self.broken
        return self.context

    def bearer(self) -> bytes | None:
        return self.token

    def rejected(self) -> None:
        self.rejections += 1


class Digest:
    """Counts and digests the bytes of a body.

    :param chunked: in chunks, whose framing does not count.
    """

    def __init__(self, *, chunked: bool) -> None:
        self.count = 0
        self._hash = hashlib.sha256()
        self._chunked = chunked
        self._left = 0
        self._line = b""

    def add(self, data: bytes) -> None:
        """The next bytes from the wire."""
        while self._chunked and data:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                self._take(piece)
                continue
            line, end, data = (self._line + data).partition(b"\n")
            self._line = b"" if end else line
            if end and line != b"\r":
                self._left = int(line, 16)
        if not self._chunked:
            self._take(data)

    def _take(self, data: bytes) -> None:
        self.count += len(data)
        self._hash.update(data)

    def digest(self) -> bytes:
        """Of everything that came."""
        return self._hash.digest()


class Wire(Protocol):
    """One end of a connection: everything that came is in `received`."""

    def __init__(self) -> None:
        self.received = b""
        self.made = False
        self.lost = False
        self.reason = None
        self._digest: Digest | None = None
        self._waiting: list[tuple[object, Deferred[None]]] = []

    def connectionMade(self) -> None:
        self.made = True
        self._wake()

    def dataReceived(self, data: bytes) -> None:
        if self._digest is None:
            self.received += data
        else:
            self._digest.add(data)
        self._wake()

    def digests(self, *, chunked: bool = False) -> Digest:
        """From now on only count what comes and take its digest; for floods."""
        self._digest = Digest(chunked=chunked)
        self._digest.add(self.take())
        return self._digest

    def connectionLost(self, reason: object = None) -> None:
        self.lost = True
        self.reason = reason
        self._wake()

    def _wake(self) -> None:
        for entry in list(self._waiting):
            condition, deferred = entry
            if condition():
                self._waiting.remove(entry)
                deferred.callback(None)

    async def until(self, condition: object, seconds: float = 5.0) -> None:
        """Wait until the condition holds; it is asked whenever something happens here."""
        if condition():
            return
        deferred: Deferred[None] = Deferred()
        self._waiting.append((condition, deferred))
        deferred.addTimeout(seconds, reactor)
        try:
            await deferred
        except DeferredTimeout:
            raise AssertionError(
                f"it did not happen within {seconds} s; received so far: {self.received[-500:]!r}"
            ) from None

    async def receives(self, part: bytes, seconds: float = 5.0) -> bytes:
        """Wait for some bytes, and return everything so far."""
        await self.until(lambda: part in self.received, seconds)
        return self.received

    async def ends_with(self, part: bytes) -> bytes:
        """Wait until that is the last thing that came, and return everything so far."""
        await self.until(lambda: self.received.endswith(part))
        return self.received

    async def ends(self, seconds: float = 5.0) -> bytes:
        """Wait for the end of the connection, and return everything that came."""
        await self.until(lambda: self.lost, seconds)
        return self.received

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    @property
    def sent_all(self) -> bool:
        """Whether the kernel has taken everything that was sent."""
        return not self.transport.dataBuffer and not self.transport._tempDataBuffer

    def take(self) -> bytes:
        """Return what has come, and forget it."""
        data, self.received = self.received, b""
        return data


@implementer(IPushProducer)
class Flood:
    """Sends a lot as fast as it is taken.

    :param wire: from here.
    :param size: in bytes.
    :param frame: how each piece is written, as chunks of HTTP are.
    """

    PIECE = 65536

    def __init__(self, wire: Wire, size: int, frame: object = bytes) -> None:
        self.size = size
        self.sent = 0
        self._wire = wire
        self._frame = frame
        self._hash = hashlib.sha256()
        self._paused = False
        self._stopped = False
        wire.transport.registerProducer(self, True)
        reactor.callLater(0, self._go)

    def _go(self) -> None:
        while not self._paused and not self._stopped and self.sent < self.size:
            # Different all the time, so that nothing lost or swapped goes unnoticed.
            piece = hashlib.sha256(b"%d" % self.sent).digest() * (self.PIECE // 32)
            self._hash.update(piece)
            self.sent += len(piece)
            self._wire.send(self._frame(piece))
            if self._wire.transport.disconnecting:
                return
        if self.sent == self.size and not self._stopped:
            self._stopped = True
            self._wire.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        if self._paused:
            self._paused = False
            reactor.callLater(0, self._go)

    def stopProducing(self) -> None:
        self._stopped = True

    def digest(self) -> bytes:
        """Of everything, once all of it is sent."""
        assert self.sent == self.size
        return self._hash.digest()

    async def stalls(self) -> int:
        """Wait until nothing more is taken; how much was."""
        before = -1
        while before != self.sent:
            before = self.sent
            for _ in range(20):
                await deferLater(reactor, 0.005)
        assert self.sent < self.size
        return self.sent


class Server:
    """A TLS (or plain) server whose connections the test plays by hand."""

    def __init__(
        self, authority: Authority, *names: str, newest: int | None = None, **certificate: object
    ) -> None:
        self.authority = authority
        self.connections: list[Wire] = []
        self.names = names or ("127.0.0.1", "localhost")
        self._newest = newest
        self._certificate = certificate
        self._waiting: list[Deferred[Wire]] = []
        self._port: object = None

    def start(self) -> None:
        certificate, key = self.authority.issue(*self.names, **self._certificate)
        options = CertificateOptions(privateKey=key, certificate=certificate, enableSessions=True)
        if self._newest is not None:
            context = options.getContext()
            context.set_min_proto_version(self._newest)
            context.set_max_proto_version(self._newest)
            context.set_cipher_list(b"ALL:@SECLEVEL=0")
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = self._build
        self._port = reactor.listenSSL(0, factory, options, interface="127.0.0.1")

    @property
    def port(self) -> int:
        return self._port.getHost().port

    def _build(self, _: object) -> Wire:
        wire = Wire()
        self.connections.append(wire)
        return wire

    async def connection(self, number: int = 0, seconds: float = 5.0) -> Wire:
        """The connection with that number, once it is there."""
        await eventually(lambda: len(self.connections) > number, seconds)
        return self.connections[number]

    async def stop(self) -> None:
        for wire in self.connections:
            if not wire.lost:
                wire.transport.abortConnection()
        await self._port.stopListening()
        for wire in self.connections:
            await wire.ends()

    def access(self, **changes: object) -> Access:
        """How to get here."""
        values = {
            "host": "127.0.0.1",
            "port": self.port,
            "context": self.authority.client_context(),
        }
        return Access(**{**values, **changes})


async def dial(port: int, host: str = "127.0.0.1") -> Wire:
    """A plain connection to a port of this machine."""
    factory = Factory.forProtocol(Wire)
    factory.noisy = False
    return await HostnameEndpoint(reactor, host, port).connect(factory)


async def eventually(condition: object, seconds: float = 5.0) -> None:
    """Wait until something holds that nobody tells of."""
    end = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < end, f"it did not come true within {seconds} s"
        await deferLater(reactor, 0.005)
