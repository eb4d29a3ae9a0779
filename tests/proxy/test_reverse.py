"""Requests through the data plane, byte for byte."""

from __future__ import annotations

from tests.proxy.plane import ADA, STRANGER

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
