"""Events and the lines they become."""

import json
from datetime import UTC, datetime
from io import StringIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import FilteringLogObserver, ILogObserver, Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tailproxy.audit.access import AccessLog
from tailproxy.audit.logs import (
    GATHER_CHARACTERS,
    GATHER_SECONDS,
    LineObserver,
    Threshold,
    admits_info,
    json_line,
    text_line,
    time_text,
)
from tests.audit.records import record


@pytest.fixture
def stream() -> StringIO:
    return StringIO()


def logger(observer, namespace="test") -> Logger:
    return Logger(namespace=namespace, observer=LogPublisher(observer))


def lines(stream) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_fixed_keys_first(stream):
    observer = LineObserver(stream, json_line, None)
    verifyObject(ILogObserver, observer)
    logger(observer).info("hello {who}", who="ada", times=2)
    (line,) = lines(stream)
    assert list(line)[:4] == ["time", "level", "logger", "message"]
    assert line["time"].endswith("Z")
    del line["time"]
    assert line == {
        "level": "info",
        "logger": "test",
        "message": "hello ada",
        "who": "ada",
        "times": 2,
    }


def test_the_time_is_rfc_3339_in_utc(stream):
    observer = LineObserver(stream, json_line, None)
    observer({"log_time": 0.25, "log_format": "x", "log_level": LogLevel.warn})
    assert lines(stream)[0]["time"] == "1970-01-01T00:00:00.250Z"


@given(st.floats(0, 4e9))
@example(1.9999999)
@example(0.0009995)
@example(1795473408.0009997)
def test_times_are_cut_to_milliseconds(moment):
    plain = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    assert time_text(moment) == plain.replace("+00:00", "Z")


def test_newlines_in_a_message_stay_inside_the_line(stream):
    logger(LineObserver(stream, json_line, None)).warn("a {b}", b='1\n2"')
    (line,) = lines(stream)
    assert line["message"] == 'a 1\n2"'


def test_values_json_does_not_know_become_text(stream):
    log = logger(LineObserver(stream, json_line, None))
    log.info("x", raw=b"by\xfftes", many={"b", "a"}, thing=ValueError("why"), none=None)
    (line,) = lines(stream)
    assert line["raw"] == "by\ufffdtes"
    assert line["many"] == ["a", "b"]
    assert line["thing"] == "why"
    assert line["none"] is None


def test_a_field_cannot_take_the_place_of_a_fixed_one(stream):
    logger(LineObserver(stream, json_line, None)).info("real", time="fake", logger="fake")
    (line,) = lines(stream)
    assert line["logger"] == "test"
    assert line["time"] != "fake"


@pytest.mark.parametrize("line_of", [json_line, text_line])
def test_a_failure_has_its_traceback(stream, line_of):
    def broken():
        raise ValueError("why")

    try:
        broken()
    except ValueError:
        logger(LineObserver(stream, line_of, None)).failure("it broke", Failure())
    text = stream.getvalue()
    assert "it broke" in text
    assert "in broken" in text
    assert "ValueError: why" in text
    if line_of is json_line:
        assert lines(stream)[0]["level"] == "critical"


def test_an_access_record_is_one_json_object(stream):
    observer = LineObserver(stream, json_line, None)
    AccessLog(logger(observer, "tailproxy.access")).answered(record())
    (line,) = lines(stream)
    assert line["logger"] == "tailproxy.access"
    assert (line["user"], line["groups"], line["status"]) == ("ada@corp.example", ["dev"], 200)


def test_text_is_one_line_for_people(stream):
    logger(LineObserver(stream, text_line, None)).info("hello {who}", who="ada\nroot: ok")
    text = stream.getvalue()
    assert text.endswith(" info  test: hello ada\\nroot: ok\n")
    assert text.count("\n") == 1


def test_lines_are_written_when_the_reactor_comes_round(stream):
    clock = Clock()
    observer = LineObserver(stream, json_line, clock)
    log = logger(observer)
    log.info("one")
    log.info("two")
    assert stream.getvalue() == ""
    clock.advance(0)
    assert [line["message"] for line in lines(stream)] == ["one", "two"]
    assert clock.getDelayedCalls() == []


def test_after_the_end_lines_are_written_at_once(stream):
    clock = Clock()
    observer = LineObserver(stream, json_line, clock)
    log = logger(observer)
    log.info("one")
    observer.close()
    log.info("two")
    assert [line["message"] for line in lines(stream)] == ["one", "two"]


