"""The spool: what nobody takes waits, and is sent whole and in order when somebody does again."""

from __future__ import annotations

import json
import os

import pytest
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from zope.interface.verify import verifyObject

from tailproxy.interfaces import ISessionSink, SinkError
from tailproxy.record.spool import Spool, SpoolFolder
from tailproxy.testing import FakeSessionSink
from tests.record.threads import Threads
from tests.record.wires import HEADER, A, B, Result, Watcher

SIZE = 10 << 20
AGE = 86400.0


class Lab:
    """A spool, its folder, and whom it sends to."""

    def __init__(self, path, clock=None, size=SIZE):
        self.path = path
        self.clock = clock or Clock()
        self.threads = Threads()
        self.sinks = {(A,): FakeSessionSink(), (B,): FakeSessionSink(), (): None}
        self.asked = []
        folder = SpoolFolder(path, size, AGE)
        self.spool = Spool(self.clock, self.threads, folder, self.target, 1 << 20)

    def target(self, addresses):
        self.asked.append(addresses)
        return self.sinks[addresses]

    @property
    def recorder(self):
        return self.sinks[A,]

    def keep(self, *lines, session="s-1", addresses=(A,)):
        """Record a session."""
        self.clock.advance(1)
        upload = self.begin(session, addresses)
        for line in lines:
            upload.write(line)
        assert Result(upload.finish()).error is None

    def begin(self, session="s-1", addresses=(A,)):
        sink = self.spool.sink(addresses)
        verifyObject(ISessionSink, sink)
        result = Result(sink.open(session))
        assert result.error is None
        return result.value

    @property
    def names(self):
        return sorted(path.name for path in self.path.iterdir())

    def sent(self):
        """What the recorder has, and has confirmed."""
        return [upload.written for upload in self.recorder.uploads if upload.finished]


@pytest.fixture
def lab(tmp_path):
    lab = Lab(tmp_path / "spool")
    lab.clock.advance(1_795_489_620)
    yield lab
    if lab.spool.running:
        lab.spool.stopService()


