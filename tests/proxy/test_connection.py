"""The way to the API server: who is on the other side, and what its answers may look like."""

from __future__ import annotations

import pytest
from OpenSSL import SSL

from tests.proxy.plane import Plane
from tests.proxy.servers import Authority, Server

GET = b"GET /x HTTP/1.1\r\nHost: kube\r\n\r\n"


def ok(*lines: bytes) -> bytes:
    return b"\r\n".join((b"HTTP/1.1 200 OK", *lines, b"Content-Length: 0", b"", b""))


@pytest.fixture
def make_plane_for(make_plane):
    """A data plane in front of a server with a certificate of the test's choice."""

    def make(server: Server, **access) -> Plane:
        server.start()
        return make_plane(server=server, access=server.access(**access))

    return make


class TestRule9:
    """The API server is verified: otherwise no byte of a request leaves (design section 6)."""

    async def refusal(self, plane: Plane) -> bytes:
        client = await plane.client()
        client.send(GET)
        answer = await client.receives(b"}")
        assert answer.startswith(b"HTTP/1.1 502 ")
        for wire in plane.server.connections:
            await wire.ends()
            assert wire.received == b""
        assert plane.metric("tailproxy_upstream_errors_total", reason="tls") == 1
        assert plane.metric("tailproxy_upstream_connections") == 0
        return answer

    @pytest.mark.parametrize("name", ["127.0.0.1", "kube.example"], ids=["address", "host"])
    async def test_wrong_name(self, make_plane_for, name):
        plane = make_plane_for(Server(Authority(), "10.9.8.7", "other.example"), server_name=name)
        answer = await self.refusal(plane)
        assert b"its certificate is not for %b" % name.encode() in answer

    async def test_host_name_is_not_matched_by_an_address_nor_by_the_common_name(
        self, make_plane_for
    ):
        server = Server(Authority(), "kube.example")
        server.names = ("127.0.0.1",)
        plane = make_plane_for(server, server_name="kube.example")
        assert b"not for kube.example" in await self.refusal(plane)

    async def test_wrong_authority(self, make_plane_for):
        server = Server(Authority())
        plane = make_plane_for(server, context=Authority("another CA").client_context())
        assert b"its issuer is not the configured CA" in await self.refusal(plane)

    async def test_authority_of_the_same_name(self, make_plane_for):
        plane = make_plane_for(Server(Authority()), context=Authority().client_context())
        assert b"its certificate is not valid" in await self.refusal(plane)

    async def test_expired(self, make_plane_for):
        plane = make_plane_for(Server(Authority(), days=-1))
        assert b"it has expired" in await self.refusal(plane)

    async def test_not_yet_valid(self, make_plane_for):
        plane = make_plane_for(Server(Authority(), first_day=1))
        assert b"it is not valid yet" in await self.refusal(plane)

    async def test_self_signed(self, make_plane_for):
        server = Server(Authority("stranger"), self_signed=True)
        plane = make_plane_for(server, context=Authority().client_context())
        assert b"it is self-signed" in await self.refusal(plane)

    async def test_certificate_of_a_client(self, make_plane_for):
        plane = make_plane_for(Server(Authority(), for_clients=True))
        assert b"it is not meant for servers" in await self.refusal(plane)

    async def test_tls_1_1(self, make_plane_for):
        plane = make_plane_for(Server(Authority(), newest=SSL.TLS1_1_VERSION))
        assert b"the TLS handshake failed" in await self.refusal(plane)

    @pytest.mark.parametrize(
        ("names", "asked"),
        [
            (("127.0.0.1",), "127.0.0.1"),
            (("fd7a::1", "127.0.0.1"), "fd7a::1"),
            (("kube.example",), "kube.example"),
            (("kube.example",), "KUBE.example"),
            (("*.corp.example",), "kube.corp.example"),
        ],
        ids=["ipv4", "ipv6", "host", "upper-case", "wildcard"],
    )
    async def test_right_name_is_let_pass(self, make_plane_for, names, asked):
        plane = make_plane_for(Server(Authority(), *names), server_name=asked)
        client = await plane.client()
        client.send(GET)
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await client.receives(b"200 OK")


