"""The guard: has a small request become dearer, measured by what Go's library proxy takes?

The ratio of two CPU times of one run hardly depends on the machine, so a figure can be kept with
the code.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.goals import CPU, ONE, STDLIB
from tests.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE = Path(__file__).parent / "guard.json"
WORKLOAD = "get-16-tls"
#: How much worse the ratio may be than the one that is kept.
MARGIN = 0.15
ROUNDS = 9
SECONDS = 5.0


@dataclass(frozen=True)
class Finding:
    """The ratio of this run beside the one that is kept."""

    ratio: float
    kept: float

    @property
    def limit(self) -> float:
        """The largest ratio that will do."""
        return self.kept * (1 + MARGIN)

    @property
    def good(self) -> bool:
        """Whether it will do."""
        return self.ratio <= self.limit

    @property
    def text(self) -> str:
        """All of it in words, with what to do."""
        change = (self.ratio / self.kept - 1) * 100
        said = (
            f"{WORKLOAD}: {ONE} takes {self.ratio:.3f} of the CPU of {STDLIB}; kept is "
            f"{self.kept:.3f}, so it is {abs(change):.1f} % {'more' if change > 0 else 'less'}"
        )
        if self.good:
            return f"{said}: good"
        return (
            f"{said}, and at most {MARGIN:.0%} will do. Find what made it dearer "
            f"(`python -m bench only {WORKLOAD}` at both commits), or, if it is worth it, keep "
            f"the new figure with `python -m bench guard --accept`"
        )


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios.

    A round's two figures were measured one right after the other, so what disturbs the machine
    for longer disturbs both.
    """
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def kept() -> float:
    """The ratio that is kept.

    :raises LabError: there is no file, or it is not what `keep` writes.
    """
    try:
        found = json.loads(FILE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LabError(f"{FILE} is not there; `python -m bench guard --accept` makes it") from None
    if (found.get("workload"), found.get("figure")) != (WORKLOAD, CPU):
        raise LabError(f"{FILE} is not about {CPU} of {WORKLOAD}")
    return float(found["ratio"])


def keep(value: float) -> None:
    """Write down a ratio."""
    facts = {"workload": WORKLOAD, "figure": CPU, "ratio": round(value, 3)}
    FILE.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
