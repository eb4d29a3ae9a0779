"""One recorder: every stage at which it may be there, not be there, or be something else."""

from __future__ import annotations

import pytest
from zope.interface.verify import verifyObject

from tailproxy.interfaces import IUpload, SinkError
from tailproxy.record.tsrecorder import TSRecorder
from tests.record.recorder import Manners
from tests.record.wires import HEADER, A, Result, Tailnet, Watcher

LIMIT = 1 << 20


@pytest.fixture
def tailnet():
    return Tailnet(A)


@pytest.fixture
def manners(tailnet):
    return tailnet.manners[A]


def begin(tailnet, limit=LIMIT):
    result = Result(TSRecorder(tailnet.clock, tailnet, A, limit).start())
    tailnet.pump()
    return result


def started(tailnet, limit=LIMIT):
    result = begin(tailnet, limit)
    assert result.error is None
    verifyObject(IUpload, result.value)
    watcher = Watcher()
    result.value.watch(watcher)
    return result.value, watcher


def refused(tailnet, **manners):
    tailnet.manners[A] = Manners(**manners)
    result = begin(tailnet)
    assert isinstance(result.error, SinkError)
    assert "100.64" not in result.error.reason
    assert result.error.detail.startswith("100.64.0.1:80 ")
    assert all(wire.lost for wire in tailnet.wires)
    assert not tailnet.clock.getDelayedCalls()
    return result.error.reason


BOTH = pytest.mark.parametrize("version", [2, 1])


class TestStart:
    def test_version_2_is_asked_for_and_used_on_one_connection(self, tailnet):
        started(tailnet)
        assert tailnet.seen[A].requests == [(2, "HEAD", "/v2/record"), (2, "POST", "/v2/record")]
        assert tailnet.dialled == [A]

    @pytest.mark.parametrize("status", [404, 405, 204, 500])
    def test_a_recorder_without_version_2_is_spoken_to_in_version_1(self, tailnet, manners, status):
        manners.head_status = status
        started(tailnet)
        assert tailnet.seen[A].requests == [(2, "HEAD", "/v2/record"), (1, "POST", "/record")]

    def test_a_server_of_http_1_is_spoken_to_in_version_1(self, tailnet, manners):
        manners.versions = (1,)
        started(tailnet)
        assert tailnet.seen[A].requests == [(1, "POST", "/record")]
        assert tailnet.wires[0].aborted

    def test_who_does_not_want_to_be_asked_is_not_asked(self, tailnet, manners):
        manners.versions, manners.expects = (1,), False
        upload, _ = started(tailnet)
        upload.write(HEADER)
        end = Result(upload.finish())
        tailnet.pump()
        assert end.done
        assert end.error is None
        assert tailnet.seen[A].recordings[0].data == HEADER

    def test_nobody_listens(self):
        nobody = Tailnet()
        error = begin(nobody).error
        assert error.reason == "the recorder cannot be reached"
        assert "nobody listens" in error.detail
        assert nobody.dialled == [A]

    def test_connecting_takes_5_seconds_at_most(self, tailnet):
        tailnet.unreachable.add(A)
        result = begin(tailnet)
        tailnet.clock.advance(4.9)
        assert not result.done
        tailnet.clock.advance(0.1)
        assert result.error.reason == "the recorder cannot be reached within 5 s"
        assert tailnet.given_up == [A]

    @pytest.mark.parametrize(
        ("silent", "versions"),
        [("accept", (2, 1)), ("head", (2, 1)), ("post", (2, 1)), ("post", (1,))],
    )
    def test_silence_at_any_stage_ends_after_10_seconds(self, tailnet, silent, versions):
        tailnet.manners[A] = Manners(silent=silent, versions=versions)
        result = begin(tailnet)
        tailnet.wait(9.9)
        assert not result.done
        tailnet.wait(0.1)
        assert result.error.reason == "the recorder is not ready within 10 s"
        assert all(wire.lost for wire in tailnet.wires)

    @pytest.mark.parametrize("status", [400, 403, 500, 503])
    def test_another_answer_to_post_is_a_refusal(self, tailnet, status):
        assert refused(tailnet, post_status=status) == f"the recorder answers {status}"
        assert tailnet.dialled == [A]

    @pytest.mark.parametrize("status", [201, 400, 500])
    def test_in_version_1_too(self, tailnet, status):
        reason = refused(tailnet, versions=(1,), post_status=status)
        assert reason == f"the recorder answers {status}"

    def test_neither_version(self, tailnet):
        assert refused(tailnet, versions=()) == "the recorder answers 404"

    def test_a_cancelled_start_leaves_the_recorder(self, tailnet, manners):
        manners.silent = "post"
        starting = TSRecorder(tailnet.clock, tailnet, A, LIMIT).start()
        starting.addErrback(lambda _: None)
        tailnet.pump()
        starting.cancel()
        tailnet.pump()
        assert tailnet.wires[0].lost
        assert not tailnet.clock.getDelayedCalls()

    def test_who_begins_knows_when_there_is_a_connection(self, tailnet, manners):
        manners.silent = "accept"
        connected = []
        starting = TSRecorder(tailnet.clock, tailnet, A, LIMIT).start(lambda: connected.append(1))
        starting.addErrback(lambda _: None)
        assert connected == []
        tailnet.pump()
        assert connected == [1]
        starting.cancel()


