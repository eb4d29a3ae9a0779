"""The real node: what its pods do straight at the API server, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import node
from tests.lab.keeper import state
from tests.lab.lab import KUBECTLS, base
from tests.lab.node import NodeCluster, cgroup_name, cgroups
from tests.lab.operations import OPERATIONS, Operation, Scene
from tests.lab.process import leftovers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.lab import Lab

pytestmark = pytest.mark.node
CHECKOUT = Path(__file__).parents[2]
ALICE = "--as=alice@example.com"


@pytest.fixture
def real(lab: Lab) -> NodeCluster:
    """The cluster of the session's lab, which must be one with a real node."""
    assert isinstance(lab.cluster, NodeCluster), "these tests are for `--lab-node kubelet`"
    return lab.cluster


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize("version", KUBECTLS)
@pytest.mark.usefixtures("real")
def test_kubectl_does_it_straight_at_the_api_server(
    lab: Lab, tmp_path: Path, version: str, operation: Operation
) -> None:
    # As tailproxy would do it: its service account, in the name of alice.
    operation(Scene.of(lab, "proxy", tmp_path, ALICE, version=version))


def test_a_secret_arrives_in_the_volume_of_a_pod(real: NodeCluster) -> None:
    objects = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "word"},
            "stringData": {"word": "swordfish"},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "reader"},
            "spec": {
                "volumes": [{"name": "word", "secret": {"secretName": "word"}}],
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "reader",
                        "image": "lab.local/busybox:1",
                        "imagePullPolicy": "Never",
                        "command": ["sleep", "1000000"],
                        "volumeMounts": [{"name": "word", "mountPath": "/word"}],
                        "readinessProbe": {
                            "exec": {"command": ["grep", "swordfish", "/word/word"]},
                            "periodSeconds": 1,
                        },
                    }
                ],
            },
        },
    ]
    real.kubectl("apply", "-f", "-", stdin="\n---\n".join(map(json.dumps, objects)))
    real.wait_pods("reader")
    assert real.kubectl("exec", "reader", "--", "cat", "/word/word") == "swordfish"
    # The service account's token is a volume as well, and good for the API server.
    token = real.kubectl(
        "exec", "reader", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"
    )
    assert token.count(".") == 2
    real.kubectl("delete", "pod/reader", "secret/word")


def test_nothing_is_sent_out_and_it_would_be_seen(real: NodeCluster) -> None:
    assert real.packets.strays() == []
    with real.network.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(b"out", ("192.0.2.1", 9))
    assert real.packets.strays() == ["udp to 192.0.2.1:9"]
    pod = subprocess.Popen(
        [
            *real.kubectl_prefix,
            str(real.binaries["kubectl"]),
            f"--kubeconfig={real.admin_kubeconfig}",
            *("exec", "shell", "--", "nc", "-w", "1", "192.0.2.2", "80"),
        ],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _, said = pod.communicate(timeout=60)
    assert b"timed out" in said
    assert real.packets.strays() == ["tcp to 192.0.2.2:80"]


def test_the_namespace_has_no_interface_of_the_machine(real: NodeCluster) -> None:
    links = subprocess.run(
        [*real.kubectl_prefix, "ip", "-json", "link"], capture_output=True, check=True, timeout=10
    ).stdout
    names = {row["ifname"] for row in json.loads(links)}
    own = {"lo", node.DEVICE, "cni0"}
    assert own <= names
    assert all(name.startswith("veth") for name in names - own)


@pytest.fixture
def killed() -> Iterator[str]:
    """The name of another lab with a real node, whose keeper was killed."""
    name = f"killed-{os.getpid()}"
    lab = [sys.executable, "-m", "tests.lab"]
    subprocess.run([*lab, "up", "--name", name, "--node", "kubelet"], cwd=CHECKOUT, check=True)
    found = state(name)
    assert found is not None
    assert found["alive"]
    os.kill(found["pid"], signal.SIGKILL)
    yield name
    subprocess.run([*lab, "down", "--name", name], cwd=CHECKOUT, check=True)


def test_a_killed_lab_leaves_only_cgroups_which_down_removes(killed: str) -> None:
    run = base() / killed
    deadline = time.monotonic() + 10
    while found := leftovers(run):
        assert time.monotonic() < deadline, f"left over: {found}"
        time.sleep(0.1)
    assert [
        line for line in Path("/proc/self/mounts").read_text().splitlines() if killed in line
    ] == []
    count = len(cgroups(cgroup_name(run)))
    assert count > 0
    lab = [sys.executable, "-m", "tests.lab"]
    again = subprocess.run(
        [*lab, "up", "--name", killed, "--node", "kubelet"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert again.returncode == 1
    assert f"cgroup tailproxy-lab-{killed} ({count} folders)" in again.stderr
    assert f"python -m tests.lab down --name {killed}" in again.stderr
    down = subprocess.run(
        [*lab, "down", "--name", killed],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert re.search(rf"removing the cgroup tailproxy-lab-{killed}", down.stdout)
    assert cgroups(cgroup_name(run)) == []
