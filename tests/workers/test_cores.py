"""How many cores there are, in made-up trees of control groups."""

from pathlib import Path

import pytest

from tailproxy.workers.cores import available_cores, cores

V2_POD = "0::/kubepods.slice/pod1/c1\n"
V1_POD = "5:cpu,cpuacct:/kubepods/pod1/c1\n3:memory:/kubepods/pod1/c1\n0::/init\n"

#: Cores allowed by affinity, /proc/self/cgroup, files below /sys/fs/cgroup, and what is found.
TREES = {
    "nothing is known": (4, "", {}, 4),
    "v2 without a limit": (4, "0::/\n", {"cpu.max": "max 100000\n"}, 4),
    "v2 in a container of its own": (8, "0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    "v2 rounds up": (8, "0::/\n", {"cpu.max": "150000 100000\n"}, 2),
    "v2 a fraction of a core is one": (8, "0::/\n", {"cpu.max": "10000 100000\n"}, 1),
    "v2 another period": (8, "0::/\n", {"cpu.max": "150000 50000\n"}, 3),
    "v2 the group's own limit": (
        8,
        V2_POD,
        {"kubepods.slice/pod1/c1/cpu.max": "300000 100000\n"},
        3,
    ),
    "v2 a limit further up is tighter": (
        8,
        V2_POD,
        {
            "kubepods.slice/cpu.max": "max 100000\n",
            "kubepods.slice/pod1/cpu.max": "100000 100000\n",
            "kubepods.slice/pod1/c1/cpu.max": "300000 100000\n",
        },
        1,
    ),
    "v2 a limit of another group is not ours": (8, V2_POD, {"other/cpu.max": "1000 100000"}, 8),
    "v2 the machine's path, and our own group at the top": (
        8,
        V2_POD,
        {"cpu.max": "200000 100000\n"},
        2,
    ),
    "v2 more quota than cores": (2, "0::/\n", {"cpu.max": "900000 100000\n"}, 2),
    "v1 without a limit": (
        4,
        V1_POD,
        {"cpu,cpuacct/kubepods/pod1/c1/cpu.cfs_quota_us": "-1\n"},
        4,
    ),
    "v1 with a limit": (
        8,
        V1_POD,
        {
            "cpu,cpuacct/kubepods/pod1/c1/cpu.cfs_quota_us": "250000\n",
            "cpu,cpuacct/kubepods/pod1/c1/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
    "v1 mounted as cpu, our own group at the top": (
        8,
        V1_POD,
        {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        1,
    ),
    "v1 a limit on memory is none on cores": (
        8,
        "3:memory:/x\n",
        {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        8,
    ),
    "no period": (4, "0::/\n", {"cpu.max": "100000 0\n"}, 4),
    "not a number": (4, "0::/\n", {"cpu.max": "much\n"}, 4),
    "a path that leads out": (4, "0::/../../x\n", {"cpu.max": "100000 100000\n"}, 1),
    "no core at all": (0, "", {}, 1),
}


@pytest.mark.parametrize("case", TREES)
def test_cores_are_those_that_may_be_used(tmp_path: Path, case: str):
    allowed, membership, files, expected = TREES[case]
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert available_cores(allowed, membership, tmp_path) == expected


def test_this_machine_has_at_least_one():
    assert cores() >= 1
