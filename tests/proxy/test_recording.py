"""Sessions that are to be recorded: nothing is sent without a recorder, nothing shown untold."""

from __future__ import annotations

import json

import pytest
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from tailproxy.errors import RecordingError
from tailproxy.interfaces import IRecordedSession, IRecording, ISessionRecorder
from tailproxy.policy.grants import GrantRule, Grants
from tailproxy.wire.addresses import AddressPort
from tests.proxy.plane import ADA, Plane, identity
from tests.proxy.recorder import FakeRecording, FakeSessionRecorder
from tests.proxy.servers import Wire, eventually
from tests.proxy.test_relay import asking, switching

RECORDER = AddressPort.parse("100.99.99.99:80")
STATUS = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(params=[True, False], ids=["enforced", "fail-open"])
def enforced(request) -> bool:
    return request.param


@pytest.fixture
def recorded(plane, enforced) -> Plane:
    """A plane whose caller's sessions are to be recorded."""
    rule = GrantRule(recorder_addresses=(RECORDER,), enforce_recorder=enforced)
    plane.resolver.known[ADA] = identity(grants=Grants((rule,)))
    return plane


async def running(plane: Plane) -> tuple[Wire, Wire, FakeRecording]:
    """A recorded session: client, API server and recording."""
    client = await plane.client()
    client.send(asking())
    server = await plane.server.connection()
    await server.receives(b"\r\n\r\n")
    server.take()
    server.send(switching())
    await client.receives(b"\r\n\r\n")
    client.take()
    (recording,) = plane.recorder.recordings
    return client, server, recording


async def test_everything_is_told_and_passed_on(recorded, enforced):
    client, server, recording = await running(recorded)
    assert verifyObject(ISessionRecorder, recorded.recorder)
    assert verifyObject(IRecording, recording)
    assert verifyObject(IRecordedSession, recording.session)
    (asked,) = recorded.recorder.asked
    assert (asked.kind, asked.enforced, asked.identity.user) == ("exec", enforced, identity().user)
    client.send(b"up")
    await server.receives(b"up")
    server.send(b"down")
    await client.receives(b"down")
    assert recording.told == [("up", b"up"), ("down", b"down")]
    recording.exit_code = 7
    client.transport.loseConnection()
    await eventually(lambda: recording.state == "ended")
    await eventually(lambda: recorded.audit.records != [])
    (record,) = recorded.audit.records
    assert (record.id, record.recorded, record.exit_code) == (asked.id, "fake", 7)


async def test_nothing_is_sent_before_there_is_a_recorder(recorded):
    recorded.recorder.slow = True
    client = await recorded.client()
    client.send(asking())
    await eventually(lambda: recorded.recorder.waiting != [])
    assert recorded.server.connections == []
    recorded.recorder.answer(recorded.recorder.waiting[0])
    server = await recorded.server.connection()
    await server.receives(b"\r\n\r\n")


async def test_without_a_recorder_an_enforced_session_is_refused_and_another_goes_on(
    recorded, enforced
):
    recorded.recorder.error = RecordingError("no recorder answers")
    client = await recorded.client()
    client.send(asking())
    if not enforced:
        server = await recorded.server.connection()
        await server.receives(b"\r\n\r\n")
        assert recorded.metric("tailproxy_unrecorded_total") == 1
        return
    answer = await client.receives(b"}")
    assert b" 403 " in answer
    status = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert "no recorder answers" in status["message"]
    assert recorded.server.connections == []
    assert recorded.audit.records[0].denied == "recorder-unavailable"


@pytest.mark.parametrize("when", ["enforced", "fail-open"])
async def test_an_error_that_nobody_thought_of_lets_nothing_through(plane, when):
    rule = GrantRule(recorder_addresses=(RECORDER,), enforce_recorder=when == "enforced")
    plane.resolver.known[ADA] = identity(grants=Grants((rule,)))
    plane.recorder.error = ZeroDivisionError("in the recorder")
    client = await plane.client()
    client.send(asking())
    assert b" 500 " in await client.receives(b"\r\n\r\n")
    assert plane.server.connections == []


async def test_a_client_that_does_not_wait_needs_no_recorder(recorded):
    recorded.recorder.slow = True
    client = await recorded.client()
    client.send(asking())
    await eventually(lambda: recorded.recorder.waiting != [])
    cancelled: list[Deferred] = []
    recorded.recorder.waiting[0] = Deferred(cancelled.append)
    client.transport.abortConnection()
    await eventually(lambda: recorded.audit.records != [])
    assert recorded.server.connections == []


