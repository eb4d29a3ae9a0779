"""The recording of a session: what is written, and what becomes of it when something breaks."""

from __future__ import annotations

import json

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from tailproxy.errors import RecordingError
from tailproxy.interfaces import (
    IRecording,
    ISessionRecorder,
    IUploadWatcher,
    RecordedSession,
    ResponseHead,
    SinkError,
)
from tailproxy.metrics import Metrics
from tailproxy.policy.grants import GrantRule, Grants
from tailproxy.record.session import LAG_SECONDS, SessionRecorder
from tailproxy.testing import FakeSessionSink, FakeSessionSinks
from tailproxy.wire.addresses import AddressPort
from tailproxy.wire.cast import HEADER_SECONDS
from tailproxy.wire.head import read_head
from tests.proxy.plane import identity

RECORDER = AddressPort.parse("100.99.99.99:80")
TARGET = b"/api/v1/namespaces/prod/pods/web-0/exec?command=sh&command=-c&command=ls&container=app"


def switched(*fields: tuple[bytes, bytes]) -> ResponseHead:
    return ResponseHead(101, b"Switching Protocols", fields)


WEBSOCKET = switched((b"Upgrade", b"websocket"), (b"Sec-WebSocket-Protocol", b"v5.channel.k8s.io"))


def frame(channel: int, payload: bytes) -> bytes:
    """A WebSocket message of the server's."""
    return bytes((0x82, len(payload) + 1, channel)) + payload


def size(columns: int, rows: int) -> bytes:
    """A terminal's size, as the client sends it."""
    payload = b'{"Width":%d,"Height":%d}\n' % (columns, rows)
    return bytes((0x82, 0x80 | (len(payload) + 1), 0, 0, 0, 0, 4)) + payload


class Session:
    """A session that is recorded, and what the recording does to it."""

    def __init__(self, *, enforced: bool = True, target: bytes = TARGET) -> None:
        self.clock = Clock()
        self.metrics = Metrics("1")
        self.sink = FakeSessionSink()
        self.recorder = SessionRecorder(
            FakeSessionSinks(self.sink), self.metrics, self.clock, now=lambda: 1_760_000_000.5
        )
        self.recorder.startService()
        rule = GrantRule(recorder_addresses=(RECORDER, RECORDER), enforce_recorder=enforced)
        head = read_head(b"GET", target, "1.1", [(b"Host", b"kube")])
        self.wanted = RecordedSession(
            "r1", "exec", head, identity(grants=Grants((rule,))), enforced
        )
        self.held = False
        self.farewell: bytes | None = None

    def open(self):
        return self.recorder.open(self.wanted)

    def begin(self, head: ResponseHead = WEBSOCKET):
        self.recording = self.open().result
        self.recording.begin(head, self)
        return self.recording

    # See `IRecordedSession`.

    def hold(self) -> None:
        self.held = True

    def go_on(self) -> None:
        self.held = False

    def cut(self, farewell: bytes) -> None:
        self.farewell = farewell

    @property
    def upload(self):
        return self.sink.uploads[-1]

    @property
    def lines(self) -> list:
        return [json.loads(line) for line in self.upload.written.splitlines()]

    def counted(self, result: str) -> float:
        name = "tailproxy_recordings_total"
        return self.metrics.registry.get_sample_value(name, {"result": result}) or 0

    @property
    def unrecorded(self) -> float | None:
        return self.metrics.registry.get_sample_value("tailproxy_unrecorded_total")


TTY = TARGET + b"&tty=true"


def test_they_are_what_they_say():
    session = Session()
    recording = session.begin()
    assert verifyObject(ISessionRecorder, session.recorder)
    assert verifyObject(IRecording, recording)
    assert verifyObject(IUploadWatcher, recording)


def test_the_header_says_who_and_where():
    session = Session()
    session.begin()
    (header,) = session.lines
    assert header["timestamp"] == 1_760_000_000
    assert (header["width"], header["height"]) == (0, 0)
    assert header["command"] == "sh -c ls"
    assert header["srcNode"] == identity().node
    assert header["srcNodeUser"] == identity().login
    assert header["kubernetes"] == {
        "PodName": "web-0",
        "Namespace": "prod",
        "Container": "app",
        "SessionType": "exec",
    }
    assert header["tailproxy"]["command"] == ["sh", "-c", "ls"]
    assert header["tailproxy"]["user"] == identity().user


