"""Recordings in a folder: whole lines, whatever happens to the disk or to us."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from tailproxy.interfaces import ISessionSink, IUpload, SinkError
from tailproxy.record.files import RecordingFile, recover
from tailproxy.record.folder import Folder
from tests.record.threads import Threads
from tests.record.wires import HEADER, Result, Watcher

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def clock():
    clock = Clock()
    clock.advance(1_795_489_620)
    return clock


@pytest.fixture
def threads():
    return Threads()


@pytest.fixture
def folder(clock, threads, tmp_path):
    folder = Folder(clock, threads, tmp_path / "recordings", 1 << 20)
    verifyObject(ISessionSink, folder)
    return folder


def opened(folder, session="s-1"):
    result = Result(folder.open(session))
    assert result.error is None
    verifyObject(IUpload, result.value)
    return result.value


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / "recordings").iterdir())


def test_a_recording_gets_its_name_when_it_is_whole(folder, tmp_path):
    upload = opened(folder)
    upload.write(HEADER)
    upload.write(b"[1]\n")
    assert names(tmp_path) == ["20261124T030700Z-s-1.cast.part"]
    end = Result(upload.finish())
    assert end.done
    assert end.error is None
    assert names(tmp_path) == ["20261124T030700Z-s-1.cast"]
    path = tmp_path / "recordings" / names(tmp_path)[0]
    assert path.read_bytes() == HEADER + b"[1]\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert upload.place == str(path)


def test_a_session_that_did_not_begin_leaves_nothing(folder, tmp_path):
    opened(folder).abandon()
    assert names(tmp_path) == []


def test_a_recording_that_is_given_up_is_kept_as_far_as_it_is(folder, tmp_path):
    upload = opened(folder)
    upload.write(HEADER)
    upload.abandon()
    assert names(tmp_path) == ["20261124T030700Z-s-1.cast"]


def test_the_same_session_in_the_same_second_has_another_name(folder, tmp_path):
    first, second = opened(folder), opened(folder)
    for upload in (first, second):
        upload.write(HEADER)
        upload.finish()
    opened(folder).abandon()
    assert names(tmp_path) == [
        "20261124T030700Z-s-1-2.cast",
        "20261124T030700Z-s-1.cast",
    ]


def test_nothing_waits_for_the_disk(folder, threads, clock, tmp_path):
    upload = opened(folder)
    watcher = Watcher()
    upload.watch(watcher)
    threads.hold()
    upload.write(HEADER)
    for _ in range(12):
        upload.write(b"x" * 99_999 + b"\n")
    assert upload.full
    end = Result(upload.finish())
    assert not end.done
    threads.release()
    clock.advance(0)
    assert upload.backlog == 0
    assert watcher.told == ["drained"]
    assert end.done
    assert (tmp_path / "recordings" / names(tmp_path)[0]).stat().st_size == len(HEADER) + 1_200_000


def test_a_disk_that_hangs_is_noticed(folder, threads, clock):
    upload = opened(folder)
    watcher = Watcher()
    upload.watch(watcher)
    threads.hold()
    upload.write(HEADER)
    clock.advance(29.9)
    assert watcher.told == []
    clock.advance(0.1)
    clock.advance(0)
    assert watcher.told == ["the folder of recordings takes nothing for 30 s"]


def test_who_does_not_wait_any_more_leaves_no_file(folder, threads, tmp_path):
    threads.hold()
    opening = folder.open("s-1")
    opening.addErrback(lambda _: None)
    opening.cancel()
    threads.release()
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_refuses(clock, threads, tmp_path):
    (tmp_path / "file").write_text("")
    error = Result(Folder(clock, threads, tmp_path / "file", 1).open("s-1")).error
    assert isinstance(error, SinkError)
    assert error.reason == "the folder of recordings cannot be written"
    assert str(tmp_path) not in error.reason
    assert str(tmp_path) in error.detail


class TestFullDisk:
    """A limit on the size of files stands for a full disk: writes are cut short, then refused."""

    @pytest.fixture
    def full(self, tmp_path):
        script = """
