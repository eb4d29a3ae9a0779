from __future__ import annotations

import pytest

from bench.rows import UNITS, Row, Samples, as_json, from_json, latencies, rounded

FAST = {"p50_ms": 1.0, "p90_ms": 2.0, "p99_ms": 3.0, "max_ms": 9.0}
SLOW = {"p50_ms": 1.5, "p90_ms": 4.0, "p99_ms": 7.0, "max_ms": 8.0}


def test_a_row_has_median_and_spread_of_all_rounds():
    samples = Samples()
    for value in (30.0, 10.0, 20.0, 400.0):
        samples.add("get-1", "go-peer", {"cpu_us_per_request": value})
    assert samples.rows() == [
        Row("get-1", "go-peer", "cpu_us_per_request", "us", 25.0, 10.0, 400.0, 4)
    ]


def test_rows_are_apart_by_workload_proxy_and_figure():
    samples = Samples()
    samples.add("get-1", "go-peer", {"p50_ms": 1.0, "p99_ms": 2.0})
    samples.add("get-1", "nginx", {"p50_ms": 3.0})
    samples.add("get-16", "nginx", {"p50_ms": 4.0})
    assert [(row.workload, row.proxy, row.figure, row.median) for row in samples.rows()] == [
        ("get-1", "go-peer", "p50_ms", 1.0),
        ("get-1", "go-peer", "p99_ms", 2.0),
        ("get-1", "nginx", "p50_ms", 3.0),
        ("get-16", "nginx", "p50_ms", 4.0),
    ]


def test_the_values_of_the_rounds_stay_in_order():
    samples = Samples()
    for value in (3.0, 1.0, 2.0):
        samples.add("get-1", "nginx", {"p50_ms": value})
    assert samples.values("get-1", "nginx", "p50_ms") == [3.0, 1.0, 2.0]
    assert samples.values("get-1", "nginx", "p99_ms") == []


def test_a_figure_without_a_unit_is_an_error():
    samples = Samples()
    samples.add("get-1", "nginx", {"furlongs": 1.0})
    with pytest.raises(KeyError, match="furlongs"):
        samples.rows()


def test_rows_survive_the_file():
    row = Row("get-1", "nginx", "p50_ms", UNITS["p50_ms"], 1.0, 0.5, 2.0, 3)
    (written,) = as_json([row])
    assert list(written) == [
        "workload", "proxy", "figure", "unit", "median", "min", "max", "rounds",
    ]  # fmt: skip
    assert from_json([written]) == [row]


def test_an_added_latency_is_the_difference_and_the_whole_one_stands_beside_it():
    assert latencies(SLOW, FAST, whole=False) == {
        "p50_ms": 0.5,
        "p90_ms": 2.0,
        "p99_ms": 4.0,
        "max_ms": -1.0,
        "whole_p50_ms": 1.5,
        "whole_p99_ms": 7.0,
    }


def test_a_whole_latency_has_what_is_added_beside_it():
    assert latencies(SLOW, FAST, whole=True) == {**SLOW, "added_p50_ms": 0.5, "added_p99_ms": 4.0}


@pytest.mark.parametrize("whole", [True, False])
def test_without_a_proxy_latencies_are_whole(whole):
    assert latencies({**SLOW, "requests": 5}, None, whole=whole) == SLOW


@pytest.mark.parametrize(
    ("value", "shown"), [(123456.0, 123500.0), (0.00123456, 0.001235), (0.0, 0.0)]
)
def test_four_digits_are_kept(value, shown):
    assert rounded(value) == shown