def test_output_becomes_lines_in_its_time_and_passes_untouched():
    session = Session(enforced=False)
    recording = session.begin()
    session.clock.advance(1.5)
    data = frame(1, b"out") + frame(2, b"err")
    assert recording.down(data) == data
    assert session.lines[1:] == [[1.5, "o", "out"], [1.5, "o", "err"]]


def test_input_is_never_written():
    session = Session()
    recording = session.begin()
    recording.up(bytes((0x82, 0x85, 0, 0, 0, 0, 0)) + b"pass")
    assert len(session.lines) == 1


def test_the_end_is_written_with_the_exit_code_and_acknowledged():
    session = Session()
    recording = session.begin()
    status = {"status": "Failure", "reason": "NonZeroExitCode", "details": {}}
    status["details"] = {"causes": [{"reason": "ExitCode", "message": "7"}]}
    recording.down(frame(3, json.dumps(status).encode()))
    recording.ended()
    assert session.lines[-1] == [0.0, "m", "exit 7"]
    assert recording.exit_code == 7
    stopping = session.recorder.stopService()
    assert not stopping.called
    session.upload.acknowledge()
    assert stopping.called
    assert session.counted("kept") == 1


def test_an_end_that_is_not_acknowledged_counts_as_lost():
    session = Session()
    session.begin().ended()
    session.upload.fail()
    assert session.counted("lost") == 1


class TestTerminal:
    def test_the_first_size_is_the_headers(self):
        session = Session(target=TTY)
        recording = session.begin()
        recording.down(frame(1, b"$ "))
        assert session.lines == []
        recording.up(size(120, 40))
        assert (session.lines[0]["width"], session.lines[0]["height"]) == (120, 40)
        assert session.lines[1][1:] == ["o", "$ "]
        recording.up(size(80, 24))
        assert session.lines[2][1:] == ["r", "80x24"]

    def test_without_a_size_it_waits_no_longer_than_two_seconds(self):
        session = Session(target=TTY)
        session.begin().down(frame(1, b"$ "))
        session.clock.advance(HEADER_SECONDS)
        assert (session.lines[0]["width"], session.lines[0]["height"]) == (80, 24)
        assert len(session.lines) == 2
        session.recording.ended()
        assert session.clock.getDelayedCalls() == []


class TestStart:
    def test_without_a_sink_there_is_an_error(self):
        session = Session()
        session.recorder = SessionRecorder(FakeSessionSinks(None), session.metrics, session.clock)
        session.open().addErrback(lambda failure: failure.trap(RecordingError))

    def test_a_recorder_that_refuses_is_an_error_without_its_address(self):
        session = Session()
        session.sink.error = SinkError("it does not answer", "100.99.99.99:80 does not answer")
        caught = []
        session.open().addErrback(lambda failure: caught.append(failure.value))
        assert isinstance(caught[0], RecordingError)
        assert caught[0].reason == "it does not answer"
        assert "100.99" not in caught[0].message

    def test_addresses_are_asked_for_once_each(self):
        session = Session()
        session.open()
        assert session.recorder._sinks.asked == [(RECORDER,)]

    def test_who_goes_away_needs_none(self):
        session = Session()
        session.sink.hanging = True
        opening = session.open()
        opening.addErrback(lambda _: None)
        opening.cancel()
        assert len(session.sink.given_up) == 1

    def test_a_session_that_does_not_begin_leaves_nothing(self):
        session = Session()
        session.open().result.abandon()
        assert session.upload.abandoned
        assert session.upload.written == b""


class TestEnforced:
    def test_a_recorder_that_breaks_ends_the_session_with_a_word(self):
        session = Session()
        recording = session.begin()
        recording.down(frame(1, b"out"))
        session.upload.fail("the recorder has gone")
        assert b"must be recorded" in session.farewell
        assert b"the recorder has gone" in session.farewell
        assert session.counted("broken") == 1
        recording.ended()
        assert len(session.sink.uploads) == 1

    def test_half_a_frame_is_kept_until_it_is_whole(self):
        session = Session()
        recording = session.begin()
        whole = frame(1, b"output")
        assert recording.down(whole[:4]) == b""
        assert recording.down(whole[4:] + whole[:2]) == whole
        assert recording.rest() == whole[:2]

    def test_half_a_frame_does_not_stand_in_the_way_of_a_word(self):
        session = Session()
        recording = session.begin()
        assert recording.down(frame(1, b"output")[:4]) == b""
        session.upload.fail("the recorder has gone")
        assert b"the recorder has gone" in session.farewell

    def test_what_cannot_be_read_ends_the_session(self):
        session = Session()
        recording = session.begin()
        recording.down(b"\xff\xff\xff\xff")
        assert session.farewell is not None

    def test_a_full_recorder_holds_the_session_until_it_has_room(self):
        session = Session()
        recording = session.begin()
        session.upload.stalled = True
        session.upload.limit = 10
        recording.down(frame(1, b"much output"))
        assert session.held
        session.upload.drain()
        assert not session.held


