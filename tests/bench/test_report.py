from __future__ import annotations

import pytest

from bench.report import figures_tables, filled, goals_table, number, plain
from bench.rows import UNITS, Row


def row(workload, proxy, figure, median, spread=0.0, rounds=3):
    low, high = median - spread, median + spread
    return Row(workload, proxy, figure, UNITS[figure], median, low, high, rounds)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01234, "0.0123"),
        (1.0, "1.00"),
        (12.345, "12.3"),
        (123.4, "123"),
        (1234.5, "1,230"),
        (1234567.0, "1,230,000"),
        (-2.5, "-2.50"),
        (0.0, "0.00"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_a_missed_goal_stands_out():
    rows = [
        row("get-1", "tailproxy-1", "cpu_us_per_request", 60.0),
        row("get-1", "go-peer", "cpu_us_per_request", 100.0),
        row("get-1-tls", "tailproxy-1", "cpu_us_per_request", 70.0),
        row("get-1-tls", "go-stdlib", "cpu_us_per_request", 100.0),
    ]
    lines = goals_table(rows).splitlines()
    assert lines[0] == "| goal | to go-peer | to go-stdlib | by itself |"
    assert (
        "| CPU per small GET, 1 connection | **0.60 (at most 0.5): missed** "
        "| 0.70 (at most 0.75) | — |"
    ) in lines


def test_each_figure_has_a_table_of_workloads_and_proxies():
    rows = [
        row("get-1", "go-peer", "cpu_us_per_request", 250.0, 10.0),
        row("get-1", "tailproxy-1", "cpu_us_per_request", 80.0, 5.0),
        row("get-1-tls", "tailproxy-1", "cpu_us_per_request", 90.0, rounds=1),
        row("get-1", "go-peer", "p50_ms", 0.25),
    ]
    assert figures_tables(rows).splitlines() == [
        "### CPU per request, µs",
        "",
        "| workload | go-peer | tailproxy-1 |",
        "| --- | ---: | ---: |",
        "| get-1 | 250 (240 to 260) | 80.0 (75.0 to 85.0) |",
        "| get-1-tls | — | 90.0 |",
        "",
        "### Latency p50, ms",
        "",
        "| workload | go-peer |",
        "| --- | ---: |",
        "| get-1 | 0.250 (0.250 to 0.250) |",
    ]


def test_plain_rows_have_a_line_for_each_workload_and_proxy():
    rows = [
        row("get-1", "nginx", "p50_ms", 0.5),
        row("get-1", "nginx", "p99_ms", 1.5),
        row("get-16", "nginx", "p50_ms", 2.0),
    ]
    assert [line.split() for line in plain(rows).splitlines()] == [
        ["get-1", "nginx", "p50_ms", "0.500", "p99_ms", "1.50"],
        ["get-16", "nginx", "p50_ms", "2.00"],
    ]


PAGE = (
    "a\n<!-- bench: one -->\nold\n<!-- bench: end -->\nb\n<!-- bench: two --><!-- bench: end -->\n"
)


def test_parts_are_put_between_their_marks_again_and_again():
    once = filled(PAGE, {"one": "1", "two": "2"})
    assert once == (
        "a\n<!-- bench: one -->\n1\n<!-- bench: end -->\nb\n"
        "<!-- bench: two -->\n2\n<!-- bench: end -->\n"
    )
    assert filled(once, {"one": "1", "two": "2"}) == once


@pytest.mark.parametrize("page", ["nothing", "<!-- bench: one --> no end"])
def test_a_page_without_the_marks_is_refused(page):
    with pytest.raises(ValueError, match="bench: one"):
        filled(page, {"one": "1"})