import resource, signal, sys
from pathlib import Path
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from tailproxy.record.folder import Folder
from tests.record.threads import Threads
from tests.record.wires import HEADER, Watcher

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
clock = Clock()
uploads, watcher = [], Watcher()
Folder(clock, maybeDeferred, Path(sys.argv[1]), 1 << 20).open("s-1").addCallback(uploads.append)
uploads[0].watch(watcher)
uploads[0].write(HEADER)
uploads[0].write(b"x" * 8_999 + b"\\n")
assert watcher.told == []
uploads[0].write(b"y" * 8_999 + b"\\n")
assert watcher.told == []
clock.advance(0)
print(*watcher.told)
"""
        return subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "recordings")],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def test_the_watcher_is_told_and_whole_lines_are_kept(self, full, tmp_path):
        assert full == "the folder of recordings cannot be written\n"
        (name,) = names(tmp_path)
        assert name.endswith("-s-1.cast")
        data = (tmp_path / "recordings" / name).read_bytes()
        assert data == HEADER + b"x" * 8_999 + b"\n"


class TestRecovery:
    @pytest.fixture
    def part(self, folder, tmp_path):
        """What a writer has left behind that was killed."""
        path = tmp_path / "recordings" / "20260101T000000Z-s-0.cast.part"
        path.parent.mkdir()
        path.write_bytes(HEADER + b'[1]\n[2, "o"')
        return path

    def test_it_ends_with_the_last_whole_line(self, folder, part, tmp_path):
        folder.start()
        assert names(tmp_path) == ["20260101T000000Z-s-0.cast"]
        assert part.with_suffix("").read_bytes() == HEADER + b"[1]\n"

    @pytest.mark.parametrize("data", [b"", b'{"version"', b"x" * 100_000])
    def test_less_than_a_line_is_nothing(self, folder, part, data, tmp_path):
        part.write_bytes(data)
        folder.start()
        assert names(tmp_path) == []

    def test_a_long_last_line_is_left_out_too(self, folder, part):
        part.write_bytes(HEADER + b"x" * 200_000)
        folder.start()
        assert part.with_suffix("").read_bytes() == HEADER

    def test_who_still_writes_is_left_in_peace(self, folder, part, tmp_path):
        with part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            folder.start()
            assert names(tmp_path) == ["20260101T000000Z-s-0.cast.part"]

    def test_we_ourselves_too(self, folder, tmp_path):
        upload = opened(folder)
        upload.write(HEADER)
        folder.start()
        assert names(tmp_path) == ["20261124T030700Z-s-1.cast.part"]
        upload.finish()
        assert names(tmp_path) == ["20261124T030700Z-s-1.cast"]

    def test_a_folder_that_is_not_there_yet_is_no_error(self, folder):
        assert Result(folder.start()).error is None

    def test_a_killed_process_leaves_whole_lines(self, tmp_path):
        script = """
import os, sys
from pathlib import Path
from tailproxy.record.files import RecordingFile
file = RecordingFile(Path(sys.argv[1]) / "recordings" / "s.cast")
file.append(b"{}\\n")
os.write(file._file, b"half")
os.kill(os.getpid(), 9)
"""
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False)
        assert names(tmp_path) == ["s.cast.part"]
        assert recover(tmp_path / "recordings") == [tmp_path / "recordings" / "s.cast"]
        assert (tmp_path / "recordings" / "s.cast").read_bytes() == b"{}\n"


def test_a_file_that_is_begun_while_another_process_recovers_is_not_lost(tmp_path, monkeypatch):
    """Between making a file and locking it, it looks like one that was left behind."""
    real = fcntl.flock
    meddled = []

    def flock(file, how):
        if not meddled and how == fcntl.LOCK_EX:
            meddled.append(file)
            assert recover(tmp_path) == []
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    file = RecordingFile(tmp_path / "s.cast")
    file.append(b"{}\n")
    file.complete()
    assert [path.name for path in tmp_path.iterdir()] == ["s-2.cast"]
    assert (tmp_path / "s-2.cast").read_bytes() == b"{}\n"
