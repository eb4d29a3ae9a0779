"""Upgraded connections: what goes in at one end comes out at the other."""

from __future__ import annotations

import hashlib

import pytest
from twisted.internet import reactor
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock

from tailproxy.interfaces import DrainTimes
from tailproxy.proxy.relay import GOODBYE_SECONDS, HALF_CLOSED_SECONDS, PARTING_SECONDS
from tests.proxy.plane import Plane
from tests.proxy.servers import Flood, Wire, eventually

EXEC = b"/api/v1/namespaces/d/pods/p/exec?command=sh"
PROTOCOLS = {
    "spdy": (b"POST", b"SPDY/3.1"),
    "websocket": (b"GET", b"websocket"),
}


def asking(method: bytes = b"POST", protocol: bytes = b"SPDY/3.1", *more: bytes) -> bytes:
    lines = (b"Host: k", b"Connection: keep-alive, Upgrade", b"Upgrade: " + protocol, *more)
    return b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (method, EXEC, b"\r\n".join(lines))


def switching(protocol: bytes = b"SPDY/3.1", *more: bytes) -> bytes:
    lines = (b"HTTP/1.1 101 Switching Protocols", b"Connection: Upgrade", b"Upgrade: " + protocol)
    return b"\r\n".join((*lines, *more, b"", b""))


async def join(plane: Plane, tls: object = None) -> tuple[Wire, Wire]:
    """An upgraded connection: client and API server."""
    client = await plane.client(tls=tls)
    client.send(asking())
    server = await plane.server.connection(len(plane.server.connections))
    await server.receives(b"\r\n\r\n")
    server.take()
    server.send(switching())
    await client.receives(b"\r\n\r\n")
    client.take()
    return client, server


