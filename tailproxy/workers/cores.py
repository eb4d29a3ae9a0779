"""How many processor cores this process may use: what it is allowed, and what it is paid for.

`os.cpu_count` says what the machine has. A container is often let run on all of it, for a part of
the time only: that is the quota of its control group (cgroups(7); the kernel's
admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst).
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_MEMBERSHIP = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
# Where version 1 has its cpu controller, by the distribution's choice.
_CPU_FOLDERS = ("cpu,cpuacct", "cpu")


def cores() -> int:
    """How many cores this process may use now, at least 1."""
    try:
        membership = _MEMBERSHIP.read_text(encoding="utf-8")
    except OSError:
        membership = ""
    return available_cores(_allowed(), membership, _GROUPS)


def _allowed() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_cores(allowed: int, membership: str, groups: Path) -> int:
    """How many cores are worth a process each, at least 1.

    :param allowed: cores that the process may run on at all.
    :param membership: text of `/proc/self/cgroup`.
    :param groups: where the control groups are mounted.
    :returns: *allowed*, or the tightest quota of the process's group and of those around it,
        rounded up.
    """
    quotas = [quota for folder in _folders(membership, groups) for quota in _quotas(folder)]
    return max(1, min([allowed, *map(math.ceil, quotas)]))


def _folders(membership: str, groups: Path) -> list[Path]:
    """The folders of the process's groups, and of all around them."""
    found: list[Path] = []
    for line in membership.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mounts = [groups]
        elif "cpu" in controllers.split(","):
            mounts = [groups / name for name in _CPU_FOLDERS]
        else:
            continue
        # In a container the path may be the machine's, while only the own group is mounted, at
        # the top: so the top counts in any case, and what is not there does not.
        steps = [step for step in path.split("/") if step not in {"", ".."}]
        for mount in mounts:
            found += [mount.joinpath(*steps[:depth]) for depth in range(len(steps) + 1)]
    return found


def _quotas(folder: Path) -> list[float]:
    """The quota of a group in cores; nothing if it has none."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        # "max" in version 2 and -1 in version 1 mean that there is none.
        return [int(quota) / int(period)] if int(quota) > 0 else []
    except (OSError, ValueError, ZeroDivisionError):
        return []