async def test_compression_is_not_offered_to_the_api_server(recorded):
    client = await recorded.client()
    client.send(asking(b"GET", b"websocket", b"Sec-WebSocket-Extensions: permessage-deflate"))
    server = await recorded.server.connection()
    assert b"extensions" not in (await server.receives(b"\r\n\r\n")).lower()


async def test_when_the_api_server_refuses_nothing_is_left(recorded):
    client = await recorded.client()
    client.send(asking())
    server = await recorded.server.connection()
    await server.receives(b"\r\n\r\n")
    server.send(STATUS)
    await client.receives(b" 404 ")
    (recording,) = recorded.recorder.recordings
    assert recording.state == "abandoned"


async def test_when_the_api_server_is_gone_what_was_asked_is_kept(recorded):
    client = await recorded.client()
    client.send(asking())
    server = await recorded.server.connection()
    await server.receives(b"\r\n\r\n")
    server.transport.abortConnection()
    await client.receives(b" 502 ")
    (recording,) = recorded.recorder.recordings
    assert recording.state == "ended"
    assert recorded.audit.records[0].recorded == "fake"


async def test_of_a_client_that_goes_before_the_101_is_kept_what_it_asked_for(recorded):
    """The API server may run it all the same."""
    client = await recorded.client()
    client.send(asking())
    server = await recorded.server.connection()
    await server.receives(b"\r\n\r\n")
    client.transport.abortConnection()
    (recording,) = recorded.recorder.recordings
    await eventually(lambda: recording.state == "ended")


async def test_a_session_that_is_cut_as_it_begins_is_never_joined(recorded):
    client = await recorded.client()
    client.send(asking())
    server = await recorded.server.connection()
    await server.receives(b"\r\n\r\n")
    server.take()
    (recording,) = recorded.recorder.recordings

    def begin(_head, session) -> None:
        recording.state = "running"
        session.cut(b"FAREWELL")

    recording.begin = begin
    client.send(b"command")
    server.send(switching() + b"secret")
    assert (await client.ends()).endswith(b"\r\n\r\nFAREWELL")
    assert await server.ends() == b""
    assert recording.state == "ended"


async def test_a_session_that_is_cut_says_its_last_words_and_nothing_after_them(recorded):
    client, server, recording = await running(recorded)
    recording.session.cut(b"FAREWELL")
    server.send(b"secret")
    client.send(b"command")
    assert (await client.ends()).endswith(b"FAREWELL")
    assert b"command" not in (await server.ends())
    assert recording.state == "ended"


async def test_what_a_recording_does_not_take_is_not_shown(recorded):
    client, server, recording = await running(recorded)

    def down(data: bytes) -> bytes:
        recording.session.cut(b"")
        return data

    recording.down = down
    server.send(b"secret")
    assert b"secret" not in await client.ends()


async def test_what_a_recording_keeps_comes_later_and_at_the_end(recorded):
    client, server, recording = await running(recorded)
    recording.keeps = 2
    server.send(b"abcd")
    await client.receives(b"ab")
    assert client.received == b"ab"
    server.send(b"ef")
    await client.receives(b"abcd")
    server.transport.loseConnection()
    assert await client.ends() == b"abcdef"


async def test_a_slow_recorder_holds_the_api_server(recorded):
    client, server, recording = await running(recorded)
    recording.session.hold()
    server.send(b"later")
    client.send(b"up")
    await server.receives(b"up")
    assert recording.bytes("down") == b""
    recording.session.go_on()
    await client.receives(b"later")


async def test_what_is_not_a_session_is_not_recorded(recorded):
    client = await recorded.client()
    client.send(b"GET /api/v1/pods HTTP/1.1\r\nHost: k\r\n\r\n")
    server = await recorded.server.connection()
    await server.receives(b"\r\n\r\n")
    assert recorded.recorder.asked == []
    assert isinstance(recorded.recorder, FakeSessionRecorder)


async def test_a_command_by_way_of_a_node_goes_on_and_the_audit_trail_says_why(plane):
    rule = GrantRule(recorder_addresses=(RECORDER,))
    plane.resolver.known[ADA] = identity(grants=Grants((rule,)))
    client = await plane.client()
    client.send(b"POST /api/v1/nodes/n/proxy/run/d/p/c?cmd=id HTTP/1.1\r\nHost: k\r\n\r\n")
    server = await plane.server.connection()
    await server.receives(b"\r\n\r\n")
    server.send(STATUS)
    await client.receives(b" 404 ")
    await eventually(lambda: plane.audit.records != [])
    (record,) = plane.audit.records
    assert (record.session, record.recorded) == ("node-exec", "")
    assert "cannot be had through a node's proxy" in record.reason