class TestSwitch:
    @pytest.mark.parametrize(("method", "protocol"), PROTOCOLS.values(), ids=PROTOCOLS)
    async def test_head_of_the_101_passes_unchanged(self, plane, method, protocol):
        """dp_T1, dp_T2"""
        client = await plane.client()
        client.send(asking(method, protocol, b"X-Stream-Protocol-Version: v4.channel.k8s.io"))
        server = await plane.server.connection()
        head = await server.receives(b"\r\n\r\n")
        assert b"\r\nConnection: Upgrade\r\nUpgrade: %b\r\n" % protocol in head
        answer = switching(protocol, b"X-Stream-Protocol-Version: v4", b"Keep-Alive: x")
        server.send(answer)
        await client.until(lambda: client.received == answer)
        kind = {"SPDY/3.1": "spdy"}.get(protocol.decode(), protocol.decode())
        assert plane.metric("tailproxy_sessions_active", protocol=kind, subresource="exec") == 1

    @pytest.mark.parametrize("case", ["SPDY/3.1", "spdy/3.1"])
    async def test_is_compared_without_case(self, plane, case):
        client = await plane.client()
        client.send(asking())
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.send(switching(case.encode()) + b"!")
        await client.receives(b"!")

    async def test_early_bytes_of_both_sides_come_first_and_count(self, plane):
        """st_http_head"""
        client = await plane.client()
        client.send(asking() + b"EARLY")
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        client.send(b"-BIRD")
        channel = await plane.channel()
        await eventually(lambda: channel._early == b"EARLY-BIRD")
        server.take()
        server.send(switching() + b"DOWN")
        assert (await client.receives(b"DOWN")).endswith(b"\r\n\r\nDOWN")
        assert await server.receives(b"BIRD") == b"EARLY-BIRD"
        client.transport.loseConnection()
        [record] = await plane.answered()
        assert (record.status, record.received, record.sent) == (101, 10, 4)
        assert plane.metric("tailproxy_session_bytes_total", direction="received") == 10

    async def test_eager_client_waits_at_64_kib_and_nothing_is_lost(self, plane):
        client = await plane.client()
        client.send(asking())
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.take()
        flood = Flood(client, 8 * 1024 * 1024)
        await flood.stalls()
        channel = await plane.channel()
        assert len(channel._early) <= 3 * 65536
        server.send(switching())
        await server.until(lambda: len(server.received) == flood.size, 20)
        assert hashlib.sha256(server.received).digest() == flood.digest()

    @pytest.mark.parametrize(
        "answer",
        [
            switching(b"websocket"),
            switching(b"SPDY/3.1, websocket"),
            b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\n\r\n",
            b"HTTP/1.1 101 S\r\nUpgrade: SPDY/3.1\r\n\r\n",
            switching(b"SPDY/3.1", b"Upgrade: SPDY/3.1"),
        ],
        ids=["another", "a-list", "no-upgrade", "no-connection", "twice"],
    )
    async def test_to_what_was_not_asked_for_is_a_502(self, plane, answer):
        client = await plane.client()
        client.send(asking())
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.send(answer + b"stream")
        await client.receives(b'"code": 502}')
        assert b"stream" not in client.received
        await server.ends()

    async def test_refusal_is_passed_on_and_the_connection_stays(self, plane):
        refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Type: x/y\r\nContent-Length: 3\r\n\r\nno!"
        client = await plane.client()
        for _ in range(2):
            client.send(asking())
            server = await plane.server.connection()
            await server.receives(b"\r\n\r\n")
            server.take()
            server.send(refusal)
            assert await client.receives(b"no!") == refusal
            client.take()
        client.send(b"GET /x HTTP/1.1\r\nHost: k\r\n\r\n")
        assert (await server.receives(b"\r\n\r\n")).startswith(b"GET /x ")
        assert [(r.status, r.upgrade) for r in plane.audit.records] == [(403, "SPDY/3.1")] * 2

    async def test_refusal_to_an_eager_client_closes_its_connection(self, plane):
        client = await plane.client()
        client.send(asking() + b"GET /secret HTTP/1.1\r\nHost: k\r\n\r\n")
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!")
        assert (await client.ends()).count(b"HTTP/1.1") == 1
        assert b"secret" not in server.received
        assert len(plane.server.connections) == 1

    async def test_upgrade_without_the_connection_token_is_none(self, plane):
        client = await plane.client()
        client.send(b"GET /x HTTP/1.1\r\nHost: k\r\nUpgrade: websocket\r\n\r\n")
        server = await plane.server.connection()
        assert b"pgrade" not in await server.receives(b"\r\n\r\n")
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await client.receives(b"200 OK")


