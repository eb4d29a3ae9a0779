"""Samples become rows: one figure of one workload through one proxy, over all rounds."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: The unit of each figure, as it is written into the rows.
UNITS = {
    "cpu_us_per_request": "us",
    "cpu_us_each": "us",
    "cpu_us_per_event": "us",
    "cpu_us_per_key": "us",
    "cpu_s_per_gib": "s/GiB",
    "p50_ms": "ms",
    "p90_ms": "ms",
    "p99_ms": "ms",
    "max_ms": "ms",
    "whole_p50_ms": "ms",
    "whole_p99_ms": "ms",
    "added_p50_ms": "ms",
    "added_p99_ms": "ms",
    "requests_per_s": "1/s",
    "mib_per_s": "MiB/s",
    "rss_kib_each": "KiB",
    "rss_mib_idle": "MiB",
    "start_s": "s",
}
LATENCIES = ("p50_ms", "p90_ms", "p99_ms", "max_ms")


@dataclass(frozen=True)
class Row:
    """One figure over all rounds."""

    workload: str
    proxy: str
    figure: str
    unit: str
    median: float
    min: float
    max: float
    rounds: int


class Samples:
    """What was measured, round by round."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str, str], list[float]] = {}

    def add(self, workload: str, proxy: str, figures: Mapping[str, float]) -> None:
        """Note the figures of one round."""
        for figure, value in figures.items():
            self._values.setdefault((workload, proxy, figure), []).append(value)

    def values(self, workload: str, proxy: str, figure: str) -> list[float]:
        """One figure, round by round; empty if it was not measured."""
        return list(self._values.get((workload, proxy, figure), ()))

    def rows(self) -> list[Row]:
        """A row for each figure, in the order in which they came up."""
        return [
            Row(
                workload,
                proxy,
                figure,
                UNITS[figure],
                rounded(statistics.median(values)),
                rounded(min(values)),
                rounded(max(values)),
                len(values),
            )
            for (workload, proxy, figure), values in self._values.items()
        ]


def rounded(value: float) -> float:
    """*value* with four significant digits; more would be noise."""
    return float(f"{value:.4g}")


def latencies(
    result: Mapping[str, float], direct: Mapping[str, float] | None, *, whole: bool
) -> dict[str, float]:
    """The figures of latency of one measurement.

    What a proxy adds is its own latencies less those of no proxy in the same round.

    :param result: latencies by figure.
    :param direct: the same without a proxy; None if *result* is that, or it was not measured.
    :param whole: whether the plain names are for the whole latencies; they are for what is added
        otherwise, and always for the whole ones without a proxy.
    """
    own = {name: result[name] for name in LATENCIES}
    if direct is None:
        return own
    added = {name: result[name] - direct[name] for name in LATENCIES}
    shown, other, prefix = (own, added, "added_") if whole else (added, own, "whole_")
    return {**shown, **{prefix + name: other[name] for name in ("p50_ms", "p99_ms")}}


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows as they are written down."""
    return [asdict(row) for row in rows]


def from_json(found: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows of a file."""
    return [Row(**row) for row in found]
