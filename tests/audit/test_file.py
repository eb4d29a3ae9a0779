"""A file of audit lines."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from twisted.internet import reactor

from tailproxy.audit.delivery import CarrierError
from tailproxy.audit.file import FileCarrier

DAY = 86400


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
def carrier(path):
    made = carrier_of(path)
    yield made
    made.close()


def carrier_of(path, *, size=1000, age=None, keep=3, **more) -> FileCarrier:
    return FileCarrier(reactor, path, size=size, age=age, keep=keep, **more)


def test_lines_are_appended(carrier, path):
    path.write_text("before\n")
    carrier.write(b"1\n")
    carrier.write(b"2\n3\n")
    assert path.read_text() == "before\n1\n2\n3\n"


async def test_threads_write(carrier, path):
    await carrier.carry(b"1\n")
    assert path.read_text() == "1\n"


def test_others_may_not_read_it(carrier, path):
    carrier.write(b"1\n")
    assert path.stat().st_mode & 0o137 == 0


def test_large_file_is_renamed_and_so_many_are_kept(carrier, path):
    for number in range(6):
        carrier.write(b"%d" % number + b"x" * 1000 + b"\n")
    kept = sorted(path.parent.iterdir())
    assert [each.name for each in kept] == ["audit.log", *(f"audit.log.{n}" for n in (1, 2, 3))]
    assert [each.read_text()[0] for each in kept] == ["5", "4", "3", "2"]


def test_another_file_is_begun_when_a_day_is_over(path):
    now = path.parent.stat().st_mtime
    midnight = (now // DAY + 1) * DAY
    moment = [now]
    carrier = carrier_of(path, age=DAY, now=lambda: moment[0])
    carrier.write(b"1\n")
    moment[0] = midnight - 1
    carrier.write(b"2\n")
    moment[0] = midnight + 1
    carrier.write(b"3\n")
    carrier.close()
    assert path.read_text() == "3\n"
    assert path.with_name("audit.log.1").read_text() == "1\n2\n"


def test_file_that_somebody_else_renames_is_left_behind(carrier, path):
    carrier.write(b"1\n")
    path.rename(path.with_name("moved"))
    carrier.write(b"2\n")
    path.unlink()
    carrier.write(b"3\n")
    assert path.read_text() == "3\n"
    assert path.with_name("moved").read_text() == "1\n"


def test_disk_that_fills_up_tears_no_line_and_loses_none(carrier, path, monkeypatch):
    room = [5]
    real = os.write

    def write(descriptor, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(descriptor, data[: room[0]])
        room[0] -= written
        return written

    carrier.write(b"")
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(CarrierError) as caught:
        carrier.write(b"one\ntwo\nthree\n")
    assert caught.value.taken == 4
    with pytest.raises(OSError, match="No space left"):
        carrier.write(b"two\nthree\n")
    room[0] = 100
    carrier.write(b"two\nthree\n")
    carrier.write(b"four\n")
    assert path.read_text() == "one\nt\ntwo\nthree\nfour\n"


def test_file_is_not_closed_under_a_write_that_hangs(carrier, path, monkeypatch):
    real = os.write
    begun, goes_on = threading.Event(), threading.Event()

    def write(descriptor, data):
        begun.set()
        assert goes_on.wait(10)
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    writer = threading.Thread(target=carrier.write, args=(b"1\n",))
    writer.start()
    assert begun.wait(10)
    carrier.close()
    descriptor = carrier._descriptor
    assert os.fstat(descriptor)
    goes_on.set()
    writer.join()
    assert path.read_text() == "1\n"
    assert carrier._descriptor == -1


def test_folder_that_is_gone_is_an_error(path):
    carrier = carrier_of(path / "nothing" / "audit.log")
    with pytest.raises(OSError, match="No such file"):
        carrier.write(b"1\n")


WRITER = """
import sys
import threading
from pathlib import Path
from twisted.internet import reactor
from tailproxy.audit.file import FileCarrier
carrier = FileCarrier(reactor, Path(sys.argv[1]), size=20000, age=None, keep=1000)
sys.stdin.readline()
for batch in range(300):
    carrier.write(b"".join(b"%s %d %s\\n" % (
        sys.argv[2].encode(), 10 * batch + line, b"x" * (batch % 50)) for line in range(10)))
"""


def test_processes_share_a_file_that_is_renamed_all_the_time_and_lose_no_line(path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, name], stdin=subprocess.PIPE)
        for name in "abc"
    ]
    for writer in writers:
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    for writer in writers:
        writer.stdin.close()
        assert writer.wait() == 0
    files = sorted(
        path.parent.iterdir(), key=lambda each: -int(each.suffix[1:].replace("log", "0"))
    )
    assert len(files) > 10
    lines = [line.split(" ") for each in files for line in each.read_text().splitlines()]
    assert len(lines) == 9000
    for name in "abc":
        assert [int(number) for who, number, _ in lines if who == name] == list(range(3000))
