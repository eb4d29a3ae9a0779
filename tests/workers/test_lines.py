"""Log lines on their way."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.logger import LogLevel, globalLogPublisher

from tailproxy.workers import lines
from tailproxy.workers.lines import LinePipe, WholeLines, events
from tests.proxy.servers import eventually


@given(
    st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"") + b"\n")),
    st.lists(st.integers(min_value=1, max_value=30)),
)
def test_only_whole_lines_come_out_and_all_of_them(sent, sizes):
    stream = b"".join(sent)
    whole, blocks, start = WholeLines(), [], 0
    for size in [*sizes, len(stream) or 1]:
        blocks.append(whole.receive_data(stream[start : start + size]))
        start += size
    assert all(block.endswith(b"\n") for block in blocks if block)
    assert b"".join(blocks) == stream
    assert whole.rest() == b""


def test_the_last_line_is_ended_if_nobody_did():
    whole = WholeLines()
    assert whole.receive_data(b"one\ntwo") == b"one\n"
    assert whole.rest() == b"two\n"
    assert whole.rest() == b""


def test_a_line_without_an_end_is_cut():
    whole = WholeLines()
    got = b"".join(whole.receive_data(b"x" * 65536) for _ in range(40))
    assert len(got) + len(whole.rest()) >= 40 * 65536
    assert all(len(line) <= lines.LONGEST + 65536 for line in got.split(b"\n"))


def test_lines_become_events_again():
    seen = []
    globalLogPublisher.addObserver(seen.append)
    try:
        events(
            b'{"time": "t", "level": "warn", "logger": "a.b", "message": "all {gone}", "user": 1}\n'
            b'{"time": "t", "level": "info", "logger": "a.c", "message": "second"}\n'
        )
    finally:
        globalLogPublisher.removeObserver(seen.append)
    first, second = seen
    assert (first["log_namespace"], first["log_level"], first["user"]) == ("a.b", LogLevel.warn, 1)
    assert first["log_format"].format(**first) == "all {gone}"
    assert second["message"] == "second"


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    made = LinePipe(reactor, writing)
    yield made, reading, writing
    reactor.removeWriter(made)
    for end in (reading, writing):
        with suppress(OSError):  # the test may have closed it
            os.close(end)


def test_lines_are_written_when_flushed(pipe):
    made, reading, _ = pipe
    made.write("grüße\n")
    made.flush()
    assert os.read(reading, 100).decode() == "grüße\n"


@pytest_twisted.ensureDeferred
async def test_a_full_pipe_makes_nobody_wait_and_loses_nothing(pipe):
    made, reading, _ = pipe
    text = "".join(f"{number:08}\n" for number in range(50_000))
    made.write(text)
    made.flush()
    os.set_blocking(reading, False)
    got = bytearray()

    def complete() -> bool:
        with suppress(BlockingIOError):
            got.extend(os.read(reading, 1 << 20))
        return len(got) == len(text)

    await eventually(complete)
    assert got.decode() == text
    assert made.take_lost() == 0


def test_lines_beyond_the_bound_are_lost_and_counted(pipe, monkeypatch):
    monkeypatch.setattr(lines, "WAITING_AT_MOST", 10)
    made, reading, _ = pipe
    made.write("kept\n")
    made.write("lost 1\nlost 2\n")
    made.flush()
    made.write("after\n")
    made.flush()
    assert os.read(reading, 100) == b"kept\nafter\n"
    assert made.take_lost() == 2
    assert made.take_lost() == 0


def test_at_the_end_the_rest_is_written_while_somebody_reads(pipe):
    made, reading, _ = pipe
    text = "x" * 99 + "\n"
    for _ in range(5000):
        made.write(text)
    got = bytearray()

    def read() -> None:
        while len(got) < 500_000:
            got.extend(os.read(reading, 65536))

    reader = threading.Thread(target=read)
    reader.start()
    made.finish()
    reader.join(10)
    assert len(got) == 500_000


def test_at_the_end_nobody_waits_long_for_one_who_does_not_read(pipe, monkeypatch):
    monkeypatch.setattr(lines, "_LAST_SECONDS", 0.05)
    made, _, _ = pipe
    made.write("x" * 1_000_000 + "\n")
    made.finish()


def test_a_reader_that_is_gone_is_no_error(pipe):
    made, reading, _ = pipe
    os.close(reading)
    made.write("to nobody\n")
    made.flush()
    made.write("to nobody\n")
    made.finish()
