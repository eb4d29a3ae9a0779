"""Events about requests: before them where a grant enforces it, beside them where it does not."""

from __future__ import annotations

import hashlib
import json

import pytest
from zope.interface.verify import verifyObject

from tailproxy.interfaces import IRequestEvents, SinkError
from tailproxy.policy.grants import GrantRule, Grants
from tailproxy.wire.addresses import AddressPort
from tailproxy.wire.events import BODY_BYTES
from tests.proxy.plane import ADA, Plane, identity
from tests.proxy.servers import eventually

RECORDER = AddressPort.parse("100.99.99.99:80")
PODS = b"/api/v1/namespaces/d/pods"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def grant(plane: Plane, *, enforced: bool) -> Plane:
    rule = GrantRule(recorder_addresses=(RECORDER,), enforce_recorder=enforced, enable_events=True)
    plane.resolver.known[ADA] = identity(grants=Grants((rule,)))
    return plane


@pytest.fixture
def before(plane):
    return grant(plane, enforced=True)


@pytest.fixture
def beside(plane):
    return grant(plane, enforced=False)


def get(path: bytes = PODS) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: k\r\n\r\n" % path


def post(body: bytes, path: bytes = PODS) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: k\r\nContent-Length: %d\r\n\r\n%b" % (
        path,
        len(body),
        body,
    )


def test_they_are_what_they_say(plane):
    assert verifyObject(IRequestEvents, plane.events)


async def test_nothing_is_sent_before_the_event_is_taken(before):
    before.events.slow = True
    client = await before.client()
    client.send(get())
    await eventually(lambda: before.events.taken != [])
    assert before.server.connections == []
    before.events.answer(before.events.waiting[0])
    server = await before.server.connection()
    await server.receives(b"\r\n\r\n")
    server.send(ANSWER)
    await client.receives(b"{}")
    await eventually(lambda: before.audit.records != [])
    assert before.audit.records[0].recorded == "recorder"


@pytest.mark.parametrize("size", [1, 5000, BODY_BYTES, BODY_BYTES + 1, 1_000_000])
async def test_a_body_is_reported_and_arrives_whole(before, size):
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    client = await before.client()
    client.send(post(body))
    server = await before.server.connection()
    await server.until(
        lambda: len(server.received.partition(b"\r\n\r\n")[2]) >= len(body), seconds=10
    )
    head, _, arrived = server.received.partition(b"\r\n\r\n")
    assert arrived == body
    assert b"Content-Length: %d" % size in head
    (event,) = before.events.taken
    assert event.kept == body[:BODY_BYTES]
    if size <= BODY_BYTES:
        assert event.sha256 == hashlib.sha256(body).hexdigest()


async def test_a_body_that_comes_late_is_waited_for(before):
    client = await before.client()
    whole = post(b"0123456789")
    client.send(whole[:-4])
    channel = await before.channel()
    await eventually(lambda: channel.site is not None)
    assert before.events.taken == []
    client.send(whole[-4:])
    server = await before.server.connection()
    assert (await server.receives(b"0123456789")).endswith(b"0123456789")
    assert before.events.taken[0].kept == b"0123456789"


async def test_what_no_recorder_takes_is_refused(before):
    before.events.error = SinkError("no recorder takes events now", "100.99.99.99:80 is gone")
    client = await before.client()
    client.send(get())
    answer = await client.receives(b"}")
    assert b" 403 " in answer
    message = json.loads(answer.partition(b"\r\n\r\n")[2])["message"]
    assert "a recorder must be told about this request" in message
    assert "100.99" not in message
    assert before.server.connections == []
    assert before.audit.records[0].denied == "event-unrecorded"


@pytest.mark.parametrize("kind", ["before", "beside"])
async def test_an_error_that_nobody_thought_of_lets_nothing_through_that_is_enforced(plane, kind):
    grant(plane, enforced=kind == "before")
    plane.events.error = ZeroDivisionError("in the reporter")
    client = await plane.client()
    client.send(get())
    if kind == "before":
        assert b" 500 " in await client.receives(b"\r\n\r\n")
        assert plane.server.connections == []
    else:
        await (await plane.server.connection()).receives(b"\r\n\r\n")


async def test_a_client_that_does_not_wait_sends_nothing(before):
    before.events.slow = True
    client = await before.client()
    client.send(get())
    await eventually(lambda: before.events.taken != [])
    client.transport.abortConnection()
    await eventually(lambda: before.audit.records != [])
    assert before.server.connections == []


async def test_secrets_are_not_in_events(before):
    client = await before.client()
    client.send(post(b"secret-data", b"/api/v1/namespaces/d/secrets"))
    server = await before.server.connection()
    await server.receives(b"secret-data")
    (event,) = before.events.taken
    assert (event.kept, event.redacted) == (b"", True)


async def test_beside_it_nothing_waits(beside):
    beside.events.slow = True
    client = await beside.client()
    client.send(post(b"body"))
    server = await beside.server.connection()
    await server.receives(b"body")
    server.send(ANSWER)
    await client.receives(b"{}")
    (event,) = beside.events.taken
    assert event.kept == b"body"


async def test_beside_it_a_failure_is_counted_alone(beside):
    beside.events.error = SinkError("none")
    client = await beside.client()
    client.send(get())
    server = await beside.server.connection()
    await server.receives(b"\r\n\r\n")
    server.send(ANSWER)
    await client.receives(b"{}")
    assert beside.metric("tailproxy_unrecorded_total") == 1


async def test_a_session_is_reported_before_its_recorder_is_looked_for(before):
    before.events.slow = True
    client = await before.client()
    client.send(
        b"POST %b/p/exec HTTP/1.1\r\nHost: k\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
        % PODS
    )
    await eventually(lambda: before.events.taken != [])
    assert before.recorder.asked == []
    before.events.answer(before.events.waiting[0])
    await eventually(lambda: before.recorder.recordings != [])