class Writes(StringIO):
    """Keeps what was written at once."""

    def __init__(self):
        super().__init__()
        self.each = []

    def write(self, text):
        self.each.append(text)
        return len(text)


class TestGathering:
    def test_gathered_lines_wait_for_a_moment_and_are_one_write(self):
        clock, stream = Clock(), Writes()
        observer = LineObserver(stream, json_line, clock)
        for number in range(3):
            observer.gather(f"{number}\n")
            clock.advance(GATHER_SECONDS / 4)
        assert stream.each == []
        clock.advance(GATHER_SECONDS / 4)
        assert stream.each == ["0\n1\n2\n"]
        assert clock.getDelayedCalls() == []
        assert GATHER_SECONDS <= 0.05

    @pytest.mark.parametrize("level", list(LogLevel.iterconstants()))
    def test_an_event_does_not_wait_for_them_and_order_stays(self, level):
        clock, stream = Clock(), Writes()
        observer = LineObserver(stream, text_line, clock)
        observer.gather("before\n")
        logger(observer).emit(level, "event")
        observer.gather("behind\n")
        assert stream.each == []
        clock.advance(0)
        (text,) = stream.each
        before, event, behind = text.splitlines()
        assert (before, event[-5:], behind) == ("before", "event", "behind")
        assert clock.getDelayedCalls() == []

    def test_when_many_have_gathered_they_are_written(self):
        clock, stream = Clock(), Writes()
        observer = LineObserver(stream, json_line, clock)
        line = "x" * 1023 + "\n"
        for _ in range(GATHER_CHARACTERS // 1024 - 1):
            observer.gather(line)
        assert stream.each == []
        observer.gather(line)
        assert stream.each == [line * (GATHER_CHARACTERS // 1024)]
        assert clock.getDelayedCalls() == []

    def test_nothing_is_lost_at_the_end(self):
        clock, stream = Clock(), Writes()
        observer = LineObserver(stream, json_line, clock)
        observer.gather("one\n")
        observer.close()
        observer.gather("two\n")
        assert stream.each == ["one\n", "two\n"]
        assert clock.getDelayedCalls() == []

    def test_without_a_clock_they_are_written_at_once(self):
        stream = Writes()
        LineObserver(stream, json_line, None).gather("one\n")
        assert stream.each == ["one\n"]


@pytest.mark.parametrize(
    ("level", "admitted"), [("debug", True), ("info", True), ("warn", False), ("fatal", False)]
)
def test_info_is_admitted_by_its_own_level_and_debug(level, admitted):
    assert admits_info(level) is admitted


def filtered(stream, level: str):
    return FilteringLogObserver(LineObserver(stream, json_line, None), [Threshold(level)])


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "warn", "error", "critical"]),
        ("info", ["info", "warn", "error", "critical"]),
        ("warn", ["warn", "error", "critical"]),
        ("error", ["error", "critical"]),
        ("fatal", ["critical"]),
        ("panic", ["critical"]),
        ("dpanic", ["critical"]),
    ],
)
def test_lower_levels_are_left_out(stream, level, written):
    log = logger(filtered(stream, level))
    for each in LogLevel.iterconstants():
        log.emit(each, "x")
    assert [line["level"] for line in lines(stream)] == written


def test_twisteds_chatter_is_for_debugging(stream):
    for level in ("info", "debug"):
        observer = filtered(stream, level)
        log = logger(observer, "twisted.web.client._HTTP11ClientFactory")
        log.info("starting at {level_now}", level_now=level)
        log.warn("trouble at {level_now}", level_now=level)
    assert [line["message"] for line in lines(stream)] == [
        "trouble at info",
        "starting at debug",
        "trouble at debug",
    ]


def test_an_event_that_cannot_be_written_costs_no_other(stream):
    log = logger(LineObserver(stream, json_line, None))
    circle = []
    circle.append(circle)
    log.warn("round", it=circle)
    log.info("straight")
    first, second = lines(stream)
    assert first["message"].startswith("this event cannot be written: ")
    assert (first["level"], first["logger"]) == ("warn", "test")
    assert second["message"] == "straight"


def test_a_stream_that_is_gone_is_no_reason_to_stop():
    class Gone(StringIO):
        def write(self, text):
            raise BrokenPipeError

    logger(LineObserver(Gone(), json_line, None)).info("x")
