"""A run: rounds of measurements, interleaved, so that all proxies see the same machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench import measure
from bench.proxies import PROXIES, Tailproxy, available
from bench.rows import Samples, latencies
from bench.workloads import Latency, Setting, proxies_for
from tests.lab.tailnet import PROXY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bench.doors import Way
    from bench.ground import Ground
    from bench.proxies import Proxy
    from bench.workloads import Measured, Workload

#: The workload's name in the rows of what a start takes.
START = "start"


@dataclass(frozen=True)
class Step:
    """A workload and a way; in a round, all proxies in turn."""

    workload: Workload
    way: Way
    proxies: tuple[str, ...]

    @property
    def name(self) -> str:
        """The workload's name, with suffixes."""
        return self.workload.name(self.way)

    def restricted(self, names: Sequence[str]) -> Step:
        """The same with the named proxies only."""
        return Step(self.workload, self.way, tuple(name for name in self.proxies if name in names))


@dataclass
class Plan:
    """What a run measures.

    :ivar steps: in the order of a round.
    :ivar rounds: how many rounds.
    :ivar seconds: see `bench.measure.SECONDS`.
    """

    steps: list[Step]
    rounds: int
    seconds: float = measure.SECONDS

    def restricted(self, names: Sequence[str]) -> Plan:
        """The same with the named proxies only."""
        kept = [step.restricted(names) for step in self.steps]
        return Plan([step for step in kept if step.proxies], self.rounds, self.seconds)

    @property
    def proxies(self) -> list[str]:
        """All proxies that are in it."""
        return list(dict.fromkeys(name for step in self.steps for name in step.proxies))


def steps(workloads: Sequence[Workload], names: Sequence[str] | None = None) -> list[Step]:
    """A step for each workload and way.

    :param names: which, by name with suffixes or by name without; None for all.
    """
    return [
        Step(workload, way, proxies_for(workload, way))
        for workload in workloads
        for way in workload.ways
        if names is None or workload.name(way) in names or workload.base in names
    ]


@dataclass
class Session:
    """Runs a plan.

    :ivar skipped: why a proxy is left out, by name.
    """

    ground: Ground
    plan: Plan
    samples: Samples = field(default_factory=Samples)
    skipped: dict[str, str] = field(default_factory=dict)
    _direct: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def run(self) -> Samples:
        """Measure everything.

        :raises LabError: a proxy does not start, or a request failed.
        """
        for name in self.plan.proxies:
            if reason := available(self.ground, name):
                self.skipped[name] = reason
                self.ground.progress.say(f"{name} is left out: {reason}")
        kept = [name for name in self.plan.proxies if name not in self.skipped]
        plan = self.plan.restricted(kept)
        for setting in Setting:
            part = [step for step in plan.steps if step.workload.setting is setting]
            if part:
                self._run_setting(setting, Plan(part, plan.rounds, plan.seconds))
        return self.samples

    def _run_setting(self, setting: Setting, plan: Plan) -> None:
        proxies = self._proxies(setting, plan.proxies)
        try:
            for proxy in proxies.values():
                proxy.start()
                self.ground.progress.say(f"{proxy.name} is ready{_of(setting)}")
            for number in range(plan.rounds):
                began = time.monotonic()
                self._round(plan, proxies, number)
                took = time.monotonic() - began
                self.ground.progress.say(
                    f"round {number + 1} of {plan.rounds}{_of(setting)}: {took:.0f} s"
                )
        finally:
            for proxy in proxies.values():
                proxy.stop()
            if setting is Setting.CALLERS:
                self.ground.processes.stop("whois")

    def _round(self, plan: Plan, proxies: Mapping[str, Proxy], number: int) -> None:
        self._direct.clear()
        for step in plan.steps:
            # Nobody is always the first after the same one. What direct requests take is
            # subtracted from what the others take, so they are always first.
            direct = [name for name in step.proxies if name == "direct"]
            others = [name for name in step.proxies if name != "direct"]
            turn = number % len(others) if others else 0
            for name in (*direct, *others[turn:], *others[:turn]):
                self._measure(step, proxies[name], plan.seconds)

    def _measure(self, step: Step, proxy: Proxy, seconds: float) -> None:
        workload = step.workload
        if workload.fresh:
            proxy.stop()
            proxy.start()
        found = measure.measure(self.ground, proxy, workload, step.way, seconds)
        proxy.forget_log()
        if proxy.name == "direct":
            figures = self._of_direct(step, proxy, found, seconds)
            for way in workload.ways:
                self.samples.add(workload.name(way), proxy.name, figures)
        else:
            figures = workload.figures(found)
            if workload.latency is not Latency.NONE:
                direct = self._direct.get(workload.base)
                whole = workload.latency is Latency.WHOLE
                figures |= latencies(found.said, direct, whole=whole)
            self.samples.add(step.name, proxy.name, figures)
        if workload.setting is Setting.INSTANT:
            while proxy.started:
                self.samples.add(START, proxy.name, proxy.started.pop())
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self.ground.progress.say(f"{step.name} through {proxy.name}: {shown}")

    def _of_direct(
        self, step: Step, proxy: Proxy, found: Measured, seconds: float
    ) -> dict[str, float]:
        """The figures of no proxy; its CPU time is nobody's."""
        workload = step.workload
        rates = {
            name: value
            for name, value in workload.figures(found).items()
            if name in {"requests_per_s", "mib_per_s"}
        }
        if workload.rate is not None:
            found = measure.measure(self.ground, proxy, workload, step.way, seconds, workload.rate)
        self._direct[workload.base] = found.said
        return {**rates, **latencies(found.said, None, whole=True)}

    def _proxies(self, setting: Setting, names: Sequence[str]) -> dict[str, Proxy]:
        upstream = self.ground.kube if setting is Setting.KUBE else self.ground.instant
        socket = self._whois() if setting is Setting.CALLERS else None
        out: dict[str, Proxy] = {}
        for name in names:
            kind = PROXIES[name]
            if issubclass(kind, Tailproxy):
                out[name] = kind(self.ground, upstream, socket)
            else:
                out[name] = kind(self.ground, upstream)
        return out

    def _whois(self) -> Path:
        path = self.ground.run / "whois.sock"
        self.ground.processes.start(
            "whois",
            [
                self.ground.tools["whois"], "-socket", path,
                "-tailscaled", self.ground.tailnet.nodes[PROXY].socket,
            ],
        )  # fmt: skip
        self.ground.processes.wait_ready("whois", path.exists, 10)
        return path


def _of(setting: Setting) -> str:
    return {Setting.INSTANT: "", Setting.CALLERS: ", for the callers", Setting.KUBE: ", for kube"}[
        setting
    ]