@pytest.fixture
def said():
    events = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def test_a_recording_waits_in_a_file_that_only_we_may_read(lab):
    lab.keep(HEADER, b"[1]\n")
    (name,) = lab.names
    assert name == "20261124T030701Z-s-1.spool"
    path = lab.path / name
    head, *lines = path.read_bytes().splitlines(keepends=True)
    assert json.loads(head) == {"session": "s-1", "recorders": ["100.64.0.1:80"]}
    assert lines == [HEADER, b"[1]\n"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_waits_is_sent_and_deleted_only_once_it_is_confirmed(lab):
    lab.keep(HEADER, b"[1]\n")
    lab.spool.startService()
    (upload,) = lab.recorder.uploads
    assert upload.written == HEADER + b"[1]\n"
    assert upload.finished
    assert upload.session == "s-1"
    assert len(lab.names) == 1
    upload.acknowledge()
    assert lab.names == []


def test_the_oldest_goes_first_and_one_after_another(lab):
    for number in range(3):
        lab.keep(HEADER, b"[%d]\n" % number, session=f"s-{9 - number}")
    lab.spool.startService()
    for number in range(3):
        assert len(lab.recorder.uploads) == number + 1
        lab.recorder.uploads[number].acknowledge()
    assert lab.sent() == [HEADER + b"[%d]\n" % number for number in range(3)]
    assert lab.names == []


def test_what_comes_later_is_sent_later(lab):
    lab.spool.startService()
    lab.keep(HEADER)
    assert lab.recorder.uploads == []
    lab.clock.advance(10)
    lab.recorder.uploads[0].acknowledge()
    assert lab.names == []


def test_a_session_that_goes_on_is_not_sent_yet(lab):
    upload = lab.begin()
    upload.write(HEADER)
    lab.spool.startService()
    lab.clock.advance(100)
    assert lab.recorder.uploads == []
    upload.finish()
    lab.clock.advance(10)
    assert lab.sent() == [HEADER]


def test_nobody_there_is_asked_more_and_more_seldom(lab):
    lab.keep(HEADER)
    lab.recorder.error = SinkError("nobody there")
    asked = []
    lab.spool.startService()
    for _ in range(3600):
        asked.append(len(lab.asked))
        lab.clock.advance(1)
    moments = [n for n in range(1, len(asked)) if asked[n] > asked[n - 1]]
    waits = [b - a for a, b in zip([0, *moments], moments, strict=False)]
    assert waits == [20, 40, 80, 160, *[300] * 10]
    lab.recorder.error = None
    lab.clock.advance(300)
    assert lab.sent() == [HEADER]


def test_who_is_away_does_not_hold_up_others(lab):
    lab.keep(HEADER, session="s-1", addresses=(B,))
    lab.keep(HEADER, session="s-2", addresses=(B,))
    lab.keep(HEADER, b"[1]\n", session="s-3")
    lab.sinks[B,].error = SinkError("nobody there")
    lab.spool.startService()
    assert lab.sent() == [HEADER + b"[1]\n"]
    assert lab.asked == [(B,), (A,)]


@pytest.mark.parametrize("stage", ["written", "finished"])
def test_a_failure_on_the_way_sends_all_of_it_again(lab, stage, said):
    lab.keep(HEADER, *[b"x" * 1023 + b"\n"] * 2000)
    lab.recorder.stalled = stage == "written"
    lab.spool.startService()
    lab.recorder.stalled = False
    upload = lab.recorder.uploads[0]
    assert upload.finished == (stage == "finished")
    upload.fail("the recorder has gone")
    assert len(lab.names) == 1
    assert any("stays in the spool" in event["log_format"] for event in said)
    lab.clock.advance(20)
    assert len(lab.recorder.uploads) == 2
    assert lab.recorder.uploads[1].written == HEADER + (b"x" * 1023 + b"\n") * 2000
    lab.recorder.uploads[1].acknowledge()
    assert lab.names == []


def test_one_that_is_refused_again_and_again_does_not_hold_up_others(lab):
    lab.keep(HEADER, b"[bad]\n", session="s-1")
    lab.keep(HEADER, b"[good]\n", session="s-2")
    lab.spool.startService()
    lab.recorder.uploads[0].fail("the recorder answers 400")
    lab.recorder.uploads[1].acknowledge()
    assert [name.rpartition("-s-")[2] for name in lab.names] == ["1.spool"]


def test_three_in_a_row_are_the_recorders_fault(lab):
    for number in range(5):
        lab.keep(HEADER, session=f"s-{number}")
    lab.spool.startService()
    for number in range(3):
        lab.recorder.uploads[number].fail("the recorder answers 500")
    assert len(lab.recorder.uploads) == 3
    lab.clock.advance(20)
    assert lab.recorder.uploads[3].session == "s-0"


def test_a_slow_recorder_is_waited_for(lab):
    lab.keep(HEADER, *[b"x" * 1023 + b"\n"] * 4000)
    lab.recorder.stalled = True
    lab.spool.startService()
    (upload,) = lab.recorder.uploads
    for _ in range(3):
        assert upload.full
        assert upload.backlog <= (1 << 20) + (256 << 10)
        assert not upload.finished
        upload.drain()
    assert upload.written == HEADER + (b"x" * 1023 + b"\n") * 4000
    assert upload.finished


def test_after_a_restart_it_goes_on(lab):
    lab.keep(HEADER)
    lab.spool.startService()
    assert len(lab.recorder.uploads) == 1
    assert Result(lab.spool.stopService()).done
    assert len(lab.names) == 1
    again = Lab(lab.path, lab.clock)
    again.spool.startService()
    assert again.recorder.uploads[0].written == HEADER
    again.recorder.uploads[0].acknowledge()
    assert again.names == []
    again.spool.stopService()


def test_what_a_killed_process_left_is_sent_to_its_last_whole_line(lab):
    lab.path.mkdir()
    head = b'{"session":"s-0","recorders":["100.64.0.1:80"]}\n'
    (lab.path / "a.spool.part").write_bytes(head + HEADER + b"[1]\n[2,")
    (lab.path / "b.spool.part").write_bytes(head)
    (lab.path / "c.spool.part").write_bytes(b'{"sess')
    lab.spool.startService()
    lab.recorder.uploads[0].acknowledge()
    assert lab.sent() == [HEADER + b"[1]\n"]
    assert lab.names == []


def test_two_processes_do_not_send_the_same(lab):
    lab.keep(HEADER)
    other = Lab(lab.path, lab.clock)
    lab.spool.startService()
    other.spool.startService()
    assert len(lab.recorder.uploads) == 1
    assert other.recorder.uploads == []
    lab.recorder.uploads[0].acknowledge()
    lab.clock.advance(60)
    assert other.recorder.uploads == []
    other.spool.stopService()


class TestLimits:
    def test_a_full_spool_takes_no_session(self, tmp_path):
        lab = Lab(tmp_path, size=1000)
        lab.keep(HEADER, b"x" * 899 + b"\n")
        error = Result(lab.spool.sink([A]).open("s-2")).error
        assert error.reason == "the spool is full"
        assert len(lab.names) == 1

    def test_a_spool_that_fills_up_ends_the_recording_at_a_whole_line(self, tmp_path):
        lab = Lab(tmp_path, size=1000)
        upload = lab.begin()
        watcher = Watcher()
        upload.watch(watcher)
        upload.write(HEADER)
        upload.write(b"x" * 999 + b"\n")
        lab.clock.advance(0)
        assert watcher.told == ["the spool cannot be written"]
        (name,) = lab.names
        assert name.endswith(".spool")
        assert (tmp_path / name).read_bytes().endswith(b"}\n" + HEADER)

    def test_sessions_under_way_count_too(self, tmp_path):
        lab = Lab(tmp_path, size=1000)
        lab.begin("s-1").write(b"x" * 919 + b"\n")
        assert Result(lab.spool.sink([A]).open("s-2")).error.reason == "the spool is full"

    def test_what_is_too_old_is_deleted_and_said(self, lab, said):
        lab.keep(HEADER)
        (name,) = lab.names
        now = lab.clock.seconds()
        os.utime(lab.path / name, (now, now))
        lab.recorder.error = SinkError("nobody there")
        lab.spool.startService()
        lab.clock.pump([200] * 432)
        assert lab.names == [name]
        lab.clock.pump([200, 200])
        assert lab.names == []
        (event,) = (each for each in said if "deleted" in each["log_format"])
        assert "nobody took it within 86400 s" in event["what"]

    def test_what_is_no_recording_is_deleted_and_said(self, lab, said):
        lab.path.mkdir()
        (lab.path / "x.spool").write_bytes(b"hello\n[1]\n")
        lab.spool.startService()
        assert lab.names == []
        assert any("it is no recording" in each.get("what", "") for each in said)

    def test_other_files_are_left_alone(self, lab):
        lab.path.mkdir()
        (lab.path / "README").write_text("mine")
        lab.spool.startService()
        assert lab.names == ["README"]


def test_a_session_that_did_not_begin_leaves_nothing(lab):
    lab.begin().abandon()
    assert lab.names == []


def test_one_that_is_given_up_is_sent_as_far_as_it_is(lab):
    upload = lab.begin()
    upload.write(HEADER)
    upload.abandon()
    lab.spool.startService()
    assert lab.sent() == [HEADER]


def test_a_spool_that_cannot_be_written_refuses(tmp_path):
    (tmp_path / "file").write_text("")
    error = Result(Lab(tmp_path / "file").spool.sink([A]).open("s-1")).error
    assert error.reason == "the spool cannot be written"


def test_a_session_for_whom_no_recorder_is_known_waits(lab):
    lab.keep(HEADER, addresses=())
    lab.spool.startService()
    assert len(lab.names) == 1


def test_a_folder_that_is_not_there_yet_is_no_error(lab, said):
    lab.spool.startService()
    lab.clock.advance(100)
    assert said == []


def test_stopping_while_the_disk_is_read_is_clean(lab):
    lab.keep(HEADER)
    lab.threads.hold()
    lab.spool.startService()
    assert Result(lab.spool.stopService()).done
    lab.threads.release()
    assert lab.recorder.uploads == []
    again = Lab(lab.path, lab.clock)
    again.spool.startService()
    assert len(again.recorder.uploads) == 1
    again.spool.stopService()