@pytest.mark.parametrize("enforced", [True, False])
def test_somebody_at_the_recorder_ends_the_session_whatever_its_policy(enforced):
    session = Session(enforced=enforced)
    recording = session.begin()
    error = SinkError("ended by grace@corp.example\x1b[2J", "100.99.99.99: …", end=True)
    recording.upload_failed(error)
    assert b"this session is ended by grace@corp.example?[2J; the command may" in session.farewell
    assert b"session-ended" not in session.farewell
    assert len(session.sink.uploads) == 1
    assert session.unrecorded == 0
    recording.ended()


class TestFailOpen:
    def test_another_recorder_goes_on_once(self):
        session = Session(enforced=False, target=TTY)
        recording = session.begin()
        recording.up(size(120, 40))
        session.clock.advance(5)
        session.upload.fail()
        assert len(session.sink.uploads) == 2
        recording.down(frame(1, b"more"))
        header, marker, line = session.lines
        assert (header["width"], header["height"]) == (120, 40)
        assert marker[:2] == [0.0, "m"]
        assert line == [0.0, "o", "more"]
        session.upload.fail()
        assert session.farewell is None
        assert session.unrecorded == 1
        data = frame(1, b"untouched")
        assert recording.down(data) == data
        recording.ended()
        assert len(session.sink.uploads) == 2

    def test_when_there_is_no_other_it_goes_on_unrecorded(self):
        session = Session(enforced=False)
        recording = session.begin()
        session.sink.error = SinkError("none")
        session.upload.fail()
        assert session.unrecorded == 1
        data = frame(1, b"untouched")
        assert recording.down(data) == data

    def test_what_cannot_be_read_passes_all_the_same(self):
        session = Session(enforced=False)
        recording = session.begin()
        assert recording.down(b"\xff\xff\xff\xff") == b"\xff\xff\xff\xff"
        assert session.unrecorded == 1
        assert len(session.sink.uploads) == 1

    def test_a_recorder_that_lags_for_long_is_given_up(self):
        session = Session(enforced=False)
        recording = session.begin()
        session.upload.stalled = True
        session.upload.limit = 10
        recording.down(frame(1, b"much output"))
        assert not session.held
        first = session.upload
        session.clock.advance(LAG_SECONDS)
        assert first.abandoned
        assert len(session.sink.uploads) == 2

    def test_one_that_catches_up_in_time_is_not(self):
        session = Session(enforced=False)
        recording = session.begin()
        session.upload.stalled = True
        session.upload.limit = 10
        recording.down(frame(1, b"much output"))
        session.upload.drain()
        session.clock.advance(LAG_SECONDS)
        assert not session.upload.abandoned


class TestBeforeTheSessionBegins:
    def test_a_request_whose_end_nobody_saw_is_kept(self):
        session = Session(target=TTY)
        session.open().result.ended()
        header, marker = session.lines
        assert header["tailproxy"]["command"] == ["sh", "-c", "ls"]
        assert marker[1] == "m"
        assert "may have run" in marker[2]
        assert session.upload.finished

    def test_an_enforced_session_whose_recorder_is_lost_does_not_begin(self):
        session = Session()
        recording = session.open().result
        session.upload.fail(SinkError("it is gone"))
        assert session.farewell is None
        recording.begin(WEBSOCKET, session)
        assert b"it is gone" in session.farewell

    def test_another_recorder_takes_one_that_need_not_be_recorded(self):
        session = Session(enforced=False)
        recording = session.open().result
        session.upload.fail(SinkError("it is gone"))
        recording.begin(WEBSOCKET, session)
        recording.down(frame(1, b"out"))
        assert len(session.sink.uploads) == 2
        assert [line[2] for line in session.lines[1:]] == ["out"]


def test_what_was_seen_before_the_streams_cannot_be_read_is_kept():
    session = Session(target=TTY)
    recording = session.begin()
    recording.down(frame(1, b"out") + b"\xff\xff")
    header, output, marker = session.lines
    assert header["width"] == 80
    assert output[1:] == ["o", "out"]
    assert marker[1] == "m"
    assert session.upload.finished
    assert "cannot be read" in marker[2]
