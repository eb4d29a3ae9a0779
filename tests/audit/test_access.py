"""The access log."""

import attrs
import pytest
from twisted.logger import LogLevel, capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from tailproxy.audit.access import AccessLog, Fanout
from tailproxy.interfaces import IAuditSink
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


def test_every_sink_is_told_in_order():
    sinks = [FakeAuditSink(), FakeAuditSink()]
    fanout = Fanout(sinks)
    verifyObject(IAuditSink, fanout)
    for status in (200, 404):
        fanout.answered(record(status=status))
    assert [sink.records for sink in sinks] == [[record(), record(status=404)]] * 2