class TestStream:
    async def test_byte_by_byte_both_ways(self, plane):
        client, server = await join(plane)
        for number in range(500):
            client.send(bytes([number % 256]))
            server.send(bytes([255 - number % 256]))
        await server.until(lambda: len(server.received) == 500)
        await client.until(lambda: len(client.received) == 500)
        assert server.received == bytes(number % 256 for number in range(500))
        assert client.received == bytes(255 - number % 256 for number in range(500))

    @pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
    async def test_flood_into_a_side_that_does_not_read_is_held_back(self, plane, up):
        client, server = await join(plane)
        source, sink = (client, server) if up else (server, client)
        sink.transport.pauseProducing()
        flood = Flood(source, 64 * 1024 * 1024)
        assert await flood.stalls() < 16 * 1024 * 1024  # most of it in the kernel's buffers
        assert plane.buffered < 512 * 1024
        reader = sink.digests()
        sink.transport.resumeProducing()
        await sink.until(lambda: reader.count == flood.size, 60)
        assert reader.digest() == flood.digest()
        source.send(b"!")
        await sink.until(lambda: reader.count == flood.size + 1)

    async def test_client_gone_is_server_gone_within_a_second(self, plane):
        """dp_T8"""
        client, server = await join(plane)
        client.transport.abortConnection()
        await server.ends(1.0)
        [record] = await plane.answered()
        assert record.status == 101
        assert plane.metric("tailproxy_sessions_active", protocol="spdy", subresource="exec") == 0

    @pytest.mark.parametrize("how", ["abortConnection", "loseConnection"])
    async def test_server_gone_is_client_gone_within_a_second(self, plane, how):
        client, server = await join(plane)
        server.send(b"last words")
        if how == "abortConnection":
            await client.receives(b"last words")
        getattr(server.transport, how)()
        assert await client.ends(1.0) == b"last words"
        assert len(await plane.answered()) == 1

    async def test_what_came_before_the_end_arrives_although_the_client_is_slow(self, plane):
        client, server = await join(plane)
        client.transport.pauseProducing()
        data = bytes(range(256)) * 4096
        server.send(data)
        server.transport.loseConnection()
        client.transport.resumeProducing()
        assert await client.ends() == data

    async def test_half_close_of_the_client_is_passed_on_and_the_rest_still_comes(self, plane):
        client, server = await join(plane)
        server.transport.transport.pauseProducing()  # it will answer the close_notify later
        client.send(b"all I have")
        client.transport.loseWriteConnection()
        channel = await plane.channel()
        await eventually(lambda: channel._stream._half_closed)
        server.send(b"and what I have")
        await client.receives(b"and what I have")
        assert not client.lost
        server.transport.transport.resumeProducing()
        await server.ends()
        assert server.received == b"all I have"
        assert server.reason.check(ConnectionDone)  # a close_notify, not a bare FIN
        await client.ends()
        [record] = await plane.answered()
        assert (record.received, record.sent) == (10, 15)

    async def test_half_closed_stream_ends_when_nothing_moves_any_more(self, make_plane):
        clock = Clock()
        plane = make_plane(clock=clock)
        client, server = await join(plane)
        server.transport.transport.pauseProducing()
        client.transport.loseWriteConnection()
        channel = await plane.channel()
        await eventually(lambda: channel._stream._half_closed)
        clock.advance(HALF_CLOSED_SECONDS - 1)
        server.send(b"still here")
        await client.receives(b"still here")
        clock.advance(HALF_CLOSED_SECONDS - 1)
        assert not client.lost
        clock.pump([HALF_CLOSED_SECONDS] * 2)
        await client.ends()
        clock.advance(GOODBYE_SECONDS + 1)
        server.transport.transport.resumeProducing()
        await server.ends()

    async def test_side_that_never_takes_its_last_bytes_does_not_stay(self, make_plane):
        clock = Clock()
        plane = make_plane(clock=clock)
        client, server = await join(plane)
        client.transport.pauseProducing()
        flood = Flood(server, 64 * 1024 * 1024)
        await flood.stalls()
        server.transport.abortConnection()
        # The proxy reads no more while the client is slow, so the server's end shows up late.
        client.transport.resumeProducing()
        await eventually(lambda: len(plane.audit.records) == 1)
        client.transport.pauseProducing()
        clock.advance(GOODBYE_SECONDS + 1)
        client.transport.resumeProducing()
        await client.ends()
        assert not plane.site._channels

    async def test_answer_that_lasts_is_no_reason_to_hurry(self, make_plane):
        """No idle limit on an upgraded connection (st_1.5)."""
        clock = Clock()
        plane = make_plane(clock=clock, times=DrainTimes(1, 2))
        client, server = await join(plane)
        clock.pump([600] * 24)
        client.send(b"still there?")
        await server.receives(b"still there?")
        server.send(b"yes")
        await client.receives(b"yes")


async def test_client_may_close_first_when_the_api_server_has_ended(plane):
    """A userspace tailscaled that closed first would not answer the same port for a minute."""
    client, server = await join(plane)
    server.send(b"last words")
    server.transport.loseConnection()
    await client.receives(b"last words")
    ended = reactor.seconds()
    await client.ends()
    assert reactor.seconds() - ended > 0.8 * PARTING_SECONDS
    assert len(plane.audit.records) == 1


async def test_client_that_closes_first_is_not_waited_for(plane):
    client, server = await join(plane)
    server.transport.loseConnection()
    await server.ends()
    client.transport.loseConnection()
    await client.ends()
    await eventually(lambda: not plane.site._channels)
    assert len(plane.audit.records) == 1
