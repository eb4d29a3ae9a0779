"""Requests through the data plane, byte for byte."""

from __future__ import annotations

import re

import pytest
from twisted.internet.defer import Deferred

from tailproxy.policy.decide import ClientImpersonation, Mode
from tests.proxy.plane import ADA, STRANGER
from tests.proxy.servers import Flood, eventually

GET = b"GET /api/v1/pods?limit=5 HTTP/1.1\r\nHost: kube\r\nUser-Agent: t\r\n\r\n"


async def test_request_goes_up_as_its_caller_and_its_answer_comes_back(plane):
    client = await plane.client()
    client.send(GET)
    server = await plane.server.connection()
    head = await server.receives(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"GET /api/v1/pods?limit=5 HTTP/1.1"
    assert b"Impersonate-User: ada@corp.example" in lines
    assert b"Impersonate-Group: dev" in lines
    assert b"Authorization: Bearer our-token" in lines
    assert b"Host: 127.0.0.1:%d" % plane.server.port in lines
    assert b"X-Forwarded-For: " + ADA.encode() in lines
    server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\n\r\nok")
    answer = await client.receives(b"ok")
    assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\n\r\nok"
    [record] = plane.audit.records
    assert (record.user, record.status, record.sent, record.verb) == (
        "ada@corp.example",
        200,
        2,
        "list",
    )


def id_of(head: bytes) -> str:
    """The ID in a head's last header."""
    [found] = re.findall(rb"\r\nAudit-I[dD]: ([0-9a-f]{32})\r\n", head)
    return found.decode()


async def test_request_has_the_same_id_upstream_and_in_the_audit_trail_and_the_next_another(plane):
    client = await plane.client()
    seen = []
    for _ in range(3):
        client.send(GET[:-2] + b"Audit-ID: mine\r\n\r\n")
        server = await plane.server.connection()
        head = await server.receives(b"\r\n\r\n")
        assert b"mine" not in head
        seen.append(id_of(head))
        server.take()
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await client.receives(b"ok")
        client.take()
    records = await plane.answered(3)
    assert [record.id for record in records] == seen
    assert len(set(seen)) == 3
    assert {record.decision for record in records} == {"forward"}


async def test_refusal_says_the_id_that_the_audit_trail_has(plane):
    client = await plane.client()
    client.send(GET[:-2] + b"Impersonate-User: root\r\n\r\n")
    answer = await client.receives(b'"code": 403')
    [record] = await plane.answered()
    assert record.id == id_of(answer)
    assert (record.decision, record.denied) == ("refuse", "client-impersonation")
    assert record.reason.startswith("Impersonate-User is not accepted from a client")


async def test_what_fails_behind_us_was_forwarded_all_the_same(plane):
    client = await plane.client()
    client.send(GET)
    server = await plane.server.connection()
    head = await server.receives(b"\r\n\r\n")
    server.send(b"nonsense\r\n\r\n")
    answer = await client.receives(b'"code": 502')
    [record] = await plane.answered()
    assert record.id == id_of(head) == id_of(answer)
    assert (record.decision, record.status) == ("forward", 502)
    assert record.reason.startswith("cannot use the Kubernetes API server: ")


async def test_client_that_goes_before_a_decision_has_none(plane):
    plane.resolver.hold = Deferred()
    client = await plane.client()
    client.send(GET)
    await eventually(lambda: plane.resolver.asked)
    client.transport.abortConnection()
    [record] = await plane.answered()
    assert (record.decision, record.status) == ("none", 499)
    plane.resolver.hold.callback(None)


async def test_both_connections_are_kept(plane):
    client = await plane.client()
    for _ in range(3):
        client.send(GET)
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.take()
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await client.receives(b"ok")
        client.take()
    assert len(plane.server.connections) == 1


async def test_no_identity_no_request(plane):
    client = await plane.client(STRANGER)
    client.send(GET)
    answer = await client.receives(b'"code": 401')
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert plane.server.connections == []


async def test_watch_events_pass_one_by_one_in_chunks(plane):
    client = await plane.client()
    client.send(b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nHost: kube\r\n\r\n")
    server = await plane.server.connection()
    await server.receives(b"\r\n\r\n")
    server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.receives(b"\r\n\r\n")
    for event in (b'{"a":1}\n', b'{"b":2}\n'):
        client.take()
        server.send(b"%x\r\n%b\r\n" % (len(event), event))
        assert await client.receives(event) == b"8\r\n%b\r\n" % event
    client.transport.abortConnection()
    await server.ends(1.0)


async def test_body_in_chunks_goes_up_in_chunks_with_trailers_both_ways(plane):
    client = await plane.client()
    client.send(b"POST /x HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    server = await plane.server.connection()
    head = await server.receives(b"abc\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert b"Content-Length" not in head
    client.send(b"2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n")
    assert (await server.receives(b"X-Sum: 5\r\n\r\n")).endswith(
        b"2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n"
    )
    server.send(
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\nX-Down: 7\r\n\r\n"
    )
    assert (await client.receives(b"X-Down: 7\r\n\r\n")).startswith(b"HTTP/1.1 201 Created\r\n")


async def test_interim_answers_are_passed_on(plane):
    client = await plane.client()
    client.send(b"POST /x HTTP/1.1\r\nHost: k\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    server = await plane.server.connection()
    assert b"Expect: 100-continue" in await server.receives(b"\r\n\r\n")
    server.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await client.receives(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.send(b"abc")
    await server.receives(b"\r\n\r\nabc")
    server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert (await client.receives(b"200 OK")).count(b"HTTP/1.1") == 2


async def test_truncated_answer_is_never_ended_cleanly(plane):
    """dp_T7"""
    client = await plane.client()
    client.send(GET)
    server = await plane.server.connection()
    await server.receives(b"\r\n\r\n")
    server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
    await client.receives(b"2\r\nab\r\n")
    server.transport.abortConnection()
    assert not (await client.ends()).endswith(b"0\r\n\r\n")


async def test_api_server_that_is_down_is_a_502_with_a_status(plane):
    """dp_T6"""
    await plane.server.stop()
    client = await plane.client()
    client.send(b"GET /api/v1/pods HTTP/1.1\r\nHost: kube\r\n\r\n")
    answer = await client.receives(b'"code": 502')
    assert b"cannot use the Kubernetes API server" in answer
    plane.server.start()


async def test_upgrade_joins_both_connections_with_the_early_bytes_of_each(plane):
    client = await plane.client()
    client.send(
        b"POST /api/v1/namespaces/d/pods/p/exec?command=sh HTTP/1.1\r\nHost: k\r\n"
        b"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4\r\n"
        b"X-Stream-Protocol-Version: v3\r\nContent-Length: 0\r\n\r\nEARLY-UP"
    )
    server = await plane.server.connection()
    head = await server.receives(b"\r\n\r\n")
    assert b"Connection: Upgrade\r\n" in head
    assert b"Upgrade: SPDY/3.1\r\n" in head
    assert head.count(b"X-Stream-Protocol-Version") == 2
    server.take()
    server.send(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
        b"EARLY-DOWN"
    )
    answer = await client.receives(b"EARLY-DOWN")
    assert b"Connection: Upgrade\r\n" in answer
    assert await server.receives(b"EARLY-UP") == b"EARLY-UP"
    client.send(b"up")
    server.send(b"down")
    await server.receives(b"EARLY-UPup")
    await client.receives(b"EARLY-DOWNdown")
    assert plane.metric("tailproxy_sessions_active", protocol="spdy", subresource="exec") == 1
    server.transport.loseConnection()
    await client.ends()
    assert plane.metric("tailproxy_sessions_active", protocol="spdy", subresource="exec") == 0
    [record] = plane.audit.records
    assert (record.status, record.sent, record.received) == (101, 14, 10)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_target_goes_up_byte_for_byte(plane):
    """dp_T4"""
    client = await plane.client()
    target = b"/api/v1/namespaces/d/services/https:s:443/proxy//a/../%2e/b;c?x=1;y=%zz&&q="
    client.send(b"GET %b HTTP/1.1\r\nHost: kube\r\n\r\n" % target)
    server = await plane.server.connection()
    assert (await server.receives(b"\r\n\r\n")).startswith(b"GET %b HTTP/1.1\r\n" % target)


async def test_prefix_of_the_servers_url_comes_first(make_plane):
    plane = make_plane()
    plane.access.prefix = b"/k8s/clusters/c1"
    client = await plane.client()
    client.send(GET)
    server = await plane.server.connection()
    assert (await server.receives(b"\r\n\r\n")).startswith(b"GET /k8s/clusters/c1/api/v1/pods?")


async def test_planted_identity_never_goes_up(make_plane):
    plane = make_plane(client_impersonation=ClientImpersonation.STRIP)
    client = await plane.client()
    client.send(
        b"GET /x HTTP/1.1\r\nHost: k\r\nConnection: Impersonate-User, Authorization\r\n"
        b"authorization: Bearer mine\r\nIMPERSONATE-USER: root\r\nImpersonate-Extra-a: b\r\n"
        b"X-Remote-User: root\r\nX-Real-Ip: 1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\n"
        b"Forwarded: for=1.2.3.4\r\n\r\n"
    )
    server = await plane.server.connection()
    head = await server.receives(b"\r\n\r\n")
    for planted in (b"mine", b"root", b"1.2.3.4", b"xtra"):
        assert planted not in head
    assert head.count(b"Impersonate-User: ada@corp.example\r\n") == 1


async def test_trailers_cannot_plant_anything_either(plane):
    client = await plane.client()
    client.send(
        b"POST /x HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n!\r\n0\r\n"
        b"X-Sum: 1\r\nImpersonate-User: root\r\nauthorization: x\r\nHost: y\r\n"
        b"Connection: close\r\nX-Remote-User: root\r\n\r\n"
    )
    server = await plane.server.connection()
    assert (await server.receives(b"\r\n0\r\n")).endswith(b"1\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n")


async def test_noauth_leaves_the_clients_credentials_alone(make_plane):
    plane = make_plane(mode=Mode.NOAUTH)
    client = await plane.client()
    lines = (
        b"Authorization: Bearer mine\r\nImpersonate-User: bob\r\nImpersonate-Group: a\r\n"
        b"Impersonate-Uid: 7\r\nImpersonate-Extra-a: b\r\n"
    )
    client.send(b"GET /x HTTP/1.1\r\nHost: k\r\n" + lines + b"\r\n")
    server = await plane.server.connection()
    head = await server.receives(b"\r\n\r\n")
    assert lines in head
    assert b"ada@" not in head
    assert b"our-token" not in head


async def test_many_bodies_of_odd_sizes_arrive_whole(plane):
    client = await plane.client()
    for size in (0, 1, 16383, 65536, 300_001):
        body = bytes(range(256)) * (size // 256 + 1)
        body = body[:size]
        client.send(b"PUT /x HTTP/1.1\r\nHost: k\r\nContent-Length: %d\r\n\r\n%b" % (size, body))
        server = await plane.server.connection()
        await server.ends_with(b"\r\n\r\n" + body)
        server.take()
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, body))
        await client.ends_with(b"\r\n\r\n" + body)
        client.take()
    assert [(r.received, r.sent) for r in plane.audit.records] == [
        (size, size) for size in (0, 1, 16383, 65536, 300_001)
    ]


class TestFlood:
    """64 MiB into a side that does not read: held back, and nothing lost."""

    SIZE = 64 * 1024 * 1024

    @pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
    async def test_download(self, plane, chunked):
        client = await plane.client()
        client.send(GET)
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % self.SIZE
        server.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing)
        await client.receives(b"\r\n\r\n")
        client.take()
        client.transport.pauseProducing()
        flood = Flood(server, self.SIZE, chunk if chunked else bytes)
        assert await flood.stalls() < 16 * 1024 * 1024
        assert plane.buffered < 512 * 1024
        reader = client.digests(chunked=chunked)
        client.transport.resumeProducing()
        await client.until(lambda: reader.count == self.SIZE, 60)
        assert reader.digest() == flood.digest()
        if chunked:
            server.send(b"0\r\n\r\n")
        [record] = await plane.answered()
        assert (record.status, record.sent) == (200, self.SIZE)

    @pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
    async def test_upload(self, plane, chunked):
        client = await plane.client()
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % self.SIZE
        client.send(b"POST /x HTTP/1.1\r\nHost: k\r\n%b\r\n\r\n" % framing)
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.take()
        server.transport.pauseProducing()
        flood = Flood(client, self.SIZE, chunk if chunked else bytes)
        assert await flood.stalls() < 16 * 1024 * 1024
        assert plane.buffered < 512 * 1024
        reader = server.digests(chunked=chunked)
        server.transport.resumeProducing()
        await server.until(lambda: reader.count == self.SIZE, 60)
        assert reader.digest() == flood.digest()
        if chunked:
            client.send(b"0\r\n\r\n")
        server.send(OK)
        await client.receives(b"ok")
        [record] = plane.audit.records
        assert (record.status, record.received) == (200, self.SIZE)

    async def test_while_nobody_knows_who_is_calling(self, plane):
        plane.resolver.hold = Deferred()
        client = await plane.client()
        client.send(b"POST /x HTTP/1.1\r\nHost: k\r\nContent-Length: %d\r\n\r\n" % self.SIZE)
        flood = Flood(client, self.SIZE)
        assert await flood.stalls() < 16 * 1024 * 1024
        channel = await plane.channel()
        assert sum(map(len, channel._request.body._chunks)) <= 2 * 65536
        plane.resolver.hold.callback(None)
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        reader = server.digests()
        await server.until(lambda: reader.count > self.SIZE, 60)

    @pytest.mark.parametrize("how", ["abortConnection", "loseWriteConnection"])
    async def test_of_which_the_client_takes_nothing_any_more_ends_upstream(self, plane, how):
        client = await plane.client()
        client.send(GET)
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.SIZE)
        client.transport.pauseProducing()
        flood = Flood(server, self.SIZE)
        await flood.stalls()
        getattr(client.transport, how)()
        await server.ends(1.0)
        [record] = plane.audit.records
        assert record.status == 200
        assert record.sent < self.SIZE


class TestClientGone:
    """Whenever a client goes, everything made for it goes too, and there is one record."""

    async def test_from_a_watch(self, plane):
        """dp_T8"""
        client = await plane.client()
        client.send(b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nHost: kube\r\n\r\n")
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.receives(b"\r\n\r\n")
        client.transport.loseConnection()
        await server.ends(1.0)
        [record] = plane.audit.records
        assert (record.status, record.verb, record.denied) == (200, "watch", "")

    async def test_before_the_answer(self, plane):
        client = await plane.client()
        client.send(GET)
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        client.transport.loseWriteConnection()
        await server.ends(1.0)
        await client.ends()
        assert [r.status for r in plane.audit.records] == [499]

    async def test_behind_a_body_that_came_before_its_caller_was_known(self, plane):
        plane.resolver.hold = Deferred()
        client = await plane.client()
        client.send(b"POST /x HTTP/1.1\r\nHost: k\r\nContent-Length: 3\r\n\r\nabc")
        await eventually(lambda: plane.resolver.asked)
        plane.resolver.hold.callback(None)
        server = await plane.server.connection()
        await server.receives(b"abc")
        client.transport.abortConnection()
        await server.ends(1.0)
        assert [(r.status, r.received) for r in plane.audit.records] == [(499, 3)]

    async def test_in_the_middle_of_an_upload(self, plane):
        client = await plane.client()
        client.send(b"POST /x HTTP/1.1\r\nHost: k\r\nContent-Length: 9\r\n\r\nabc")
        server = await plane.server.connection()
        await server.receives(b"abc")
        client.transport.abortConnection()
        await server.ends(1.0)
        assert [(r.status, r.received) for r in plane.audit.records] == [(499, 3)]

    @pytest.mark.parametrize(
        "request_",
        [GET, b"POST /x HTTP/1.1\r\nHost: k\r\nContent-Length: 3\r\n\r\nabc"],
        ids=["get", "whole-body"],
    )
    async def test_while_nobody_knows_who_it_is(self, plane, request_):
        plane.resolver.hold = Deferred()
        client = await plane.client()
        client.send(request_)
        await eventually(lambda: plane.resolver.asked)
        client.transport.abortConnection()
        await plane.answered()
        plane.resolver.hold.callback(None)
        assert [(r.status, r.user) for r in plane.audit.records] == [(499, "")]
        assert not plane.upstream._dials


class TestServerGone:
    async def test_before_the_answer_to_an_upload(self, plane):
        client = await plane.client()
        client.send(b"POST /x HTTP/1.1\r\nHost: k\r\nContent-Length: 9\r\n\r\nabc")
        server = await plane.server.connection()
        await server.receives(b"abc")
        server.transport.abortConnection()
        assert b"without an answer" in await client.receives(b'"code": 502}')
        client.send(b"defghi")
        assert not client.lost
        [record] = plane.audit.records
        assert (record.status, record.denied) == (502, "disconnect")

    async def test_in_the_middle_of_a_watch(self, plane):
        """dp_T7"""
        client = await plane.client()
        client.send(b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nHost: kube\r\n\r\n")
        server = await plane.server.connection()
        await server.receives(b"\r\n\r\n")
        server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"{}\n"))
        await client.receives(b"{}\n\r\n")
        server.transport.loseConnection()
        assert (await client.ends()).endswith(b"{}\n\r\n")
        assert [(r.status, r.denied) for r in plane.audit.records] == [(200, "disconnect")]
