"""What processes have used: CPU time and memory, their descendants included."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def family(roots: Iterable[int]) -> list[int]:
    """Process ids of *roots* and all that descend from them, such as workers."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text()
            except OSError:
                continue  # it has ended
            parent = int(stat[stat.rindex(")") + 2 :].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = []
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return sorted(set(found))


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of processes, user and system, all threads, those that have ended too.

    It is the kernel's own count in nanoseconds (the CPU-time clock of a process,
    clock_getcpuclockid(3)), and not the sum of ticks of 10 ms that /proc/PID/stat shows.
    """
    # The number of another process's CPU-time clock (linux/posix-timers_types.h): its id inverted,
    # and in the last three bits CPUCLOCK_SCHED.
    return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids) / 1e9


def rss_kib(pids: Iterable[int]) -> float:
    """Resident memory of processes. Pages that several share are counted for each."""
    total = 0
    for pid in pids:
        with Path(f"/proc/{pid}/status").open(encoding="utf-8") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))
    return float(total)


def machine() -> dict[str, str]:
    """What a figure depends on: the machine."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else os.uname().machine,
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": f"{os.uname().sysname} {os.uname().release}",
    }
