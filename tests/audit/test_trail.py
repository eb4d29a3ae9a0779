"""The audit trail."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from twisted.internet import reactor
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from tailproxy.audit.access import AccessLog
from tailproxy.audit.logs import LineObserver, json_line
from tailproxy.audit.trail import Trail, audit_trail
from tailproxy.audit_options import Audit, Sink, SinkKind
from tailproxy.interfaces import IAuditSink
from tailproxy.metrics import Metrics
from tailproxy.schema import ConfigError
from tests.audit.records import record


def trail_of(*sinks: Sink, log: AccessLog | None = None) -> Trail:
    line = (log or AccessLog()).json
    return audit_trail(Audit(sinks), line, reactor, Metrics("test"))


async def test_every_sink_has_every_line_and_what_waits_at_the_end_too(tmp_path):
    paths = [tmp_path / name for name in ("one", "two")]
    trail = trail_of(*(Sink(SinkKind.FILE, path.name, path) for path in paths))
    verifyObject(IAuditSink, trail)
    trail.startService()
    for status in (200, 404):
        trail.answered(record(status=status))
    await trail.stopService()
    for path in paths:
        assert [json.loads(line)["status"] for line in path.read_text().splitlines()] == [200, 404]


async def test_a_line_is_made_once_and_is_that_of_the_log(tmp_path):
    log = AccessLog(now=lambda: 1.0)
    stream = StringIO()
    lines = LineObserver(stream, json_line, Clock())
    log.write_to(lines, log.json)
    trail = trail_of(Sink(SinkKind.FILE, path=tmp_path / "audit.log"), log=log)
    answered = record()
    log.answered(answered)
    trail.answered(answered)
    lines.flush()
    await trail.stopService()
    assert (tmp_path / "audit.log").read_text() == stream.getvalue() != ""


def test_the_log_is_no_business_of_the_trail():
    assert trail_of(Sink(SinkKind.LOG)).deliveries == ()


def test_file_that_cannot_be_made_is_refused_with_the_reason(tmp_path):
    for path in (tmp_path / "nothing" / "audit.log", tmp_path):
        with pytest.raises(ConfigError, match="a folder where this user may make files"):
            trail_of(Sink(SinkKind.FILE, path=path))


def test_cas_that_cannot_be_read_are_refused_with_the_reason(tmp_path):
    sink = Sink(SinkKind.HTTP, url="https://x.example/", ca_file=tmp_path / "ca.pem")
    with pytest.raises(ConfigError, match="No such file"):
        trail_of(sink)
