"""The access log."""

import json
from io import StringIO

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel, LogPublisher, capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from tailproxy.audit import access
from tailproxy.audit.access import AccessLog, Fanout, JSONAccessLine, access_line, text_access_line
from tailproxy.audit.logs import GATHER_SECONDS, LineObserver, json_line, text_line
from tailproxy.interfaces import AccessRecord, IAuditSink
from tailproxy.testing import FakeAuditSink
from tests.audit.records import record


@pytest.fixture
def log() -> AccessLog:
    return AccessLog()


def test_each_request_is_one_event_with_every_field(log):
    verifyObject(IAuditSink, log)
    with capturedLogs() as events:
        log.answered(record(status=404))
    (event,) = events
    assert formatEvent(event) == "ada@corp.example GET /api/v1/pods 404"
    assert event["log_level"] is LogLevel.info
    assert event["log_namespace"] == "tailproxy.access"
    fields = attrs.asdict(record(status=404), recurse=False)
    assert {key: event[key] for key in fields} == fields


def test_a_caller_nobody_knows_is_named_by_the_address(log):
    with capturedLogs() as events:
        log.answered(record(user="", node="", status=401, denied="unknown-caller"))
    assert formatEvent(events[0]) == "unknown caller 100.64.0.5 GET /api/v1/pods 401"


def test_a_path_with_braces_is_no_format(log):
    with capturedLogs() as events:
        log.answered(record(path="/{user.__class__}/{x}"))
    assert formatEvent(events[0]) == "ada@corp.example GET /{user.__class__}/{x} 200"


def event_of(answered: AccessRecord) -> dict:
    """The event that a record is logged as."""
    events = []
    AccessLog(Logger(namespace=access.NAMESPACE, observer=LogPublisher(events.append))).answered(
        answered
    )
    return events[0]


TEXT = st.text(max_size=6) | st.sampled_from(['"', "\\", "\n", "\x7f", "\u2028", "é", "{user}"])
RECORDS = st.builds(
    AccessRecord,
    **{
        field.name: {
            "str": TEXT,
            "int": st.integers(),
            "float": st.floats(allow_nan=False, allow_infinity=False),
            "bool": st.booleans(),
            "tuple[str, ...]": st.lists(TEXT, max_size=3).map(tuple),
        }[field.type]
        for field in attrs.fields(AccessRecord)
    },
)
LINE = JSONAccessLine()


@given(RECORDS, st.floats(0, 4e9))
def test_a_json_line_is_that_of_its_event(answered, moment):
    event = {**event_of(answered), "log_time": moment}
    expected = json_line(event)
    assert LINE(answered, moment) == expected
    assert LINE(answered, moment) == expected  # from what is kept of the caller
    assert expected.count("\n") == 1
    assert json.loads(expected)["user_agent"] == answered.user_agent


@given(RECORDS, st.floats(0, 4e9))
def test_a_text_line_is_that_of_its_event(answered, moment):
    event = {**event_of(answered), "log_time": moment}
    assert text_access_line(answered, moment) == text_line(event)


def test_callers_are_told_apart_in_every_field():
    line = JSONAccessLine()
    for field in ("user", "node", "address", "service", "listener"):
        one, other = record(**{field: "one"}), record(**{field: "other"})
        assert json.loads(line(one, 0))[field] == "one"
        assert json.loads(line(other, 0))[field] == "other"
    assert json.loads(line(record(groups=("x", "y")), 0))["groups"] == ["x", "y"]


def test_what_is_kept_of_callers_is_bounded(monkeypatch):
    monkeypatch.setattr(access, "_KEPT_CHARACTERS", 1000)
    line = JSONAccessLine()
    for number in range(100):
        line(record(user=f"user{number}"), 0)
        line(record(user=f"user{number}", groups=("g" * 1000,)), 0)
        kept = sum(len(part) for parts in line._kept.values() for part in parts)
        assert kept == line._size <= 1000
    assert line._kept


class TestDirectly:
    @pytest.fixture
    def stream(self) -> StringIO:
        return StringIO()

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def lines(self, stream, clock) -> LineObserver:
        return LineObserver(stream, json_line, clock)

    def test_lines_are_written_together_a_moment_later(self, log, lines, stream, clock):
        log.write_to(lines, text_access_line)
        with capturedLogs() as events:
            log.answered(record(status=200))
            clock.advance(GATHER_SECONDS / 2)
            log.answered(record(status=404))
            assert stream.getvalue() == ""
            clock.advance(GATHER_SECONDS / 2)
        assert events == []
        assert [line[-3:] for line in stream.getvalue().splitlines()] == ["200", "404"]

    def test_the_time_is_that_of_the_answer(self, lines, stream):
        log = AccessLog(now=lambda: 86400.25)
        log.write_to(lines, text_access_line)
        log.answered(record())
        lines.flush()
        assert stream.getvalue().startswith("1970-01-02T00:00:00.250Z info  tailproxy.access: ")

    @pytest.mark.parametrize("form", ["json", "text"])
    @pytest.mark.parametrize("level", ["debug", "info"])
    def test_the_form_is_as_asked_for(self, log, lines, stream, form, level):
        log.write_to(lines, access_line(form, level))
        log.answered(record())
        lines.close()
        assert stream.getvalue().startswith("{") is (form == "json")

    @pytest.mark.parametrize("level", ["warn", "error", "fatal"])
    def test_below_the_level_nothing_is_written(self, log, lines, stream, level):
        log.write_to(lines, access_line("json", level))
        log.answered(record())
        lines.close()
        assert stream.getvalue() == ""


def test_every_sink_is_told_in_order():
    sinks = [FakeAuditSink(), FakeAuditSink()]
    fanout = Fanout(sinks)
    verifyObject(IAuditSink, fanout)
    for status in (200, 404):
        fanout.answered(record(status=status))
    assert [sink.records for sink in sinks] == [[record(), record(status=404)]] * 2
