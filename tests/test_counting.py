"""Counting as the Prometheus client does it."""

from __future__ import annotations

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from tailproxy import counting

BOUNDS = (0.001, 0.5, 1.0, 10.0)
AMOUNTS = st.sampled_from([0.0, 0.001, 0.002, 0.5, 1.0, 9.99, 10.0, 11.0, 1e9]) | st.floats(0, 100)
STEPS = st.lists(
    st.tuples(st.sampled_from(["a", "b", 'q"\n\\']), st.sampled_from(["x", "y"]), AMOUNTS),
    max_size=10,
)


def text_of(source, steps):
    registry = CollectorRegistry()
    made = {"registry": registry}
    counter = source.Counter("t_requests_total", "Requests.", ["verb", "code"], **made)
    plain = source.Counter("t_plain_total", "Plain.", **made)
    gauge = source.Gauge("t_open", "Open.", ["verb"], **made)
    level = source.Gauge("t_level", "Level.", **made)
    seconds = source.Histogram("t_seconds", "Time.", ["verb"], buckets=BOUNDS, **made)
    all_seconds = source.Histogram("t_all_seconds", "All time.", buckets=BOUNDS, **made)
    source.Counter("t_unused_total", "Never counted.", ["verb"], **made)
    for verb, code, amount in steps:
        counter.labels(verb, code).inc()
        plain.inc(amount)
        gauge.labels(verb).inc(2)
        gauge.labels(code).dec()
        level.set(amount)
        seconds.labels(verb).observe(amount)
        all_seconds.observe(amount)
    return generate_latest(registry).decode()


@given(STEPS)
def test_the_page_is_the_same(steps):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("time.time", lambda: 1795473408.5)
        expected = text_of(prometheus_client, steps)
        assert text_of(counting, steps) == expected
    assert "t_requests" in expected


def test_a_metric_is_there_once():
    registry = CollectorRegistry()
    counting.Counter("t_total", "One.", registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        counting.Gauge("t", "Other.", registry=registry)


@pytest.mark.parametrize("values", [(), ("a",), ("a", "b", "c")])
def test_there_are_as_many_labels_as_names(values):
    counter = counting.Counter("t_total", "One.", ["verb", "code"])
    with pytest.raises(ValueError, match="verb, code"):
        counter.labels(*values)


def test_the_same_labels_are_the_same_number():
    histogram = counting.Histogram("t", "One.", ["verb"], buckets=BOUNDS)
    assert histogram.labels("a") is histogram.labels("a")
    assert histogram.labels("a") is not histogram.labels("b")
