"""Where clients come in: the PROXY header, the kinds of listener, TLS."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.task import Clock, deferLater

from tailproxy.interfaces import KeyPair
from tailproxy.proxy.site import Limits
from tailproxy.testing import FakeCertificateSource
from tests.proxy.plane import ADA, Plane, identity
from tests.proxy.servers import Authority, ClientTLS, Flood, Wire, dial, eventually
from tests.proxy.test_relay import join
from tests.proxy.test_reverse import OK, chunk
from tests.proxyheader import proxy_header

GET = b"GET /x HTTP/1.1\r\nHost: kube\r\n\r\n"
SIGNATURE = "0d0a0d0a000d0a515549540a"
P1 = bytes.fromhex(SIGNATURE + "2111000c" + "64656667" + "64400009" + "c8220050")

CALLERS = {
    "dp_P1": (P1, "100.101.102.103", 51234),
    "dp_P2": (
        bytes.fromhex(SIGNATURE + "2111000c" + "64400001" + "64400002" + "0001ffff"),
        "100.64.0.1",
        1,
    ),
    "dp_P3": (
        bytes.fromhex(
            SIGNATURE
            + "21210024"
            + "fd7a115ca1e000000000000000000001"
            + "fd7a115ca1e000000000000000000002"
            + "9c401f90"
        ),
        "fd7a:115c:a1e0::1",
        40000,
    ),
    "dp_P6": (
        bytes.fromhex(SIGNATURE + "2111000f" + "64656667" + "64400009" + "c8220050" + "040000"),
        "100.101.102.103",
        51234,
    ),
    "dp_P15": (
        bytes.fromhex(
            SIGNATURE
            + "21210024"
            + "00000000000000000000ffff64400001"
            + "fd7a115ca1e000000000000000000002"
            + "9c401f90"
        ),
        "100.64.0.1",
        40000,
    ),
}

REFUSED = {
    "dp_P7": ("local", bytes.fromhex(SIGNATURE + "20000000")),
    "dp_P8-udp": ("family", bytes.fromhex(SIGNATURE + "2112000c") + P1[16:]),
    "dp_P8-unix": ("family", bytes.fromhex(SIGNATURE + "2131000c") + P1[16:]),
    "dp_P8-unspec": ("family", bytes.fromhex(SIGNATURE + "2100000c") + P1[16:]),
    "dp_P9": ("version", bytes.fromhex(SIGNATURE + "3111000c") + P1[16:]),
    "dp_P10-4": ("short-length", bytes.fromhex(SIGNATURE + "2111000b") + P1[16:]),
    "dp_P10-6": ("short-length", bytes.fromhex(SIGNATURE + "21210023") + bytes(36)),
    "dp_P11": ("version-1", b"PROXY TCP4 100.64.0.1 100.64.0.2 1 80\r\n" + GET),
    "dp_P12": ("no-signature", GET),
    "dp_P13-private": (
        "source-address",
        bytes.fromhex(SIGNATURE + "2111000c" + "0a000001" + "64400009" + "c8220050"),
    ),
    "dp_P13-loopback": (
        "source-address",
        bytes.fromhex(SIGNATURE + "2111000c" + "7f000001" + "64400009" + "c8220050"),
    ),
    "no source port": (
        "source-port",
        bytes.fromhex(SIGNATURE + "2111000c" + "64656667" + "64400009" + "00000050"),
    ),
    "endless": ("long-length", bytes.fromhex(SIGNATURE + "2111ffff") + bytes(2000)),
    "a TLS hello": ("no-signature", b"\x16\x03\x01\x02\x00\x01"),
}


async def served(plane: Plane, client: Wire, number: int = 0) -> bytes:
    server = await plane.server.connection(number)
    head = await server.receives(b"\r\n\r\n")
    server.take()
    server.send(OK)
    await client.receives(b"ok")
    return head


def read_of(plane: Plane) -> int:
    """How much of the header has arrived; 0 before and behind it."""
    return sum(len(c._reader._data) for c in plane.site._channels if hasattr(c, "_reader"))


class TestProxyHeader:
    @pytest.mark.parametrize(("header", "address", "port"), CALLERS.values(), ids=CALLERS)
    @pytest.mark.parametrize("apart", [False, True], ids=["at-once", "apart"])
    async def test_names_the_caller(self, plane, header, address, port, apart):
        """dp_P4 where it comes at once with the request"""
        plane.resolver.known[address] = identity()
        client = await dial(plane.port, "127.0.0.2")
        plane.clients.append(client)
        if apart:
            client.send(header)
            await plane.channel()
            client.send(GET)
        else:
            client.send(header + GET)
        assert b"X-Forwarded-For: %b\r\n" % address.encode() in await served(plane, client)
        [caller] = plane.resolver.asked
        assert (caller.address, caller.port) == (ip_address(address), port)
        assert (caller.service, caller.local) == ("svc:kube", False)

    async def test_may_come_byte_by_byte(self, plane):
        """dp_P5"""
        plane.resolver.known["100.101.102.103"] = identity()
        client = await dial(plane.port, "127.0.0.2")
        plane.clients.append(client)
        for count, byte in enumerate(P1, 1):
            client.send(bytes([byte]))
            await eventually(lambda count=count: read_of(plane) == count % len(P1))
        for byte in GET:
            client.send(bytes([byte]))
        await served(plane, client)

    @pytest.mark.parametrize(("reason", "data"), REFUSED.values(), ids=REFUSED)
    async def test_that_is_wrong_is_closed_without_an_answer_and_counted(self, plane, reason, data):
        client = await dial(plane.port, "127.0.0.2")
        client.send(data)
        assert await client.ends() == b""
        assert plane.metric("tailproxy_proxy_header_refused_total", reason=reason) == 1
        assert plane.resolver.asked == []
        assert plane.audit.records == []
        assert plane.metric("tailproxy_connections", listener="test") == 0

    async def test_that_never_ends_has_ten_seconds(self, make_plane):
        """dp_P14"""
        clock = Clock()
        plane = make_plane(clock=clock)
        client = await dial(plane.port, "127.0.0.2")
        client.send(P1[:20])
        await eventually(lambda: any(c._received for c in plane.site._channels))
        clock.advance(Limits().header_seconds - 0.1)
        assert not client.lost
        clock.advance(0.2)
        assert await client.ends() == b""
        assert plane.metric("tailproxy_proxy_header_refused_total", reason="timeout") == 1

    async def test_without_anything_behind_it_is_no_error(self, plane):
        """dp_P16"""
        client = await dial(plane.port, "127.0.0.2")
        client.send(P1)
        client.transport.loseConnection()
        await client.ends()
        await eventually(lambda: not plane.site._channels)
        refused = plane.metrics.proxy_header_refused.collect()[0].samples
        assert refused == []
        assert plane.audit.records == []

    @pytest.mark.parametrize(("sent", "counted"), [(b"", 0), (P1[:5], 1)])
    async def test_that_is_cut_off_counts_unless_nothing_was_said(self, plane, sent, counted):
        client = await dial(plane.port, "127.0.0.2")
        client.send(sent)
        await eventually(lambda: any(c._received == bool(sent) for c in plane.site._channels))
        client.transport.loseConnection()
        await client.ends()
        await eventually(lambda: not plane.site._channels)
        assert plane.metric("tailproxy_proxy_header_refused_total", reason="eof") == counted

    async def test_is_believed_from_this_machine_only(self, plane, monkeypatch):
        monkeypatch.setattr(socket.socket, "getpeername", lambda _: ("100.64.0.5", 1))
        client = await dial(plane.port, "127.0.0.2")
        await client.ends()
        assert plane.metric("tailproxy_proxy_header_refused_total", reason="not-loopback") == 1

    async def test_makes_every_connection_its_own_caller(self, plane):
        plane.resolver.known["100.64.0.6"] = identity("bob@corp.example")
        one, two = await plane.client(), await plane.client("100.64.0.6")
        one.send(GET)
        assert b"Impersonate-User: ada@corp.example" in await served(plane, one)
        two.send(GET)
        assert b"Impersonate-User: bob@corp.example" in await served(plane, two)

    async def test_before_a_later_request_is_no_header_but_nonsense(self, plane):
        client = await plane.client()
        client.send(GET)
        await served(plane, client)
        client.take()
        client.send(proxy_header("100.64.0.6") + GET)
        assert (await client.receives(b"}")).startswith(b"HTTP/1.1 400 ")
        assert [str(c.address) for c in plane.resolver.asked] == [ADA]


class Certificates:
    """Pairs of one authority, as a certificate source has them."""

    def __init__(self) -> None:
        self.authority = Authority()
        self.source = FakeCertificateSource(self.pair("proxy.example"))

    def pair(self, *names: str) -> KeyPair:
        certificate, key = self.authority.issue(*names)
        return KeyPair(
            chain=certificate.public_bytes(serialization.Encoding.PEM),
            key=key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            not_after=datetime.now(UTC) + timedelta(days=10),
        )


@pytest.fixture
def certificates() -> Certificates:
    return Certificates()


def names_of(wire: Wire) -> list[str]:
    certificate = wire.transport.getPeerCertificate().to_cryptography()
    return [part.value for part in certificate.subject]


class TestOwnTLS:
    @pytest.fixture(params=["serve", "tailnet", "loopback"])
    def plane(self, request, make_plane, certificates) -> Plane:
        plane = make_plane(kind=request.param, certificates=certificates.source)
        plane.resolver.known["127.0.0.1"] = identity()
        return plane

    async def test_caller_is_taken_from_below_it(self, plane, certificates):
        client = await plane.client(tls=ClientTLS(certificates.authority))
        client.send(GET)
        head = await served(plane, client)
        assert b"X-Forwarded-For: %b\r\n" % ADA.encode() in head or plane.kind == "tailnet"
        [caller] = plane.resolver.asked
        assert str(caller.address) == (ADA if plane.kind == "serve" else "127.0.0.1")
        assert caller.local == (plane.kind == "loopback")
        if plane.kind != "serve":
            assert caller.port == client.transport.getHost().port

    @pytest.mark.parametrize(
        ("asked", "got"),
        [
            (None, "proxy.example"),
            ("proxy.example", "proxy.example"),
            ("OTHER.example", "other.example"),
            ("unknown.example", "proxy.example"),
        ],
    )
    async def test_certificate_is_the_one_asked_for_or_the_default(
        self, plane, certificates, asked, got
    ):
        certificates.source.pairs["other.example"] = certificates.pair("other.example")
        client = await plane.client(tls=ClientTLS(certificates.authority, asked))
        client.send(GET)
        await served(plane, client)
        assert names_of(client) == [got]

    async def test_http_1_1_is_all_that_is_offered(self, plane, certificates):
        client = await plane.client(tls=ClientTLS(certificates.authority))
        client.send(GET)
        await served(plane, client)
        assert client.transport.getHandle().get_alpn_proto_negotiated() == b"http/1.1"

    async def test_tls_1_1_is_refused(self, plane, certificates):
        client = await plane.client(
            tls=ClientTLS(certificates.authority, newest=SSL.TLS1_1_VERSION)
        )
        client.send(GET)
        assert await client.ends() == b""
        assert plane.resolver.asked == []

    async def test_without_a_certificate_the_handshake_ends_at_once(self, plane, certificates):
        certificates.source.default = None
        client = await plane.client(tls=ClientTLS(certificates.authority))
        client.send(GET)
        await client.ends(1.0)
        assert plane.audit.records == []

    async def test_without_a_default_a_name_can_still_be_served(self, plane, certificates):
        certificates.source.default = None
        certificates.source.pairs["other.example"] = certificates.pair("other.example")
        client = await plane.client(tls=ClientTLS(certificates.authority, "other.example"))
        client.send(GET)
        await served(plane, client)
        assert client.transport.getHandle().get_alpn_proto_negotiated() == b"http/1.1"

    async def test_plain_http_is_no_handshake(self, plane):
        client = await plane.client()
        client.send(GET)
        await client.ends()
        assert plane.resolver.asked == []


@pytest.fixture
def tls_plane(make_plane, certificates) -> Plane:
    return make_plane(certificates=certificates.source)


class TestOverTLS:
    """What the transport is must make no difference to what is served."""

    async def test_fifty_watches_outlive_a_new_certificate(self, tls_plane, certificates):
        plane = tls_plane
        clients = []
        for number in range(50):
            client = await plane.client(tls=ClientTLS(certificates.authority))
            client.send(b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nHost: kube\r\n\r\n")
            server = await plane.server.connection(number)
            await server.receives(b"\r\n\r\n")
            server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            clients.append(client)
        certificates.source.default = certificates.pair("new.example")
        fresh = await plane.client(tls=ClientTLS(certificates.authority))
        fresh.send(GET)
        await served(plane, fresh, 50)
        assert names_of(fresh) == ["new.example"]
        for number, client in enumerate(clients):
            plane.server.connections[number].send(chunk(b"still here\n"))
            await client.receives(b"still here\n")
            assert names_of(client) == ["proxy.example"]

    async def test_refused_upload_gets_all_of_its_answer(self, tls_plane, certificates):
        client = await tls_plane.client("100.64.99.99", tls=ClientTLS(certificates.authority))
        size = 5 * 1024 * 1024
        client.send(b"POST /x HTTP/1.1\r\nHost: k\r\nContent-Length: %d\r\n\r\n" % size)
        flood = Flood(client, size)
        answer = await client.receives(b"}")
        assert answer.startswith(b"HTTP/1.1 401 ")
        await eventually(lambda: flood.sent == size)
        assert not client.lost

    async def test_request_behind_the_last_answer_is_not_served(self, tls_plane, certificates):
        plane = tls_plane
        client = await plane.client(tls=ClientTLS(certificates.authority))
        client.send(GET[:-2] + b"Connection: close\r\n\r\n")
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.take()
        client.transport.pauseProducing()  # it doesn't see the goodbye yet
        server.send(OK)
        channel = await plane.channel()
        await eventually(lambda: channel._closing)
        client.send(GET)
        await eventually(lambda: client.sent_all)
        await deferLater(reactor, 0.02)  # nothing shows that it was read and thrown away
        client.transport.resumeProducing()
        assert (await client.ends()).count(b"HTTP/1.1") == 1
        await eventually(lambda: not plane.site._channels)
        assert len(plane.resolver.asked) == 1
        assert len(plane.audit.records) == 1
        assert server.received == b""

    async def test_idle_connection_that_does_not_say_goodbye_is_cut(self, make_plane, certificates):
        clock = Clock()
        plane = make_plane(certificates=certificates.source)
        plane.site.clock = clock
        client = await plane.client(tls=ClientTLS(certificates.authority))
        client.send(GET)
        await served(plane, client)
        client.transport.pauseProducing()
        clock.advance(plane.site.limits.idle_seconds + 11)
        channel = await plane.channel()
        assert channel._closing
        clock.pump([10] * 7)
        client.transport.resumeProducing()
        await client.ends()

    @pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
    async def test_stream_is_held_back_and_whole(self, tls_plane, certificates, up):
        plane = tls_plane
        client, server = await join(plane, ClientTLS(certificates.authority))
        source, sink = (client, server) if up else (server, client)
        sink.transport.pauseProducing()
        flood = Flood(source, 64 * 1024 * 1024)
        assert await flood.stalls() < 16 * 1024 * 1024
        assert plane.buffered < 512 * 1024
        reader = sink.digests()
        sink.transport.resumeProducing()
        await sink.until(lambda: reader.count == flood.size, 60)
        assert reader.digest() == flood.digest()

    async def test_download_is_held_back_and_whole(self, tls_plane, certificates):
        plane = tls_plane
        client = await plane.client(tls=ClientTLS(certificates.authority))
        client.send(GET)
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        size = 64 * 1024 * 1024
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        await client.receives(b"\r\n\r\n")
        client.take()
        client.transport.pauseProducing()
        flood = Flood(server, size)
        assert await flood.stalls() < 16 * 1024 * 1024
        assert plane.buffered < 512 * 1024
        reader = client.digests()
        client.transport.resumeProducing()
        await client.until(lambda: reader.count == size, 60)
        assert reader.digest() == flood.digest()

    async def test_truncated_answer_to_http_1_0_is_not_ended_with_a_goodbye(
        self, tls_plane, certificates
    ):
        """dp_T7"""
        plane = tls_plane
        client = await plane.client(tls=ClientTLS(certificates.authority))
        client.send(GET.replace(b"1.1", b"1.0"))
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"half"))
        await client.receives(b"half")
        server.transport.abortConnection()
        await client.ends()
        assert client.reason.type.__name__ == "ConnectionLost"

    async def test_client_gone_is_server_gone_within_a_second(self, tls_plane, certificates):
        """dp_T8"""
        client, server = await join(tls_plane, ClientTLS(certificates.authority))
        client.transport.loseConnection()
        await server.ends(1.0)
        await client.ends()
