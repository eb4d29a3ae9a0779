"""The lab's commands, and what becomes of a lab whose keeper dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.lab import base
from tests.lab.network import MACHINE
from tests.lab.process import MARK, leftovers, written_down

CHECKOUT = Path(__file__).parents[2]


def run(*words, **popen):
    return subprocess.run(
        [sys.executable, "-m", "tests.lab", *words],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **popen,
    )


@pytest.fixture
def given(tmp_path):
    """A kubeconfig of a cluster that nobody asks: so that a lab is up in half a second."""
    file = tmp_path / "given.kubeconfig"
    cluster = {"name": "c", "cluster": {"server": "https://127.0.0.1:6443"}}
    context = {"name": "x", "context": {"cluster": "c", "user": ""}}
    file.write_text(
        json.dumps({"clusters": [cluster], "contexts": [context], "current-context": "x"})
    )
    return file


@pytest.fixture
def name():
    """The name of a lab that is gone after the test."""
    found = f"test-{os.getpid()}"
    yield found
    run("down", "--name", found)


def keeper_of(name):
    return json.loads((base() / name / "lab.json").read_text())["pid"]


def wait(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_lab_goes_up_is_seen_and_goes_down(lab, name):
    """Beside the session's own lab: two default labs at once."""
    up = run("up", "--name", name, "--node", "kwok")
    assert up.returncode == 0, up.stderr
    folder = base() / name
    assert f"alice    {folder}/alice.kubeconfig" in up.stdout
    status = run("status").stdout
    assert f"{name}: ready, kwok, kept by process {keeper_of(name)}" in status
    for part in ("etcd", "kube-apiserver", "kwok", "labcontrol", "tailscaled-alice"):
        assert f"  {part} " in status
    assert f"{lab.name}: ready" in status
    rows = written_down(folder)
    assert all(row.running for row in rows)

    again = run("up", "--name", name)
    assert again.returncode == 1
    assert f"the lab '{name}' is up already" in again.stderr
    assert all(row.running for row in rows)

    down = run("down", "--name", name)
    assert down.stdout == f"The lab '{name}' is down.\n"
    assert not any(row.running for row in rows)
    assert not folder.exists()
    assert lab.cluster.api.ready()


def test_a_keeper_that_is_killed_takes_everything_with_it(name, given):
    assert run("up", "--name", name, "--kubeconfig", str(given)).returncode == 0
    rows = written_down(base() / name)
    assert {"labcontrol", "tailscaled-proxy"} <= {row.name for row in rows}
    os.kill(keeper_of(name), signal.SIGKILL)
    wait(lambda: not any(row.running for row in rows))
    assert f"{name}: crashed" in run("status").stdout
    assert run("down", "--name", name).stdout == f"The lab '{name}' is down.\n"
    assert run("down", "--name", name).stdout == f"There is no lab '{name}'.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_keeper_that_is_asked_to_leave_ends_everything(name, given, number):
    assert run("up", "--name", name, "--kubeconfig", str(given)).returncode == 0
    rows = written_down(base() / name)
    os.kill(keeper_of(name), number)
    wait(lambda: not (base() / name).exists())
    assert not any(row.running for row in rows)


def test_ctrl_c_while_a_lab_comes_up_ends_everything(name):
    up = subprocess.Popen(
        [sys.executable, "-m", "tests.lab", "up", "--name", name],
        cwd=CHECKOUT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait(lambda: any(row.name == "kube-apiserver" for row in written_down(base() / name)))
    rows = written_down(base() / name)
    os.killpg(up.pid, signal.SIGINT)
    assert up.wait(20) == 130
    assert not any(row.running for row in rows)
    assert leftovers(base() / name) == []


def test_a_left_over_is_named_and_removed(name, given):
    script = "import subprocess; print(subprocess.Popen(['sleep', '1000'], stdout=2).pid)"
    pid = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, MARK: str(base() / name)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    ).stdout.strip()
    up = run("up", "--name", name, "--kubeconfig", str(given))
    assert up.returncode == 1
    assert f"has left behind: sleep (process {pid}); remove that with" in up.stderr
    down = run("down", "--name", name)
    assert f"ending sleep (process {pid}), left over from a crash" in down.stdout
    assert run("up", "--name", name, "--kubeconfig", str(given)).returncode == 0


def test_a_lab_that_does_not_come_up_says_why_and_leaves_nothing(name, tmp_path):
    up = run("up", "--name", name, "--kubeconfig", str(tmp_path / "absent"))
    assert up.returncode == 1
    assert "absent" in up.stderr
    assert "Traceback" not in up.stderr
    assert leftovers(base() / name) == []


def test_a_callers_kubeconfig_can_name_another_server(name, given):
    assert run("kubeconfig", "alice", "--name", name).returncode == 1
    run("up", "--name", name, "--kubeconfig", str(given))
    usual = Path(run("kubeconfig", "alice", "--name", name).stdout.strip())
    assert "server: https://proxy.lab.ts.net\n" in usual.read_text()
    url = "https://proxy.lab.ts.net:8443"
    other = Path(run("kubeconfig", "alice", "--name", name, "--server", url).stdout.strip())
    assert f"server: {url}\n" in other.read_text()
    assert "server: https://proxy.lab.ts.net\n" in usual.read_text()


def test_sockets_of_this_machine_need_no_namespace():
    with MACHINE.open_socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with MACHINE.connect(server.getsockname()) as sock:
            assert sock.getpeername() == server.getsockname()