class TestAnswer:
    """What the API server says reaches the client as it is, or not at all."""

    async def ask(self, plane: Plane, answer: bytes, request: bytes = GET) -> tuple:
        client = await plane.client()
        client.send(request)
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.send(answer)
        return client, server

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
            b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 7\r\n\r\n',
            ok(b"Set-Cookie: a=1", b"Warning: 299 - x", b"Set-Cookie: b=2", b"Warning: 299 - y"),
            ok(b"X-Empty: ", b"X-Name: Z\xc3\xbcrich \xff"),
            ok(b"X-Long: " + b"a" * 60_000),
            b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 599 Odd\r\nContent-Length: 0\r\n\r\n",
        ],
        ids=["204", "304", "repeated", "empty-and-non-ascii", "long", "no-reason", "599"],
    )
    async def test_passes_unchanged_and_both_connections_stay(self, plane, answer):
        client, server = await self.ask(plane, answer)
        await client.until(lambda: len(client.received) >= len(answer))
        assert client.take() == answer
        server.take()
        client.send(GET)
        await server.receives(b"\r\n\r\n")
        server.send(answer)
        await client.until(lambda: client.received == answer)

    async def test_hop_by_hop_headers_are_taken_out(self, plane):
        client, _ = await self.ask(
            plane,
            b"HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n"
            b"Proxy-Authenticate: x\r\nTrailer: X-Sum\r\nUpgrade: h2c\r\nX-End: 1\r\n"
            b"Content-Length: 2\r\n\r\nok",
        )
        answer = await client.receives(b"ok")
        assert answer == b"HTTP/1.1 200 OK\r\nX-End: 1\r\nContent-Length: 2\r\n\r\nok"

    @pytest.mark.parametrize(
        "framing",
        [b"Content-Length: 7\r\n", b"Transfer-Encoding: chunked\r\n", b""],
        ids=["length", "chunked", "unknown"],
    )
    async def test_to_a_head_has_no_body_and_is_followed_by_the_next(self, plane, framing):
        request = GET.replace(b"GET", b"HEAD")
        client, _ = await self.ask(plane, b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n", request)
        answer = await client.receives(b"\r\n\r\n")
        assert (b"Content-Length: 7" in answer) == (b"7" in framing)
        assert b"chunked" not in answer
        client.take()
        client.send(GET)
        server = await plane.server.connection(0 if framing else 1)
        await server.receives(b"GET /x")
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await client.receives(b"\r\n\r\nok")

    async def test_early_hints_reach_the_client_but_not_one_of_http_1_0(self, plane):
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        end = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        client, server = await self.ask(plane, hints + hints)
        await client.until(lambda: client.received == hints + hints)
        server.send(end)
        assert await client.receives(b"ok") == hints + hints + end
        server.take()
        old = await plane.client()
        old.send(GET.replace(b"1.1", b"1.0"))
        await server.receives(b"\r\n\r\n")
        server.send(hints + end)
        assert (await old.ends()).startswith(b"HTTP/1.1 200 OK\r\n")

    async def test_that_ends_with_a_proper_close_is_whole(self, plane):
        client, server = await self.ask(plane, b"HTTP/1.0 200 OK\r\n\r\nsome ")
        await client.receives(b"some ")
        server.send(b"more")
        server.transport.loseConnection()
        answer = await client.receives(b"0\r\n\r\n")
        assert b"\r\n5\r\nsome \r\n4\r\nmore\r\n0\r\n\r\n" in answer

    async def test_that_ends_with_the_connection_alone_is_not(self, plane):
        """dp_T7"""
        client, server = await self.ask(plane, b"HTTP/1.0 200 OK\r\n\r\nsome")
        await client.receives(b"some")
        server.transport.transport.loseConnection()  # below TLS
        assert not (await client.ends()).endswith(b"0\r\n\r\n")
        assert [(r.status, r.denied) for r in plane.audit.records] == [(200, "disconnect")]

    @pytest.mark.parametrize(
        "length", [b"Content-Length: 9\r\n", b"Transfer-Encoding: chunked\r\n"]
    )
    async def test_that_is_too_short_is_cut_off(self, plane, length):
        """dp_T7"""
        client, server = await self.ask(plane, b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        await client.receives(b"\r\n\r\n")
        server.transport.loseConnection()
        answer = await client.ends()
        assert not answer.endswith(b"0\r\n\r\n")
        assert plane.metric("tailproxy_upstream_errors_total", reason="disconnect") == 1

    async def test_to_http_1_0_ends_with_the_connection(self, plane):
        client, _ = await self.ask(
            plane,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
            GET.replace(b"1.1", b"1.0"),
        )
        assert await client.ends() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"

    @pytest.mark.parametrize(
        "answer",
        [
            b"SSH-2.0-OpenSSH\r\n",
            b"HTTP/2 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nX-A: b\0\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nabc",
            b"HTTP/1.1 101 Switching\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 70_000,
            b"HTTP/1.1 103 Early Hints\r\nX-A: b\r\n\r\n" * 2000,
        ],
        ids=[
            "no-http",
            "http-2",
            "length-and-chunked",
            "two-lengths",
            "folded",
            "nul",
            "101-unasked",
            "101-to-nothing",
            "head-too-long",
            "endless-hints",
        ],
    )
    async def test_that_is_malformed_is_a_502(self, plane, answer):
        client, server = await self.ask(plane, answer)
        received = await client.receives(b'"code": 502}')
        assert received.count(b"HTTP/1.1 502 Bad Gateway\r\n") == 1
        await server.ends()
        [record] = await plane.answered()
        assert (record.status, record.denied) == (502, "protocol")

    async def test_with_malformed_chunks_is_cut_off(self, plane):
        client, server = await self.ask(
            plane, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"
        )
        await client.receives(b"ok")
        server.send(b"zz\r\n")
        assert not (await client.ends()).endswith(b"0\r\n\r\n")
        await server.ends()

    async def test_with_endless_trailers_is_cut_off(self, plane):
        client, server = await self.ask(
            plane, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"
        )
        await client.receives(b"ok")
        server.send(b"X: " + b"y" * 200_000)
        assert not (await client.ends()).endswith(b"0\r\n\r\n")
        await server.ends()

    @pytest.mark.parametrize("surplus", [b"x", b"HTTP/1.1 403 No\r\nX-B: 1\r\n\r\nno"])
    async def test_followed_by_more_is_whole_and_its_connection_is_not_used_again(
        self, plane, surplus
    ):
        first = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        client, server = await self.ask(plane, first + surplus)
        assert await client.receives(b"ok") == first
        await server.ends()
        client.take()
        client.send(GET)
        again = await plane.server.connection(1)
        await again.receives(b"\r\n\r\n")
        again.send(first)
        assert await client.receives(b"ok") == first

    async def test_that_nobody_asked_for_closes_the_connection(self, plane):
        client, server = await self.ask(plane, b"HTTP/1.1 204 No Content\r\n\r\n")
        await client.receives(b"\r\n\r\n")
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await server.ends()
        client.take()
        client.send(GET)
        again = await plane.server.connection(1)
        await again.receives(b"\r\n\r\n")
        again.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert await client.receives(b"\r\n\r\n") == b"HTTP/1.1 204 No Content\r\n\r\n"

    async def test_to_http_1_0_before_the_end_of_the_request_is_ended_visibly(self, plane):
        client, _ = await self.ask(
            plane,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"POST /x HTTP/1.0\r\nHost: k\r\nContent-Length: 9\r\n\r\nabc",
        )
        assert (await client.ends(1.0)).endswith(b"\r\n\r\nok")

    async def test_before_the_end_of_the_request_ends_it(self, plane):
        answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!"
        client, server = await self.ask(
            plane, answer, b"POST /x HTTP/1.1\r\nHost: k\r\nContent-Length: 9\r\n\r\nabc"
        )
        received = await client.receives(b"no!")
        assert b"\r\nConnection: close\r\n" in received
        await server.ends()
        client.send(b"defghi" + GET)
        await client.ends()
        assert len(plane.server.connections) == 1
        assert [r.status for r in plane.audit.records] == [413]
