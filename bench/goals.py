"""What the figures must show: ratios to the other proxies of the same run, and a few bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.rows import Row

PEER = "go-peer"
STDLIB = "go-stdlib"
ONE = "tailproxy-1"
TWO = "tailproxy-2"
#: How far from proportional a cost may grow.
PROPORTIONAL = 1.1


@dataclass(frozen=True)
class Goal:
    """One figure of ours against the same figure of something else.

    :ivar what: in words.
    :ivar figure: its name in the rows.
    :ivar limit: the largest ratio that will do; the largest figure itself without *other*.
    :ivar workload: of our figure.
    :ivar other: proxy and workload of the figure to divide by; None for none.
    :ivar ours: our proxy.
    :ivar inverse: whether more is better, so that the ratio is turned around.
    """

    what: str
    figure: str
    limit: float
    workload: str
    other: tuple[str, str] | None
    ours: str = ONE
    inverse: bool = False

    @property
    def against(self) -> str:
        """The column it belongs to: another proxy, or ``itself``."""
        return self.other[0] if self.other and self.other[0] != self.ours else "itself"


@dataclass(frozen=True)
class Verdict:
    """How a goal stands.

    :ivar measured: the ratio or the figure; None if something was not measured, or the ratio
        means nothing.
    """

    goal: Goal
    measured: float | None

    @property
    def met(self) -> bool | None:
        """Whether it is met; None if nobody knows."""
        return None if self.measured is None else self.measured <= self.goal.limit

    @property
    def word(self) -> str:
        """The same as a word."""
        return {True: "met", False: "missed", None: "not measured"}[self.met]


def _pair(
    what: str,
    figure: str,
    peer: tuple[str, float] | None,
    stdlib: tuple[str, float] | None,
    *,
    ours: str = ONE,
    inverse: bool = False,
) -> Iterable[Goal]:
    """The goals of one line: a workload and a limit for each of the two proxies."""
    for other, pair in ((PEER, peer), (STDLIB, stdlib)):
        if pair is not None:
            workload, limit = pair
            yield Goal(what, figure, limit, workload, (other, workload), ours, inverse)


def _both(what: str, figure: str, workload: str, peer: float, stdlib: float) -> Iterable[Goal]:
    return _pair(what, figure, (workload, peer), (f"{workload}-tls", stdlib))


def _growth(what: str, figure: str, few: str, many: str) -> Goal:
    return Goal(what, figure, PROPORTIONAL, many, (ONE, few))


CPU = "cpu_us_per_request"
GOALS: tuple[Goal, ...] = (
    *_both("CPU per small GET, 1 connection", CPU, "get-1", 0.5, 0.75),
    *_both("CPU per small GET, 16 connections", CPU, "get-16", 0.25, 0.75),
    *_both("CPU per small GET, 64 connections", CPU, "get-64", 0.25, 0.75),
    *_pair("CPU per small GET, 16 connections, tailnet", CPU, ("get-16-tailnet", 0.5), None),
    *_both("p50 added latency, 1 connection", "p50_ms", "get-1", 0.8, 1.0),
    *_both("p99 added latency, 1 connection", "p99_ms", "get-1", 0.8, 1.0),
    *_pair(
        "p99 added latency, 64 connections, 2 workers",
        "p99_ms",
        ("get-64", 0.3),
        ("get-64-tls", 1.0),
        ours=TWO,
    ),
    *_pair(
        "1 / (requests/s), 64 connections, 2 workers",
        "requests_per_s",
        ("get-64", 0.25),
        ("get-64-tls", 0.8),
        ours=TWO,
        inverse=True,
    ),
    *_both("CPU per GiB streamed down", "cpu_s_per_gib", "stream-1g", 1.0, 1.0),
    *_both("CPU per GiB streamed up", "cpu_s_per_gib", "post-1m", 1.0, 1.0),
    *_both("RSS per idle watch, 1,000 watches", "rss_kib_each", "watch-1000", 0.7, 1.0),
    *_pair(
        "CPU per new TLS connection with one request",
        CPU,
        ("connect-tailnet", 1.5),
        ("connect-tls", 1.3),
    ),
    *_both("event to 500 watches, time to the last", "p50_ms", "fanout-500", 1.0, 1.0),
    *_both("exec keystroke echo p50, 1 session", "p50_ms", "exec-echo-1", 1.0, 1.0),
    *_both("exec keystroke echo p99, 1 session", "p99_ms", "exec-echo-1", 1.0, 1.0),
    *_both("exec keystroke echo p50, 50 sessions", "p50_ms", "exec-echo-50", 1.0, 1.0),
    *_both("exec keystroke echo p99, 50 sessions", "p99_ms", "exec-echo-50", 1.0, 1.0),
    Goal("start to first answer, s", "start_s", 1.0, "start", None),
    Goal("RSS at rest of one worker, MiB", "rss_mib_idle", 60.0, "start", None),
    _growth("CPU per watch, 1,000 against 100", "cpu_us_each", "watch-100", "watch-1000"),
    _growth("RSS per watch, 1,000 against 100", "rss_kib_each", "watch-100", "watch-1000"),
    _growth("CPU per key, 50 sessions against 1", "cpu_us_per_key", "exec-echo-1", "exec-echo-50"),
)


def judge(rows: Iterable[Row]) -> list[Verdict]:
    """How all goals stand by the medians of some rows."""
    medians = {(row.workload, row.proxy, row.figure): row.median for row in rows}
    return [Verdict(goal, _measured(goal, medians)) for goal in GOALS]


def _measured(goal: Goal, medians: dict[tuple[str, str, str], float]) -> float | None:
    ours = medians.get((goal.workload, goal.ours, goal.figure))
    if goal.other is None or ours is None:
        return ours
    proxy, workload = goal.other
    theirs = medians.get((workload, proxy, goal.figure))
    if goal.inverse:
        ours, theirs = theirs, ours
    # A latency that a proxy takes away instead of adding is noise, and no ratio comes of it.
    if ours is None or theirs is None or theirs <= 0:
        return None
    return ours / theirs


def wanted() -> dict[str, set[str]]:
    """The proxies that the goals speak of, by workload."""
    out: dict[str, set[str]] = {}
    for goal in GOALS:
        out.setdefault(goal.workload, set()).add(goal.ours)
        if goal.other is not None:
            proxy, workload = goal.other
            out.setdefault(workload, set()).add(proxy)
    return out


@dataclass(frozen=True)
class Line:
    """The verdicts of one line of the table, by what they are against."""

    what: str
    verdicts: dict[str, Verdict]


def lines(verdicts: Sequence[Verdict]) -> list[Line]:
    """Verdicts put together by what they are about."""
    found: dict[str, Line] = {}
    for verdict in verdicts:
        line = found.setdefault(verdict.goal.what, Line(verdict.goal.what, {}))
        line.verdicts[verdict.goal.against] = verdict
    return list(found.values())
