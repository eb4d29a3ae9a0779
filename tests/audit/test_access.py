"""The access log."""

import json
from io import StringIO
from ipaddress import ip_address

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
from tailproxy.policy.identity import Caller, Identity
from tailproxy.testing import FakeAuditSink
from tailproxy.wire.requestinfo import RequestInfo, request_info
from tests.audit.records import ADA, CALLER, record


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
    assert {key: value for key, value in event.items() if not key.startswith("log_")} == {
        "user": "ada@corp.example",
        "groups": ("dev",),
        "node": "laptop.corp-cat.ts.net",
        "node_id": "nABC123CNTRL",
        "tags": (),
        "address": "100.64.0.5",
        "service": "svc:kube",
        "listener": "serve",
        "request_id": "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
        "method": "GET",
        "path": "/api/v1/pods",
        "verb": "list",
        "api_group": "",
        "api_version": "v1",
        "namespace": "",
        "resource": "pods",
        "subresource": "",
        "name": "",
        "status": 404,
        "sent": 1200,
        "received": 0,
        "duration": 0.02,
        "upgrade": "",
        "session": "",
        "exit_code": None,
        "recorded": "",
        "decision": "forward",
        "denied": "",
        "reason": "",
        "user_agent": "kubectl/v1.36.0",
    }


def test_a_caller_nobody_knows_is_named_by_the_address(log):
    with capturedLogs() as events:
        log.answered(record(identity=None, status=401, denied="unknown-caller"))
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
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
IDENTITIES = st.builds(
    attrs.evolve, st.just(ADA), user=TEXT, groups=TEXTS, node=TEXT, node_id=TEXT, tags=TEXTS
)
RECORDS = st.builds(
    AccessRecord,
    id=st.text("0123456789abcdef", min_size=1),
    identity=st.none() | IDENTITIES,
    caller=st.builds(Caller, st.ip_addresses(), st.just(1), st.none() | TEXT),
    listener=TEXT,
    method=TEXT,
    path=TEXT,
    info=st.builds(
        RequestInfo,
        is_resource=st.booleans(),
        path=TEXT,
        verb=TEXT,
        **dict.fromkeys(("api_group", "api_version", "namespace", "resource"), TEXT),
        **dict.fromkeys(("subresource", "name", "field_selector", "label_selector"), TEXT),
    ),
    status=st.integers(),
    sent=st.integers(),
    received=st.integers(),
    duration=st.floats(allow_nan=False, allow_infinity=False),
    exit_code=st.none() | st.integers(),
    decision=st.sampled_from(["forward", "serve", "refuse", "none"]),
    **dict.fromkeys(("upgrade", "session", "recorded", "denied", "reason", "user_agent"), TEXT),
)
LINE = JSONAccessLine()


@given(RECORDS, st.floats(0, 4e9))
def test_a_json_line_is_that_of_its_event(answered, moment):
    event = {**event_of(answered), "log_time": moment}
    expected = json_line(event)
    assert LINE(answered, moment) == expected
    assert LINE(answered, moment) is LINE(answered, 0)  # as it was made
    again = attrs.evolve(answered)
    assert LINE(again, moment) == expected  # from what is kept of the caller and the request
    assert expected.count("\n") == 1
    assert json.loads(expected)["user_agent"] == answered.user_agent


@given(RECORDS, st.floats(0, 4e9))
def test_a_text_line_is_that_of_its_event(answered, moment):
    event = {**event_of(answered), "log_time": moment}
    assert text_access_line(answered, moment) == text_line(event)


def test_what_is_special_about_a_request_is_in_its_line():
    line = JSONAccessLine()
    for field, value in (
        ("upgrade", "SPDY/3.1"),
        ("session", "exec"),
        ("exit_code", 0),
        ("recorded", "folder"),
        ("decision", "serve"),
        ("denied", "unknown-caller"),
        ("reason", "because"),
    ):
        assert json.loads(line(record(**{field: value}), 0))[field] == value


def test_callers_are_told_apart_in_every_field():
    line = JSONAccessLine()
    for field in ("user", "node", "node_id"):
        for value in ("one", "other"):
            answered = record(identity=attrs.evolve(ADA, **{field: value}))
            assert json.loads(line(answered, 0))[field] == value
    for field in ("groups", "tags"):
        answered = record(identity=attrs.evolve(ADA, **{field: ("x", "y")}))
        assert json.loads(line(answered, 0))[field] == ["x", "y"]
    for address in ("100.64.0.6", "100.64.0.7"):
        answered = record(caller=Caller(ip_address(address), 1))
        assert json.loads(line(answered, 0))["address"] == address
    for name in ("one", "other"):
        answered = record(caller=attrs.evolve(CALLER, service=name), listener=name)
        assert [json.loads(line(answered, 0))[key] for key in ("service", "listener")] == [name] * 2


def test_requests_are_told_apart_in_every_field():
    line = JSONAccessLine()
    for field in ("verb", "api_group", "api_version", "namespace", "resource", "subresource"):
        for value in ("one", "other"):
            answered = record(info=attrs.evolve(record().info, **{field: value}))
            assert json.loads(line(answered, 0))[field] == value


def test_no_selector_is_in_a_line():
    target = b"/api/v1/secrets?labelSelector=token%3Dhush&fieldSelector=type%3Dhush"
    info = request_info(b"GET", target)
    assert "hush" in info.label_selector
    assert "hush" in info.field_selector
    answered = record(info=info)
    assert "hush" not in JSONAccessLine()(answered, 0)
    assert "hush" not in json_line(event_of(answered))


def test_what_is_kept_of_callers_and_requests_is_bounded(monkeypatch):
    monkeypatch.setattr(access, "_KEPT_CHARACTERS", 1000)
    line = JSONAccessLine()
    for number in range(100):
        line(record(identity=attrs.evolve(ADA, user=f"user{number}")), 0)
        line(record(identity=attrs.evolve(ADA, groups=("g" * 1000,))), 0)
        line(record(path=f"/api/v1/namespaces/{number}"), 0)
        line(record(path="/api/v1/namespaces/" + "n" * 1000), 0)
        for texts in (line._callers, line._requests):
            kept = sum(len(who) + len(fields) for _, who, fields in texts.kept.values())
            assert kept == texts.size <= 1000
            assert all(isinstance(made[0], Identity | RequestInfo) for made in texts.kept.values())
    assert line._callers.kept
    assert line._requests.kept


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
        log.write_to(lines, access_line(form, level, log.json))
        log.answered(record())
        lines.close()
        assert stream.getvalue().startswith("{") is (form == "json")

    @pytest.mark.parametrize("level", ["warn", "error", "fatal"])
    def test_below_the_level_nothing_is_written(self, log, lines, stream, level):
        log.write_to(lines, access_line("json", level, log.json))
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
