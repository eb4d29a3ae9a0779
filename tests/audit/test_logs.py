"""Events and the lines they become."""

import json
from io import StringIO

import pytest
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tailproxy.audit.access import AccessLog
from tailproxy.audit.logs import LineObserver, filtered, json_line, text_line
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
    log = logger(filtered(LineObserver(stream, json_line, None), level))
    for each in LogLevel.iterconstants():
        log.emit(each, "x")
    assert [line["level"] for line in lines(stream)] == written


def test_twisteds_chatter_is_for_debugging(stream):
    for level in ("info", "debug"):
        observer = filtered(LineObserver(stream, json_line, None), level)
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
