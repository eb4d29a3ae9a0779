"""Counters, gauges and histograms for one thread.

They count without locks, at a fraction of what the Prometheus client's own cost, which are made
for many threads. Everything else is the client's: its registry collects them, and their samples
are the same.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

from prometheus_client import Metric
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from prometheus_client import CollectorRegistry

    # What is behind the metric's name, further labels, and the value.
    Samples = Iterator[tuple[str, dict[str, str], float]]


class Family:
    """A metric: one number, or one for each combination of labels.

    :param name: as the text format shows it.
    :param documentation: what it says, in a sentence.
    :param label_names: if it has labels: then only what `labels` returns counts.
    :param registry: collects it; None for one of the combinations.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        name: str,
        documentation: str,
        label_names: Sequence[str] = (),
        *,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.name = name.removesuffix("_total")
        self.documentation = documentation
        self.label_names = tuple(label_names)
        self._children: dict[tuple[str, ...], Self] = {}
        self._created = time.time()
        if registry is not None:
            registry.register(self)

    def labels(self, *values: str) -> Self:
        """The one with these labels; it is there from now on."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {', '.join(self.label_names)}")
            child = self._children[values] = self._child()
        return child

    def describe(self) -> list[Metric]:
        """What it is, for the registry."""
        return [Metric(self.name, self.documentation, self.kind)]

    def collect(self) -> list[Metric]:
        """How it stands, for the registry."""
        metric = Metric(self.name, self.documentation, self.kind)
        children = self._children if self.label_names else {(): self}
        for values, child in children.items():
            labels = dict(zip(self.label_names, values, strict=True))
            for suffix, further, value in child._samples():  # noqa: SLF001 - it is one of ours
                metric.add_sample(self.name + suffix, labels | further, value)
        return [metric]

    def _child(self) -> Self:
        return type(self)(self.name, self.documentation)

    def _samples(self) -> Samples:
        raise NotImplementedError


class Counter(Family):
    """Only goes up."""

    kind = "counter"
    _value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Count."""
        self._value += amount

    def _samples(self) -> Samples:
        yield "_total", {}, self._value
        yield "_created", {}, self._created


class Gauge(Family):
    """Goes up and down."""

    kind = "gauge"
    _value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Go up."""
        self._value += amount

    def dec(self, amount: float = 1.0) -> None:
        """Go down."""
        self._value -= amount

    def set(self, value: float) -> None:
        """Be that."""
        self._value = float(value)

    def _samples(self) -> Samples:
        yield "", {}, self._value


class Histogram(Family):
    """How many were how much.

    :param buckets: their upper bounds, in ascending order; the last one without a bound is added.
    """

    kind = "histogram"

    def __init__(
        self,
        name: str,
        documentation: str,
        label_names: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._bounds = tuple(buckets)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        super().__init__(name, documentation, label_names, registry=registry)

    def observe(self, amount: float) -> None:
        """Count one of that amount."""
        self._counts[bisect_left(self._bounds, amount)] += 1
        self._sum += amount

    def _child(self) -> Self:
        return type(self)(self.name, self.documentation, buckets=self._bounds)

    def _samples(self) -> Samples:
        bounds = (*self._bounds, float("inf"))
        for bound, count in zip(bounds, accumulate(self._counts), strict=True):
            yield "_bucket", {"le": floatToGoString(bound)}, float(count)
        yield "_count", {}, float(sum(self._counts))
        yield "_sum", {}, self._sum
        yield "_created", {}, self._created
