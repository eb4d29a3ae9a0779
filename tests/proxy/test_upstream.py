"""The pool of connections to the API server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, ServerFactory

from tailproxy.errors import UpstreamError
from tailproxy.proxy.connection import ServerVerification
from tailproxy.proxy.upstream import PoolLimits
from tests.proxy.plane import Plane
from tests.proxy.servers import Authority, Flood, eventually

GET = b"GET /x HTTP/1.1\r\nHost: kube\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: kube\r\nContent-Length: 3\r\n\r\nabc"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def ask(plane: Plane, client, number: int = 0, request: bytes = GET, answer: bytes = OK):
    """One request, served by the server's connection with that number."""
    client.take()
    client.send(request)
    server = await plane.server.connection(number)
    await server.receives(request[-4:])
    server.take()
    server.send(answer)
    await client.receives(answer[-2:])
    return server


async def cut_unseen(plane: Plane, client, request: bytes) -> None:
    """Have a kept connection die in the moment in which a request is sent on it."""
    server = plane.server.connections[0]
    connection = plane.upstream._idle[-1]
    connection.transport.pauseProducing()  # it will not see the end before it writes
    server.transport.abortConnection()
    await server.ends()
    client.take()
    client.send(request)
    await eventually(lambda: not plane.upstream._idle)
    connection.transport.resumeProducing()


