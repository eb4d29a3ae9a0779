"""What a client may send, and what becomes of it when it may not."""

from __future__ import annotations

import json

import pytest
from twisted.internet.task import Clock

from tailproxy.proxy.channel import LINGER_SECONDS
from tailproxy.proxy.site import Limits
from tests.proxy.servers import eventually

HEAD = b"Host: kube\r\n"
GET = b"GET /api/v1/pods HTTP/1.1\r\n" + HEAD + b"\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def get(*lines: bytes) -> bytes:
    return b"GET /x HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def post(*lines: bytes, body: bytes = b"") -> bytes:
    fields = b"".join(line + b"\r\n" for line in (b"Host: kube", *lines))
    return b"POST /x HTTP/1.1\r\n" + fields + b"\r\n" + body


CHUNKED = b"Transfer-Encoding: chunked"

MALFORMED = {
    "two lengths that differ": (
        400,
        post(b"Content-Length: 5", b"Content-Length: 6", body=b"abcdef"),
    ),
    "two equal lengths": (400, post(b"Content-Length: 5", b"Content-Length: 5", body=b"abcde")),
    "a length with a sign": (400, post(b"Content-Length: +5", body=b"abcde")),
    "a list as length": (400, post(b"Content-Length: 5,5", body=b"abcde")),
    "a negative length": (400, post(b"Content-Length: -1")),
    "a hexadecimal length": (400, post(b"Content-Length: 0x5", body=b"abcde")),
    "a length with a blank in it": (400, post(b"Content-Length: 1 0", body=b"a")),
    "a length beyond 64 bits": (400, post(b"Content-Length: 18446744073709551621", body=b"abcde")),
    "a length beyond 63 bits": (400, post(b"Content-Length: 9999999999999999999", body=b"abcde")),
    "an empty length": (400, post(b"Content-Length:", body=b"abcde")),
    "length, then chunked": (400, post(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n")),
    "chunked, then length": (400, post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n")),
    "chunked, identity": (400, post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n")),
    "identity, chunked": (400, post(b"Transfer-Encoding: identity, chunked", body=b"0\r\n\r\n")),
    "gzip, chunked": (400, post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")),
    "chunked twice in a line": (
        400,
        post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    ),
    "xchunked": (400, post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n")),
    "chunkedx": (400, post(b"Transfer-Encoding: chunkedx", body=b"0\r\n\r\n")),
    "chunked in quotes": (400, post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n")),
    "identity alone": (400, post(b"Transfer-Encoding: identity", body=b"abc")),
    "an empty coding": (400, post(b"Transfer-Encoding:", body=b"abc")),
    "two lines of codings": (400, post(CHUNKED, CHUNKED, body=b"0\r\n\r\n")),
    "identity and chunked in two lines": (
        400,
        post(b"Transfer-Encoding: identity", CHUNKED, body=b"0\r\n\r\n"),
    ),
    "a vertical tab before chunked": (
        400,
        post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    ),
    "a blank before the colon": (400, post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n")),
    "a tab before the colon": (400, post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n")),
    "a blank before the name": (400, post(b" Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    "a coding on the next line": (400, post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n")),
    "chunked over HTTP/1.0": (
        400,
        b"POST /x HTTP/1.0\r\nHost: kube\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "a bare CR in a value": (400, get(b"Host: kube", b"X-A: b\rX-C: d")),
    "a bare LF behind a line": (400, b"GET /x HTTP/1.1\r\nHost: kube\nX-A: b\r\n\r\n"),
    "a bare LF behind the request line": (400, b"GET /x HTTP/1.1\nHost: kube\n\n"),
    "a NUL in a value": (400, get(b"Host: kube", b"X-A: b\0c")),
    "a NUL in a name": (400, get(b"Host: kube", b"X\0A: b")),
    "an empty name": (400, get(b"Host: kube", b": b")),
    "a name in parentheses": (400, get(b"Host: kube", b"X(A): b")),
    "a line without a colon": (400, get(b"Host: kube", b"nonsense")),
    "a folded line": (400, get(b"Host: kube", b"X-A: b", b" c")),
    "a line folded with a tab": (400, get(b"Host: kube", b"X-A: b", b"\tc")),
    "two hosts": (400, get(b"Host: kube", b"Host: other")),
    "two equal hosts": (400, get(b"Host: kube", b"Host: kube")),
    "no host": (400, get(b"X-A: b")),
    "an empty host": (400, get(b"Host:")),
    "a host with a path": (400, get(b"Host: kube/x")),
    "a host with a user": (400, get(b"Host: me@kube")),
    "a list of hosts": (400, get(b"Host: kube, other")),
    "a chunk size with 0x": (400, post(CHUNKED, body=b"0x3\r\nabc\r\n0\r\n\r\n")),
    "a chunk size with a blank before it": (400, post(CHUNKED, body=b" 3\r\nabc\r\n0\r\n\r\n")),
    "a chunk size with a blank behind it": (400, post(CHUNKED, body=b"3 \r\nabc\r\n0\r\n\r\n")),
    "a chunk size with a sign": (400, post(CHUNKED, body=b"+3\r\nabc\r\n0\r\n\r\n")),
    "a chunk size beyond 64 bits": (400, post(CHUNKED, body=b"10000000000000003\r\nabc\r\n")),
    "a chunk size that is no number": (400, post(CHUNKED, body=b"g\r\nabc\r\n0\r\n\r\n")),
    "no chunk size": (400, post(CHUNKED, body=b"\r\nabc\r\n0\r\n\r\n")),
    "a chunk that ends with LF": (400, post(CHUNKED, body=b"3\nabc\n0\n\n")),
    "a chunk longer than its size": (400, post(CHUNKED, body=b"3\r\nabcd\r\n0\r\n\r\n")),
    "a folded trailer": (400, post(CHUNKED, body=b"0\r\nX-A: b\r\n c\r\n\r\n")),
    "a length among the trailers": (400, post(CHUNKED, body=b"0\r\nContent-Length: 5\r\n\r\n")),
    "a coding among the trailers": (
        400,
        post(CHUNKED, body=b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ),
    "an absolute target": (400, b"GET http://kube/x HTTP/1.1\r\nHost: kube\r\n\r\n"),
    "an absolute target that is an exec (dp_T3)": (
        400,
        b"POST http://x/api/v1/namespaces/d/pods/p/exec HTTP/1.1\r\nHost: kube\r\n\r\n",
    ),
    "CONNECT": (400, b"CONNECT kube:443 HTTP/1.1\r\nHost: kube\r\n\r\n"),
    "CONNECT to a path": (400, b"CONNECT /x HTTP/1.1\r\nHost: kube\r\n\r\n"),
    "a star": (400, b"OPTIONS * HTTP/1.1\r\nHost: kube\r\n\r\n"),
    "TRACE": (405, b"TRACE /x HTTP/1.1\r\nHost: kube\r\n\r\n"),
    "HTTP/0.9": (505, b"GET /x\r\n\r\n"),
    "HTTP/1.2": (400, b"GET /x HTTP/1.2\r\nHost: kube\r\n\r\n"),
    "HTTP/2.0": (505, b"GET /x HTTP/2.0\r\nHost: kube\r\n\r\n"),
    "http in lower case": (400, b"GET /x http/1.1\r\nHost: kube\r\n\r\n"),
    "the preface of HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "a TLS hello": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)),
    "an unknown method": (400, b"FETCH /x HTTP/1.1\r\nHost: kube\r\n\r\n"),
    "a blank in the target": (400, b"GET /x y HTTP/1.1\r\nHost: kube\r\n\r\n"),
    "a fragment in the target": (400, b"GET /x#y HTTP/1.1\r\nHost: kube\r\n\r\n"),
    "a raw byte in the target": (400, b"GET /\xff HTTP/1.1\r\nHost: kube\r\n\r\n"),
    "an upgrade with a body": (
        400,
        post(b"Connection: Upgrade", b"Upgrade: SPDY/3.1", b"Content-Length: 3", body=b"abc"),
    ),
    "an upgrade with chunks": (
        400,
        post(b"Connection: Upgrade", b"Upgrade: SPDY/3.1", CHUNKED, body=b"0\r\n\r\n"),
    ),
    "an upgrade to h2c": (
        400,
        get(b"Host: kube", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"),
    ),
    "an upgrade over HTTP/1.0": (
        400,
        b"GET /x HTTP/1.0\r\nHost: kube\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ),
    "two upgrades": (
        400,
        get(b"Host: kube", b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: SPDY/3.1"),
    ),
    "an expectation that is unknown": (417, post(b"Expect: miracles")),
    "too many header lines": (431, get(b"Host: kube", *[b"X: y"] * 1001)),
    "a head that is too large": (431, get(b"Host: kube", *[b"X: " + b"y" * 1000] * 20)),
    "a header line without an end": (431, b"GET /x HTTP/1.1\r\nX: " + b"y" * 20_000),
    "a target without an end": (431, b"GET /" + b"y" * 20_000),
}


class TestMalformedRequest:
    @pytest.mark.parametrize(("code", "data"), MALFORMED.values(), ids=MALFORMED)
    async def test_is_answered_with_a_status_and_closes_and_nothing_goes_up(
        self, make_plane, code, data
    ):
        clock = Clock()
        plane = make_plane(limits=Limits(header_bytes=16_384), clock=clock)
        client = await plane.client()
        client.send(data)
        answer = await client.receives(b"}")
        head, body = answer.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 %d " % code)
        assert b"\r\nConnection: close" in head
        assert json.loads(body)["code"] == code
        client.take()
        client.send(GET)
        channel = await plane.channel()
        await eventually(lambda: channel._discarded >= len(GET))
        clock.advance(LINGER_SECONDS + 1)
        assert await client.ends() == b""
        assert plane.server.connections == []
        [record] = plane.audit.records
        assert (record.status, record.denied) == (code, "malformed-request")


class TestPipelinedRequest:
    """A second request before the first one is answered is never served, nor mixed up."""

    async def test_in_the_same_segment_leaves_the_first_one_as_it_is(self, plane):
        client = await plane.client()
        client.send(GET + b"DELETE /api/v1/nodes/n1 HTTP/1.1\r\n" + HEAD + b"\r\n")
        server = await plane.server.connection()
        head = await server.receives(b"\r\n\r\n")
        assert head.startswith(b"GET /api/v1/pods HTTP/1.1\r\n")
        server.send(OK)
        assert (await client.ends()).endswith(b"\r\n\r\nok")
        assert server.received == head
        assert len(plane.server.connections) == 1
        assert [(r.method, r.path) for r in plane.audit.records] == [("GET", "/api/v1/pods")]

    async def test_behind_a_body_does_not_become_part_of_it(self, plane):
        client = await plane.client()
        client.send(post(b"Content-Length: 3", body=b"abc") + GET)
        server = await plane.server.connection()
        head = await server.receives(b"abc")
        server.send(OK)
        assert (await client.ends()).count(b"HTTP/1.1") == 1
        assert server.received == head
        assert head.endswith(b"\r\n\r\nabc")

    async def test_in_the_next_segment_is_dropped_and_the_connection_closed(self, plane):
        client = await plane.client()
        client.send(GET)
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.take()
        client.send(GET)
        channel = await plane.channel()
        await eventually(lambda: channel._pipelined)
        server.send(OK)
        assert (await client.ends()).count(b"HTTP/1.1") == 1
        assert server.received == b""

    async def test_that_is_garbage_does_not_cost_the_first_one_its_answer(self, plane):
        client = await plane.client()
        client.send(GET + b"\0\0\0")
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.send(OK)
        assert (await client.ends()).endswith(b"ok")

    @pytest.mark.parametrize("apart", [False, True])
    async def test_behind_connection_close_is_never_served(self, plane, apart):
        client = await plane.client()
        first = get(b"Host: kube", b"Connection: close")
        client.send(first if apart else first + GET)
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.take()
        server.send(OK)
        assert b"Connection: close\r\n" in await client.receives(b"ok")
        client.send(GET)
        await client.ends()
        assert server.received == b""
        assert len(plane.audit.records) == 1


class TestKeepAlive:
    async def test_of_http_1_0_is_not_offered(self, plane):
        client = await plane.client()
        client.send(b"GET /x HTTP/1.0\r\nHost: kube\r\nConnection: keep-alive\r\n\r\n")
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.send(OK)
        assert (await client.ends()).endswith(b"Connection: close\r\n\r\nok")

    async def test_is_ended_by_a_list_with_close_in_it(self, plane):
        client = await plane.client()
        client.send(get(b"Host: kube", b"Connection: x, Close"))
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.send(OK)
        assert b"Connection: close\r\n" in await client.ends()

    async def test_idle_connection_is_closed_in_time(self, make_plane):
        clock = Clock()
        plane = make_plane(clock=clock, limits=Limits(idle_seconds=180))
        client = await plane.client()
        client.send(GET)
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.send(OK)
        await client.receives(b"ok")
        clock.pump([10] * 17)
        assert not client.lost
        client.take()
        client.send(GET)
        await server.until(lambda: server.received.count(b"GET") == 2)
        clock.pump([10] * 30)  # a request under way is not idle, however long it takes
        server.send(OK)
        await client.receives(b"ok")
        clock.pump([10] * 19)
        await client.ends()

    async def test_client_that_never_says_anything_is_closed_without_an_answer(self, make_plane):
        clock = Clock()
        plane = make_plane(clock=clock)
        client = await plane.client()
        await plane.channel()
        clock.advance(11)
        assert await client.ends() == b""
        assert plane.audit.records == []

    async def test_head_that_comes_drop_by_drop_is_answered_with_408(self, make_plane):
        clock = Clock()
        plane = make_plane(clock=clock)
        client = await plane.client()
        channel = await plane.channel()
        for number in range(9):
            client.send(b"GET /x HT"[number : number + 1])
            await eventually(lambda count=number + 1: channel._head_size == count)
            clock.advance(1.1)
        clock.advance(1.1)
        assert (await client.receives(b"}")).startswith(b"HTTP/1.1 408 ")
        assert plane.server.connections == []
        assert [r.status for r in plane.audit.records] == [408]


class TestLimits:
    async def test_large_head_and_long_target_pass(self, plane):
        client = await plane.client()
        target = b"/api/v1/pods?labelSelector=" + b"a" * 100_000
        client.send(
            b"GET %b HTTP/1.1\r\nHost: kube\r\nX-Long: %b\r\n\r\n" % (target, b"b" * 60_000)
        )
        server = await plane.server.connection()
        head = await server.receives(b"\r\n\r\n")
        assert head.startswith(b"GET %b HTTP/1.1\r\n" % target)
        assert b"\r\nX-Long: %b\r\n" % (b"b" * 60_000) in head
        server.send(OK)
        await client.receives(b"ok")

    @pytest.mark.parametrize("line", [b"X-%d: y\r\n", b"y"], ids=["many", "without-an-end"])
    async def test_trailers_are_limited(self, plane, line):
        client = await plane.client()
        client.send(post(CHUNKED, body=b"3\r\nabc\r\n0\r\nX-0: "))
        server = await plane.server.connection()
        await server.receives(b"abc\r\n")
        for _ in range(20):
            client.send(line.replace(b"%d", b"7") * 10_000)
        assert (await client.receives(b"}")).startswith(b"HTTP/1.1 431 ")
        await server.ends()
        assert not server.received.endswith(b"0\r\n\r\n")

    async def test_chunk_extension_without_an_end_is_refused(self, plane):
        client = await plane.client()
        client.send(post(CHUNKED, body=b"3\r\nabc\r\n1;"))
        for _ in range(20):
            client.send(b"x" * 10_000)
        assert (await client.receives(b"}")).startswith(b"HTTP/1.1 431 ")


class TestRefusedUpload:
    """The answer must be read although the client is still sending (RFC 9112, 9.6)."""

    BODY = 5 * 1024 * 1024

    @pytest.mark.parametrize("source", ["100.64.99.99", "100.64.0.5"], ids=["401", "403"])
    @pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
    async def test_client_gets_all_of_the_answer(self, plane, source, chunked):
        client = await plane.client(source)
        framing = CHUNKED if chunked else b"Content-Length: %d" % self.BODY
        client.send(post(framing, b"Impersonate-User: root"))
        if chunked:
            client.send(b"%x\r\n" % self.BODY)
        for _ in range(self.BODY // 65536):
            client.send(bytes(65536))
        answer = await client.receives(b"}")
        code = b"401" if source == "100.64.99.99" else b"403"
        assert answer.startswith(b"HTTP/1.1 %b " % code)
        await eventually(lambda: client.sent_all)
        assert not client.lost
        assert plane.server.connections == []

    async def test_that_never_ends_is_cut_in_the_end(self, make_plane):
        clock = Clock()
        plane = make_plane(clock=clock)
        client = await plane.client("100.64.99.99")
        client.send(post(b"Content-Length: 99999999"))
        await client.receives(b"}")
        channel = await plane.channel()
        for number in range(1, 12):
            client.send(b"x" * 10)
            await eventually(lambda count=number: channel._discarded >= 10 * count or client.lost)
            clock.advance(1)
        await client.ends()

    async def test_whose_end_arrived_before_the_answer_leaves_the_connection_usable(self, plane):
        client = await plane.client()
        client.send(post(b"Content-Length: 3", b"Impersonate-User: root", body=b"abc"))
        assert b"Connection: close" not in await client.receives(b"}")
        client.take()
        client.send(GET)
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.send(OK)
        await client.receives(b"ok")
        assert [(r.status, r.received) for r in plane.audit.records] == [(403, 3), (200, 0)]
