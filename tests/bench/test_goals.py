from __future__ import annotations

import itertools

from bench.goals import GOALS, Goal, Verdict, judge, lines, wanted
from bench.proxies import PROXIES
from bench.rows import UNITS, Row
from bench.session import START, steps
from bench.workloads import WORKLOADS


def row(workload, proxy, figure, median):
    return Row(workload, proxy, figure, UNITS[figure], median, median, median, 1)


def verdict(what, against, *rows):
    (found,) = [
        found for found in judge(rows) if found.goal.what == what and found.goal.against == against
    ]
    return found


def test_a_goal_is_the_ratio_of_the_medians():
    rows = [
        row("get-16", "tailproxy-1", "cpu_us_per_request", 60.0),
        row("get-16", "go-peer", "cpu_us_per_request", 300.0),
    ]
    found = verdict("CPU per small GET, 16 connections", "go-peer", *rows)
    assert (found.measured, found.met, found.word) == (0.2, True, "met")


def test_a_ratio_above_its_limit_is_missed():
    rows = [
        row("get-16-tls", "tailproxy-1", "cpu_us_per_request", 76.0),
        row("get-16-tls", "go-stdlib", "cpu_us_per_request", 100.0),
    ]
    found = verdict("CPU per small GET, 16 connections", "go-stdlib", *rows)
    assert (found.measured, found.met, found.word) == (0.76, False, "missed")


def test_the_limit_itself_will_do():
    assert Verdict(Goal("x", "start_s", 1.0, "start", None), 1.0).met


def test_a_rate_is_turned_around():
    rows = [
        row("get-64", "tailproxy-2", "requests_per_s", 8000.0),
        row("get-64", "go-peer", "requests_per_s", 2000.0),
    ]
    found = verdict("1 / (requests/s), 64 connections, 2 workers", "go-peer", *rows)
    assert (found.measured, found.met) == (0.25, True)


def test_nobody_is_praised_for_a_latency_below_nothing():
    rows = [
        row("get-1", "tailproxy-1", "p99_ms", 0.2),
        row("get-1", "go-peer", "p99_ms", -0.1),
    ]
    found = verdict("p99 added latency, 1 connection", "go-peer", *rows)
    assert (found.measured, found.met, found.word) == (None, None, "not measured")


def test_what_was_not_measured_is_said():
    assert {found.word for found in judge([])} == {"not measured"}


def test_a_bound_is_the_figure_itself():
    found = verdict(
        "start to first answer, s", "itself", row("start", "tailproxy-1", "start_s", 0.4)
    )
    assert (found.measured, found.met) == (0.4, True)


def test_growth_is_against_ourselves_with_fewer():
    rows = [
        row("watch-100", "tailproxy-1", "rss_kib_each", 50.0),
        row("watch-1000", "tailproxy-1", "rss_kib_each", 60.0),
    ]
    found = verdict("RSS per watch, 1,000 against 100", "itself", *rows)
    assert (found.measured, found.met) == (1.2, False)


def test_lines_put_together_what_they_are_about():
    found = {line.what: set(line.verdicts) for line in lines(judge([]))}
    assert found["CPU per small GET, 1 connection"] == {"go-peer", "go-stdlib"}
    assert found["CPU per small GET, 16 connections, tailnet"] == {"go-peer"}
    assert found["RSS at rest of one worker, MiB"] == {"itself"}


def test_every_goal_is_about_something_that_is_measured():
    measured = {(step.name, proxy) for step in steps(WORKLOADS) for proxy in step.proxies} | set(
        itertools.product([START], PROXIES)
    )
    named = {(workload, proxy) for workload, names in wanted().items() for proxy in names}
    assert named <= measured
    assert {goal.figure for goal in GOALS} <= set(UNITS)
