"""One measurement: a proxy, a workload, a way in."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING

from bench import meter
from bench.proxies import SETTLE_SECONDS
from bench.workloads import CALLERS, Measured, Setting
from tests.lab.errors import LabError
from tests.lab.process import leashed

if TYPE_CHECKING:
    from bench.doors import Way
    from bench.ground import Ground
    from bench.proxies import Proxy
    from bench.workloads import Workload

#: How long clients of most workloads go on.
SECONDS = 3.0


def measure(
    ground: Ground,
    proxy: Proxy,
    workload: Workload,
    way: Way,
    seconds: float = SECONDS,
    rate: int | None = None,
) -> Measured:
    """Drive a workload through a proxy.

    :param seconds: see `SECONDS`.
    :param rate: requests per second; None for as many as can be.
    :raises LabError: a request failed; with what ``load`` said.
    """
    door = proxy.door(way)
    assert door is not None, f"{proxy.name} has no {way}"
    words = [
        str(ground.tools["load"]), "-mode", workload.mode, *door.words(workload.path),
        *workload.flags,
    ]  # fmt: skip
    if workload.seconds is not None:
        words += ["-d", f"{workload.seconds * seconds}s"]
    if rate is not None:
        words += ["-rate", str(rate)]
    if workload.mode == "fanout":
        words += ["-trigger", f"{ground.instant.url}/-/event"]
    if workload.setting is Setting.CALLERS and door.source is not None:
        words[words.index("-from") + 1] = CALLERS
    load = subprocess.Popen(
        leashed(words),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    what = f"{workload.name(way)} through {proxy.name}"
    try:
        _line(load, what)
        pids = proxy.family(way)
        rss = meter.rss_kib(pids)
        before = meter.cpu_seconds(pids)
        _go_on(load)
        said = json.loads(_line(load, what))
        cpu = meter.cpu_seconds(pids) - before
        if workload.fresh:
            time.sleep(SETTLE_SECONDS)
        grown = meter.rss_kib(pids) - rss
        _go_on(load)
        load.wait(30)
    finally:
        if load.poll() is None:
            load.kill()
        load.communicate()
    return Measured(said, cpu, grown)


def _line(load: subprocess.Popen[str], what: str) -> str:
    """The next line that ``load`` prints."""
    assert load.stdout is not None
    line = load.stdout.readline()
    if not line:
        assert load.stderr is not None
        raise LabError(f"{what}: {load.stderr.read().strip() or 'no answer from the client'}")
    return line


def _go_on(load: subprocess.Popen[str]) -> None:
    assert load.stdin is not None
    load.stdin.write("\n")
    load.stdin.flush()