class TestRecording:
    @BOTH
    def test_what_is_written_arrives_and_is_confirmed(self, tailnet, manners, version):
        manners.versions = (version,)
        upload, watcher = started(tailnet)
        lines = [HEADER, *(b'[%d,"o","x"]\n' % n for n in range(1000))]
        for line in lines:
            upload.write(line)
        end = Result(upload.finish())
        assert not end.done
        tailnet.pump()
        assert end.done
        assert end.error is None
        (recording,) = tailnet.seen[A].recordings
        assert (recording.version, recording.authority) == (version, "100.64.0.1:80")
        assert recording.data == b"".join(lines)
        assert recording.whole
        assert watcher.told == []
        assert tailnet.wires[-1].lost
        assert not tailnet.clock.getDelayedCalls()

    @BOTH
    def test_megabytes_pass_both_windows(self, tailnet, manners, version):
        manners.versions = (version,)
        upload, _ = started(tailnet)
        block = (b"x" * 1023 + b"\n") * 256
        for _ in range(40):
            upload.write(block)
            tailnet.pump()
            assert upload.backlog == 0
        end = Result(upload.finish())
        tailnet.pump()
        assert end.error is None
        assert tailnet.seen[A].recordings[0].data == block * 40

    @BOTH
    def test_nothing_was_written_and_nothing_is_kept(self, tailnet, manners, version):
        manners.versions = (version,)
        upload, watcher = started(tailnet)
        upload.abandon()
        tailnet.pump()
        (recording,) = tailnet.seen[A].recordings
        assert recording.data == b""
        assert not recording.whole
        assert tailnet.wires[-1].lost
        upload.write(HEADER)
        assert watcher.told == []
        assert not tailnet.clock.getDelayedCalls()

    @BOTH
    def test_a_session_may_be_quiet_for_hours(self, tailnet, manners, version):
        manners.versions = (version,)
        upload, watcher = started(tailnet)
        upload.write(HEADER)
        tailnet.wait(7200, step=20)
        assert watcher.told == []
        assert not upload.over

    @BOTH
    def test_the_backlog_is_what_nobody_takes(self, tailnet, manners, version):
        manners.versions = (version,)
        upload, watcher = started(tailnet, limit=100_000)
        wire = tailnet.wires[-1]
        wire.stuck = True
        upload.write(b"y" * 50_000 + b"\n")  # as much as the transport takes before it is full
        assert not upload.full
        upload.write(b"y" * 99_999 + b"\n")
        assert upload.full
        tailnet.pump()
        assert watcher.told == []
        wire.unstick()
        tailnet.pump()
        assert upload.backlog == 0
        assert watcher.told == ["drained"]

    def test_a_window_that_is_closed_holds_the_backlog_back(self, tailnet, manners):
        manners.window = 1000
        upload, _ = started(tailnet, limit=3000)
        upload.write(b"z" * 2999 + b"\n")
        assert upload.backlog == 2000
        tailnet.pump()
        assert upload.backlog == 0


def failure(tailnet, data=b"x" * 99 + b"\n"):
    """Record until it fails, and return what the watcher is told."""
    upload, watcher = started(tailnet)
    upload.write(HEADER)
    tailnet.pump()
    assert watcher.told == []
    upload.write(data)
    tailnet.pump()
    assert upload.over
    assert upload.backlog == 0
    assert tailnet.wires[-1].lost
    assert not tailnet.clock.getDelayedCalls()
    again = Result(upload.finish())
    assert [again.error.reason] == watcher.told
    return watcher.told[0]


