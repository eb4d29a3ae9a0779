"""Metrics of requests."""

import pytest
from zope.interface.verify import verifyObject

from tailproxy.audit.counters import RequestCounters
from tailproxy.interfaces import IAuditSink
from tailproxy.metrics import Metrics
from tailproxy.policy.decide import Mode
from tests.audit.records import record, with_verb


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("test")


@pytest.fixture
def counters(metrics) -> RequestCounters:
    return RequestCounters(metrics, Mode.AUTH)


def value(metrics, name, **labels) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_requests_are_counted_by_verb_code_and_mode(metrics, counters):
    verifyObject(IAuditSink, counters)
    for status in (200, 200, 403):
        counters.answered(record(status=status))
    labels = {"verb": "list", "mode": "auth"}
    assert value(metrics, "tailproxy_requests_total", code="200", **labels) == 2
    assert value(metrics, "tailproxy_requests_total", code="403", **labels) == 1


def test_a_method_of_the_clients_own_making_is_no_label(metrics, counters):
    counters.answered(with_verb("brew"))
    assert value(metrics, "tailproxy_requests_total", verb="other", code="200", mode="auth") == 1


def test_our_own_refusals_are_counted_by_reason(metrics, counters):
    counters.answered(record(status=401, denied="unknown-caller"))
    counters.answered(record(status=403))
    assert value(metrics, "tailproxy_denied_total", reason="unknown-caller") == 1
    assert "tailproxy_denied_total" in {
        sample.name
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.value == 1
    }


def test_durations_are_measured(metrics, counters):
    counters.answered(record(duration=0.25))
    assert value(metrics, "tailproxy_request_duration_seconds_sum", verb="list") == 0.25


@pytest.mark.parametrize(
    "lasting",
    [
        {"verb": "watch"},
        {"verb": "create", "upgrade": "SPDY/3.1", "path": "/api/v1/namespaces/a/pods/b/exec"},
        {"verb": "get", "path": "/api/v1/namespaces/a/pods/b/log"},
        {"verb": "proxy"},
    ],
)
def test_what_lasts_as_long_as_somebody_looks_on_has_no_duration(metrics, counters, lasting):
    verb = lasting["verb"]
    counters.answered(with_verb(**lasting))
    assert value(metrics, "tailproxy_request_duration_seconds_count", verb=verb) == 0
    assert value(metrics, "tailproxy_requests_total", verb=verb, code="200", mode="auth") == 1
