"""Metrics of several processes as one.

Each process counts for itself. What they count is added up, by name and labels, with the few
exceptions that `_RULES` names. Totals of a worker that has ended are kept, since a counter must
never go down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# What cannot be added up: a fact that all share, a state, what ends first, who was there first,
# and how near to its limit one of them is.
_RULES: dict[str, Callable[[float, float], float]] = {
    "tailproxy_build_info": max,
    "tailproxy_draining": max,
    "tailproxy_certificate_expiry_timestamp_seconds": min,
    "process_start_time_seconds": min,
    "process_open_fds": max,
    "process_max_fds": min,
}
_TOTALS = ("counter", "histogram")

Packed = list[list[Any]]


def pack(families: Iterable[Metric]) -> Packed:
    """Families as JSON knows them."""
    return [
        [
            family.name,
            family.documentation,
            family.type,
            family.unit,
            [[sample.name, sample.labels, sample.value] for sample in family.samples],
        ]
        for family in families
    ]


def unpack(packed: Packed) -> list[Metric]:
    """What `pack` was given.

    :raises ValueError: it is something else.
    """
    try:
        found = []
        for name, documentation, kind, unit, samples in packed:
            family = Metric(name, documentation, kind, unit)
            for sample, labels, value in samples:
                family.add_sample(sample, labels, value)
            found.append(family)
    except TypeError as error:
        raise ValueError(str(error)) from error
    return found


def totals(families: Iterable[Metric]) -> list[Metric]:
    """Only what outlives its process."""
    return [family for family in families if family.type in _TOTALS]


def merge(sources: Iterable[Iterable[Metric]]) -> list[Metric]:
    """The families of all sources as those of one, in the order in which they are first met."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], Any]] = {}
    for source in sources:
        for family in source:
            if family.name not in families:
                families[family.name] = family
                values[family.name] = {}
            seen = values[family.name]
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                if key not in seen:
                    seen[key] = [sample.name, sample.labels, sample.value]
                    continue
                row = seen[key]
                rule = _RULES.get(sample.name) or (
                    min if sample.name.endswith("_created") else float.__add__
                )
                row[2] = rule(float(row[2]), float(sample.value))
    merged = []
    for name, family in families.items():
        one = Metric(name, family.documentation, family.type, family.unit)
        for row in values[name].values():
            one.add_sample(*row)
        merged.append(one)
    return merged