class TestKeptConnection:
    async def test_that_turns_out_to_be_closed_is_replaced_once_for_a_get(self, plane):
        client = await plane.client()
        await ask(plane, client)
        await cut_unseen(plane, client, GET)
        again = await plane.server.connection(1)
        assert (await again.receives(b"\r\n\r\n")).startswith(b"GET /x ")
        again.transport.abortConnection()
        assert (await client.receives(b"}")).startswith(b"HTTP/1.1 502 ")
        assert len(plane.server.connections) == 2

    async def test_that_turns_out_to_be_closed_is_not_replaced_for_a_post(self, plane):
        client = await plane.client()
        await ask(plane, client)
        await cut_unseen(plane, client, POST)
        assert b"closed the connection without an answer" in await client.receives(b"}")
        assert len(plane.server.connections) == 1

    async def test_of_an_upgrade_is_replaced_too(self, make_plane):
        plane = make_plane(pool=PoolLimits(upgrade_seconds=0.3))
        client = await plane.client()
        await ask(plane, client)
        upgrade = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        await cut_unseen(plane, client, upgrade)
        again = await plane.server.connection(1)
        await again.receives(b"Upgrade: websocket\r\n")
        again.send(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
        await client.receives(b"hello")
        left = [call.func.__name__ for call in reactor.getDelayedCalls()]
        assert "_no_answer" not in left

    async def test_that_the_server_closes_is_dropped(self, plane):
        client = await plane.client()
        server = await ask(plane, client)
        server.transport.loseConnection()
        await server.ends()
        await eventually(lambda: plane.metric("tailproxy_upstream_connections") == 0)
        await ask(plane, client, 1, POST)

    async def test_that_is_just_ending_gets_no_request(self, plane):
        client = await plane.client()
        await ask(plane, client)
        connection = plane.upstream._idle[0]
        connection.close()
        await ask(plane, client, 1, POST)

    async def test_after_an_answer_with_connection_close_is_not_kept(self, plane):
        client = await plane.client()
        answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
        server = await ask(plane, client, answer=answer)
        await server.ends()
        await ask(plane, client, 1)

    async def test_made_under_another_ca_is_closed(self, plane):
        one, two = await plane.client(), await plane.client()
        one.send(GET)
        two.send(GET)
        for number in (0, 1):
            server = await plane.server.connection(number)
            await server.receives(b"\r\n\r\n")
            server.send(OK)
        await one.receives(b"ok")
        await two.receives(b"ok")
        plane.access.context = plane.server.authority.client_context()
        await ask(plane, one, 2)
        for number in (0, 1):
            await plane.server.connections[number].ends()
        assert plane.metric("tailproxy_upstream_connections") == 1

    async def test_that_was_busy_while_the_ca_changed_is_closed_behind_its_answer(self, plane):
        one, two = await plane.client(), await plane.client()
        one.send(GET)
        first = await plane.server.connection()
        await first.receives(b"\r\n\r\n")
        plane.access.context = plane.server.authority.client_context()
        await ask(plane, two, 1)
        first.send(OK)
        await one.receives(b"ok")
        await first.ends()

    async def test_of_the_old_ca_does_not_help_a_server_with_the_wrong_one(self, plane):
        client = await plane.client()
        await ask(plane, client)
        plane.access.context = Authority("new CA").client_context()
        client.take()
        client.send(GET)
        assert b"its issuer is not the configured CA" in await client.receives(b"}")

    async def test_is_closed_after_its_time(self, make_plane):
        plane = make_plane(pool=PoolLimits(idle_seconds=0.05))
        client = await plane.client()
        server = await ask(plane, client)
        await server.ends()
        await ask(plane, client, 1)

    async def test_beyond_the_limit_is_closed(self, make_plane):
        plane = make_plane(pool=PoolLimits(idle_connections=1))
        clients = [await plane.client() for _ in range(3)]
        for client in clients:
            client.send(GET)
        for number in range(3):
            server = await plane.server.connection(number)
            await server.receives(b"\r\n\r\n")
        for server in plane.server.connections:
            server.send(OK)
        for client in clients:
            await client.receives(b"ok")
        await eventually(lambda: sum(s.lost for s in plane.server.connections) == 2)

    async def test_to_another_place_is_not_used(self, plane, make_plane):
        client = await plane.client()
        first = await ask(plane, client)
        other = make_plane()
        plane.access.port = other.server.port
        plane.access.context = other.access.context
        client.send(GET)
        second = await other.server.connection()
        assert b"\r\nHost: 127.0.0.1:%d\r\n" % other.server.port in (
            await second.receives(b"\r\n\r\n")
        )
        await first.ends()


class TestCredential:
    async def test_is_read_anew_after_a_401(self, plane):
        client = await plane.client()
        await ask(plane, client, answer=b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
        assert plane.access.rejections == 1

    async def test_that_cannot_be_used_is_a_503_and_no_connection(self, plane):
        plane.access.broken = UpstreamError(503, "credential", "the CA cannot be read")
        client = await plane.client()
        client.send(GET)
        assert b"the CA cannot be read" in await client.receives(b'"code": 503}')
        assert plane.server.connections == []


class TestTime:
    """How long the API server may take, and for what."""

    async def test_handshake_without_an_end_is_a_504(self, make_plane, silent_port):
        plane = make_plane(pool=PoolLimits(handshake_seconds=0.1))
        plane.access.port = silent_port.getHost().port
        client = await plane.client()
        client.send(GET)
        assert b"its TLS handshake takes too long" in await client.receives(b'"code": 504}')

    async def test_upgrade_without_an_answer_is_a_504(self, make_plane):
        plane = make_plane(pool=PoolLimits(upgrade_seconds=0.1))
        client = await plane.client()
        client.send(GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        server = await plane.server.connection()
        assert b"request for an upgrade" in await client.receives(b'"code": 504}')
        await server.ends()

    async def test_upload_during_a_dial_is_held_back(self, make_plane, silent_port):
        plane = make_plane()
        plane.access.port = silent_port.getHost().port
        client = await plane.client()
        size = 64 * 1024 * 1024
        client.send(b"POST /x HTTP/1.1\r\nHost: k\r\nContent-Length: %d\r\n\r\n" % size)
        flood = Flood(client, size)
        assert await flood.stalls() < 16 * 1024 * 1024
        [dial] = plane.upstream._dials
        assert sum(map(len, dial._exchange._pending)) < 256 * 1024

    async def test_stop_during_a_dial_ends_it(self, make_plane, silent_port):
        plane = make_plane()
        plane.access.port = silent_port.getHost().port
        client = await plane.client()
        client.send(GET)
        await eventually(lambda: plane.upstream._open)
        await plane.upstream.stopService()
        assert b"is being stopped" in await client.receives(b'"code": 503}')
        assert not plane.upstream._open

    async def test_client_that_goes_during_a_dial_leaves_a_connection_for_the_next(self, plane):
        plane.resolver.hold = Deferred()
        client = await plane.client()
        client.send(GET)
        await eventually(lambda: plane.resolver.asked)
        channel = await plane.channel()
        hold, plane.resolver.hold = plane.resolver.hold, None
        hold.callback(None)
        assert plane.upstream._dials
        channel.transport.abortConnection()
        [record] = await plane.answered()
        assert record.status == 499
        await eventually(lambda: plane.upstream._idle)
        assert plane.server.connections[0].received == b""
        await ask(plane, await plane.client(), 0)


@pytest.fixture
def silent_port(nothing_left):  # noqa: ARG001 - what it checks must come after our end
    """A port that accepts and says nothing."""
    factory = ServerFactory()
    factory.noisy = False
    wires = []

    def build(_: object) -> Protocol:
        wires.append(Protocol())
        return wires[-1]

    factory.buildProtocol = build
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    yield port
    port.stopListening()
    for wire in wires:
        if wire.transport is not None:
            wire.transport.abortConnection()


class TestResumedSession:
    """A further connection spares both sides the certificate, and is verified all the same."""

    @pytest.fixture
    def judged(self, monkeypatch):
        """Each look at a certificate of the server's chain."""
        seen = []
        judge = ServerVerification._judge

        def look(self, connection, certificate, error, depth, ok):
            seen.append(depth)
            return judge(self, connection, certificate, error, depth, ok)

        monkeypatch.setattr(ServerVerification, "_judge", look)
        return seen

    @staticmethod
    async def two_connections(plane, between=lambda: None) -> None:
        """One request, then another one that finds no kept connection."""
        client = await plane.client()
        server = await ask(plane, client)
        server.transport.loseConnection()
        await server.ends()
        await eventually(lambda: not plane.upstream._idle)
        between()
        await ask(plane, client, 1)

    async def test_is_used_by_the_next_connection(self, plane, judged):
        looks = []
        await self.two_connections(plane, lambda: looks.append(len(judged)))
        assert looks[0] > 0
        assert len(judged) == looks[0]

    async def test_has_its_name_checked_again(self, plane, monkeypatch):
        names = []
        verify = ServerVerification.verify_name

        def look(self, connection):
            names.append(self._server_name)
            return verify(self, connection)

        monkeypatch.setattr(ServerVerification, "verify_name", look)
        await self.two_connections(plane)
        assert names == [plane.access.server_name] * 2

    async def test_ends_with_the_servers_certificate(self, plane, judged):
        looks = []

        def expire() -> None:
            looks.append(len(judged))
            past = datetime.now(UTC) - timedelta(seconds=1)
            plane.upstream._session = attrs.evolve(plane.upstream._session, not_after=past)

        await self.two_connections(plane, expire)
        assert len(judged) == 2 * looks[0]

    async def test_ends_when_other_authorities_are_to_be_trusted(self, plane, judged):
        looks = []

        def trust() -> None:
            looks.append(len(judged))
            plane.access.context = plane.server.access().context

        await self.two_connections(plane, trust)
        assert len(judged) == 2 * looks[0]
