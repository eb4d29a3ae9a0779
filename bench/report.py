"""Rows as tables for people, and the generated parts of docs/performance.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.goals import PEER, STDLIB, judge, lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bench.goals import Verdict
    from bench.rows import Row

BEGIN = "<!-- bench: {} -->"
END = "<!-- bench: end -->"
#: What the tables of figures are called, in their order.
TITLES = {
    "cpu_us_per_request": "CPU per request, µs",
    "requests_per_s": "Requests per second",
    "p50_ms": "Latency p50, ms",
    "p90_ms": "Latency p90, ms",
    "p99_ms": "Latency p99, ms",
    "max_ms": "Latency maximum, ms",
    "cpu_s_per_gib": "CPU per GiB, s",
    "mib_per_s": "MiB per second",
    "rss_kib_each": "RSS per watch, KiB",
    "cpu_us_each": "CPU to open a watch, µs",
    "cpu_us_per_event": "CPU per event of a watch, µs",
    "cpu_us_per_key": "CPU per keystroke, µs",
    "start_s": "Start to first answer, s",
    "rss_mib_idle": "RSS at rest, MiB",
}


def number(value: float) -> str:
    """*value* with three significant digits, thousands set apart."""
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    text = f"{value:#.3g}"
    return text.rstrip(".")


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    rules = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rules, *body))


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return "—"
    limit = f"{verdict.goal.limit:g}"
    if verdict.measured is None:
        return f"not measured (at most {limit})"
    text = f"{verdict.measured:.2f} (at most {limit})"
    return text if verdict.met else f"**{text}: missed**"


def goals_table(rows: Iterable[Row]) -> str:
    """How the goals stand."""
    head = ("goal", f"to {PEER}", f"to {STDLIB}", "by itself")
    columns = (PEER, STDLIB, "itself")
    return table(
        head,
        (
            [line.what, *(_cell(line.verdicts.get(column)) for column in columns)]
            for line in lines(judge(rows))
        ),
    )


def figures_tables(rows: Sequence[Row]) -> str:
    """A table for each figure: workloads down, proxies across, medians with minimum and maximum."""
    out = []
    for figure, title in TITLES.items():
        found = {(row.workload, row.proxy): row for row in rows if row.figure == figure}
        if not found:
            continue
        proxies = [
            name
            for name in dict.fromkeys(row.proxy for row in rows)
            if any(proxy == name for _, proxy in found)
        ]
        body = (
            [name, *(_range(found.get((name, proxy))) for proxy in proxies)]
            for name in dict.fromkeys(workload for workload, _ in found)
        )
        out.append(f"### {title}\n\n{table(['workload', *proxies], body)}")
    return "\n\n".join(out)


def _range(row: Row | None) -> str:
    if row is None:
        return "—"
    if row.rounds == 1:
        return number(row.median)
    return f"{number(row.median)} ({number(row.min)} to {number(row.max)})"


def plain(rows: Iterable[Row]) -> str:
    """Rows for a terminal: a line for each workload and proxy."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        text = f"{row.figure} {number(row.median)}"
        found.setdefault((row.workload, row.proxy), []).append(text)
    return "\n".join(
        f"{workload:16} {proxy:12} {'  '.join(texts)}" for (workload, proxy), texts in found.items()
    )


def filled(page: str, parts: Mapping[str, str]) -> str:
    """A page with generated parts put between their marks.

    :param parts: the parts by the names in their marks.
    :raises ValueError: a mark is missing.
    """
    for name, text in parts.items():
        begin = BEGIN.format(name)
        before, found, rest = page.partition(begin)
        _, ended, after = rest.partition(END)
        if not (found and ended):
            raise ValueError(f"the page has no part {begin} … {END}")
        page = f"{before}{begin}\n{text}\n{END}{after}"
    return page