class TestFailure:
    @pytest.mark.parametrize(
        ("trouble", "reason"),
        [
            ("error", "the recorder has given the recording up"),
            ("end", "the recorder has ended the recording early"),
            ("reset", "the recorder has given the recording up"),
            ("goaway", "the recorder is being stopped"),
            ("garbage", "the recorder sends no acknowledgements that can be read"),
            ("cut", "the recorder has closed the connection"),
        ],
    )
    def test_in_the_middle(self, tailnet, manners, trouble, reason):
        manners.trouble, manners.after = trouble, len(HEADER)
        assert failure(tailnet) == reason

    @pytest.mark.parametrize(
        ("trouble", "reason"),
        [
            ("answer", "the recorder has ended the recording early"),
            ("garbage", "the recorder sends what is no HTTP"),
            ("cut", "the recorder has closed the connection"),
        ],
    )
    def test_in_the_middle_of_version_1(self, tailnet, manners, trouble, reason):
        manners.versions = (1,)
        manners.trouble, manners.after = trouble, len(HEADER)
        assert failure(tailnet) == reason

    def test_an_error_text_is_for_the_log(self, tailnet, manners):
        manners.trouble = "error"
        upload, _ = started(tailnet)
        upload.write(HEADER)
        tailnet.pump()
        detail = Result(upload.finish()).error.detail
        assert detail == ("100.64.0.1:80 has given the recording up: no space left on device")

    def test_bytes_that_are_no_http_2(self, tailnet):
        upload, watcher = started(tailnet)
        upload.dataReceived(b"\0\0\1\0\0\0\0\0\0x")
        tailnet.pump()
        assert watcher.told == ["the recorder sends what is no HTTP/2"]

    def test_30_seconds_without_an_acknowledgement(self, tailnet, manners):
        manners.silent = "acks"
        upload, watcher = started(tailnet)
        upload.write(HEADER)
        tailnet.wait(29.9)
        assert watcher.told == []
        tailnet.wait(0.1)
        assert watcher.told == ["the recorder is silent for 30 s"]

    def test_heartbeats_alone_are_not_enough_when_a_mebibyte_is_under_way(self, tailnet, manners):
        manners.window = 4 << 20
        upload, watcher = started(tailnet, limit=4 << 20)
        upload.write(HEADER)
        tailnet.pump()
        manners.trouble, manners.after = "stall", 0
        upload.write(b"x" * (1 << 20) + b"\n")
        tailnet.wait(29.5)
        assert watcher.told == []
        tailnet.wait(1)
        assert watcher.told == [
            "the recorder has acknowledged nothing for 30 s, with more than 1024 KiB under way"
        ]

    def test_progress_is_enough_however_much_is_under_way(self, tailnet, manners):
        upload, watcher = started(tailnet, limit=8 << 20)
        tailnet.wires[-1].stuck = True
        upload.write(b"x" * (3 << 20) + b"\n")
        for _ in range(4):
            tailnet.wait(20, beat=False)
            upload._acks([*upload._reader.receive(b'{"ack":%d}' % (upload._acknowledged + 1))])
            upload.moved()
        assert watcher.told == []

    @BOTH
    def test_a_recorder_that_takes_nothing_for_30_seconds(self, tailnet, manners, version):
        manners.versions = (version,)
        upload, watcher = started(tailnet)
        upload.write(HEADER)
        tailnet.pump()
        tailnet.wires[-1].stuck = True
        upload.write(b"a\n")  # the transport has that, and is full
        upload.write(b"b\n")
        tailnet.wait(29.9)
        assert watcher.told == []
        tailnet.wait(0.1)
        assert watcher.told == ["the recorder takes nothing for 30 s"]
        assert not upload.full

    @BOTH
    def test_who_does_not_stop_writing_is_stopped(self, tailnet, manners, version):
        manners.versions = (version,)
        upload, watcher = started(tailnet, limit=1000)
        tailnet.wires[-1].stuck = True
        for _ in range(6):
            upload.write(b"x" * 999 + b"\n")
        assert watcher.told == []
        tailnet.pump()
        assert watcher.told == ["the recorder is much too slow"]


class TestEnd:
    @pytest.mark.parametrize("trouble", ["error", "reset", "goaway", "garbage", "cut"])
    def test_trouble_instead_of_the_last_acknowledgement(self, tailnet, manners, trouble):
        manners.trouble, manners.after = trouble, None
        upload, watcher = started(tailnet)
        upload.write(HEADER)
        end = Result(upload.finish())
        tailnet.pump()
        assert isinstance(end.error, SinkError)
        assert watcher.told == []
        assert not tailnet.clock.getDelayedCalls()

    @pytest.mark.parametrize("status", [400, 500, 507])
    def test_version_1_may_refuse_at_the_end(self, tailnet, manners, status):
        manners.versions, manners.final_status = (1,), status
        upload, _ = started(tailnet)
        upload.write(HEADER)
        end = Result(upload.finish())
        tailnet.pump()
        assert end.error.reason == f"the recorder answers {status}"

    @BOTH
    def test_30_seconds_for_the_confirmation(self, tailnet, manners, version):
        manners.versions = (version,)
        upload, _ = started(tailnet)
        upload.write(HEADER)
        tailnet.pump()
        manners.silent = "acks"
        end = Result(upload.finish())
        tailnet.wait(29.9, beat=False)
        assert not end.done
        tailnet.wait(0.2, beat=False)
        assert end.error.reason in {
            "the recorder has not confirmed the end within 30 s",
            "the recorder is silent for 30 s",
        }
        assert tailnet.wires[-1].lost

    @BOTH
    def test_the_end_waits_for_the_backlog(self, tailnet, manners, version):
        manners.versions = (version,)
        upload, _ = started(tailnet)
        wire = tailnet.wires[-1]
        wire.stuck = True
        upload.write(HEADER)
        upload.write(b"[1]\n")
        end = Result(upload.finish())
        tailnet.pump()
        assert not end.done
        wire.unstick()
        tailnet.pump()
        assert end.done
        assert end.error is None
        assert tailnet.seen[A].recordings[0].data == HEADER + b"[1]\n"

    def test_a_failure_before_anybody_watches_is_told_later(self, tailnet, manners):
        result = begin(tailnet)
        tailnet.wires[-1].side.closing = True
        tailnet.wires[-1].beat()
        watcher = Watcher()
        result.value.watch(watcher)
        assert watcher.told == []
        tailnet.pump()
        assert watcher.told == ["the recorder has closed the connection"]
