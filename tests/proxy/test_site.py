"""Leaving in order."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock

from tailproxy.interfaces import DrainTimes, IDrainable
from tailproxy.proxy.service import DataPlane
from tests.proxy.plane import ADA, Plane
from tests.proxy.servers import Wire, dial, eventually
from tests.proxy.test_relay import join
from tests.proxyheader import proxy_header

GET = b"GET /x HTTP/1.1\r\nHost: kube\r\n\r\n"
WATCH = b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nHost: kube\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
JSON = b"Content-Type: application/json"
PROTOBUF = b"Content-Type: application/vnd.kubernetes.protobuf;stream=watch"
TIMES = DrainTimes(requests=20.0, streams=50.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def plane(make_plane, clock) -> Plane:
    return make_plane(clock=clock, times=TIMES)


async def asked(plane: Plane, request: bytes = GET) -> tuple[Wire, Wire]:
    client = await plane.client()
    client.send(request)
    server = await plane.server.connection(len(plane.server.connections))
    await server.receives(b"\r\n\r\n")
    server.take()
    return client, server


async def watching(plane: Plane, kind: bytes = JSON) -> tuple[Wire, Wire]:
    client, server = await asked(plane, WATCH)
    server.send(b"HTTP/1.1 200 OK\r\n%b\r\nTransfer-Encoding: chunked\r\n\r\n" % kind)
    await client.receives(b"\r\n\r\n")
    client.take()
    return client, server


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_idle_connections_are_closed_at_once(plane):
    client, server = await asked(plane)
    server.send(OK)
    await client.receives(b"ok")
    fresh = await plane.client()
    silent = await dial(plane.port, "127.0.0.2")
    await eventually(lambda: len(plane.site._channels) == 3)
    await plane.service.drain()
    for wire in (client, fresh, silent):
        await wire.ends()
    assert plane.metric("tailproxy_draining") == 1
    assert not plane.service.check().ok


async def test_request_under_way_is_finished_and_told_to_close(plane):
    client, server = await asked(plane)
    done = plane.service.drain()
    assert not done.called
    server.send(OK)
    assert b"\r\nConnection: close\r\n" in await client.receives(b"ok")
    await client.ends()
    await done


async def test_answer_that_had_begun_is_finished(plane):
    client, server = await asked(plane)
    server.send(OK[:-1])
    await client.receives(b"\r\n\r\no")
    done = plane.service.drain()
    server.send(b"k")
    assert (await client.ends()).endswith(b"ok")
    await done


async def test_request_whose_head_is_half_here_is_served(plane):
    client = await plane.client()
    client.send(GET[:10])
    channel = await plane.channel()
    await eventually(lambda: channel._head_size == 10)
    done = plane.service.drain()
    client.send(GET[10:])
    server = await plane.server.connection()
    await server.receives(b"\r\n\r\n")
    server.send(OK)
    assert b"\r\nConnection: close\r\n" in await client.ends()
    await done


async def test_connection_whose_proxy_header_is_half_here_is_served(plane):
    client = await dial(plane.port, "127.0.0.2")
    client.send(proxy_header(ADA)[:20])
    await eventually(lambda: any(c._received for c in plane.site._channels))
    done = plane.service.drain()
    assert not done.called
    client.send(proxy_header(ADA)[20:] + GET)
    server = await plane.server.connection()
    await server.receives(b"\r\n\r\n")
    server.send(OK)
    assert b"\r\nConnection: close\r\n" in await client.ends()
    await done


async def test_new_connections_are_refused(plane):
    client, server = await asked(plane)
    port = plane.port
    done = plane.service.drain()
    with pytest.raises(Refused):
        await dial(port, "127.0.0.2")
    server.send(OK)
    await client.ends()
    await done


@pytest.mark.parametrize("kind", [JSON, PROTOBUF], ids=["json", "protobuf"])
async def test_quiet_watch_is_ended_at_once_and_cleanly(plane, kind):
    client, server = await watching(plane, kind)
    event = b'{"type":"ADDED"}\n' if kind is JSON else b"\0\0\0\5event"
    server.send(chunk(event))
    await client.receives(event)
    done = plane.service.drain()
    assert (await client.ends()).endswith(event + b"\r\n0\r\n\r\n")
    await server.ends(1.0)
    await done
    [record] = plane.audit.records
    assert (record.status, record.denied, record.sent) == (200, "", len(event))


@pytest.mark.parametrize("kind", [JSON, PROTOBUF], ids=["json", "protobuf"])
async def test_watch_is_never_ended_inside_an_event(plane, clock, kind):
    begun, rest, following = (
        (b'{"type":"ADDED"}\n{"type":', b'"DELETED"}\n', b'{"typ')
        if kind is JSON
        else (b"\0\0\0\1a\0\0\0\5ev", b"ent", b"\0\0")
    )
    client, server = await watching(plane, kind)
    server.send(chunk(begun))
    await client.receives(begun)
    done = plane.service.drain()
    clock.pump([1.0] * 15)
    assert not client.lost
    client.take()
    server.send(chunk(rest + following))
    assert await client.ends() == chunk(rest) + b"0\r\n\r\n"
    await done


async def test_watch_of_unknown_kind_is_ended_when_nothing_comes(plane, clock):
    client, server = await watching(plane, b"Content-Type: application/cbor-seq")
    server.send(chunk(b"a"))
    await client.receives(b"a\r\n")
    done = plane.service.drain()
    for _ in range(5):
        client.take()
        clock.advance(0.08)
        server.send(chunk(b"b"))
        await client.receives(b"b\r\n")
    clock.advance(0.11)
    assert (await client.ends()).endswith(b"b\r\n0\r\n\r\n")
    await done


async def test_watch_without_an_answer_yet_is_ended_when_it_has_one(plane):
    client, server = await asked(plane, WATCH)
    done = plane.service.drain()
    server.send(b"HTTP/1.1 200 OK\r\n%b\r\nTransfer-Encoding: chunked\r\n\r\n" % JSON)
    assert (await client.ends()).endswith(b"\r\n\r\n0\r\n\r\n")
    await server.ends(1.0)
    await done


async def test_watch_of_a_caller_not_yet_known_is_ended_too(plane):
    plane.resolver.hold = Deferred()
    client = await plane.client()
    client.send(WATCH)
    await eventually(lambda: plane.resolver.asked)
    done = plane.service.drain()
    plane.resolver.hold.callback(None)
    server = await plane.server.connection()
    await server.receives(b"\r\n\r\n")
    server.send(b"HTTP/1.1 200 OK\r\n%b\r\nTransfer-Encoding: chunked\r\n\r\n" % JSON)
    assert (await client.ends()).endswith(b"0\r\n\r\n")
    await done


async def test_stream_has_its_own_deadline(plane, clock):
    client, server = await join(plane)
    done = plane.service.drain()
    clock.advance(TIMES.requests + 1)
    client.send(b"still typing")
    await server.receives(b"still typing")
    clock.advance(TIMES.streams - TIMES.requests)
    await client.ends()
    await server.ends(1.0)
    await done


async def test_request_has_its_deadline(plane, clock):
    client, server = await asked(plane)
    log, log_server = await asked(
        plane, b"GET /api/v1/namespaces/d/pods/p/log?follow=1 HTTP/1.1\r\nHost: k\r\n\r\n"
    )
    done = plane.service.drain()
    clock.advance(TIMES.requests + 0.1)
    await client.ends()
    await server.ends(1.0)
    assert not log.lost
    clock.advance(TIMES.streams - TIMES.requests)
    await log.ends()
    await log_server.ends(1.0)
    await done


async def test_second_drain_waits_for_the_same_end(plane, clock):
    client, _ = await asked(plane)
    first = plane.service.drain()
    clock.advance(TIMES.requests - 1)
    second = plane.service.drain()
    stopped = plane.service.stopService()
    assert [first.called, second.called, stopped.called] == [False] * 3
    clock.advance(1.1)
    await client.ends()
    await first
    await second
    await stopped
    await plane.service.drain()


async def test_service_is_stopped_when_it_is_drained(plane):
    client, server = await asked(plane)
    idle, other = await asked(plane)
    other.send(OK)
    await idle.receives(b"ok")
    stopped = plane.service.stopService()
    await idle.ends()
    assert not other.lost  # the way to the API server stays until the last request is done
    server.send(OK)
    await client.ends()
    await stopped
    assert not plane.upstream._open
    await server.ends()
    await other.ends()


def test_data_plane_can_be_drained():
    assert IDrainable.implementedBy(DataPlane)
