from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab.errors import LabError
from tests.lab.network import PORTS, Network, Ports
from tests.lab.process import (
    MARK,
    Processes,
    Started,
    end,
    leftovers,
    replace,
    start_time,
    written_down,
)

CHECKOUT = Path(__file__).parents[2]
STUBBORN = "trap '' TERM; echo here; while :; do sleep 0.05; done"


@pytest.fixture
def processes(tmp_path):
    found = Processes(tmp_path)
    yield found
    found.close()


def wait(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_process_runs_until_it_is_stopped(processes):
    process = processes.start("sleeper", ["sleep", "1000"])
    assert process.running
    assert start_time(process.pid) == process.started
    processes.stop("sleeper")
    assert process.returncode == -signal.SIGTERM
    assert "sleeper" not in processes


def test_who_ignores_sigterm_is_killed(processes):
    process = processes.start("stubborn", ["sh", "-c", STUBBORN])
    wait(lambda: "here" in process.log.read_text())
    processes.stop("stubborn", timeout=0.1)
    assert process.returncode == -signal.SIGKILL


def test_a_process_that_ends_before_it_is_ready_is_named_with_its_last_words(processes):
    processes.start("broken", ["sh", "-c", "echo no such file: /etc/thing; exit 3"])
    with pytest.raises(LabError) as caught:
        processes.wait_ready("broken", lambda: False, 10)
    assert "broken ended with status 3" in str(caught.value)
    assert "no such file: /etc/thing" in str(caught.value)


def test_a_command_that_is_not_there_is_named(processes):
    processes.start("absent", ["/no/such/program"])
    with pytest.raises(LabError, match="/no/such/program: No such file or directory"):
        processes.wait_ready("absent", lambda: False, 10)


def test_a_process_that_is_never_ready_is_named_with_the_last_reason(processes):
    processes.start("slow", ["sh", "-c", "echo starting; sleep 1000"])

    def refuse():
        raise ConnectionRefusedError("connection refused")

    with pytest.raises(LabError) as caught:
        processes.wait_ready("slow", refuse, 0.3)
    assert "slow is not ready after" in str(caught.value)
    assert "connection refused" in str(caught.value)
    assert "starting" in str(caught.value)


def test_two_processes_of_one_name_are_refused(processes):
    processes.start("one", ["sleep", "1000"])
    with pytest.raises(LabError, match="one is already running"):
        processes.start("one", ["sleep", "1000"])


def test_a_prefix_stands_before_the_command(processes):
    process = processes.start("where", ["echo", "b"], network=Network(("echo", "a")))
    assert process.wait(10) == 0
    assert process.log.read_text() == "a echo b\n"


def test_when_the_lab_is_killed_its_processes_are_killed_too(tmp_path):
    script = """
        import sys, time
        from pathlib import Path
        from tests.lab.process import Processes
        processes = Processes(Path(sys.argv[1]))
        processes.start("first", ["sleep", "1000"])
        processes.start("second", ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"])
        print("up", flush=True)
        time.sleep(1000)
    """
    lines = "\n".join(line[8:] for line in script.splitlines())
    keeper = subprocess.Popen(
        [sys.executable, "-c", lines, str(tmp_path)], stdout=subprocess.PIPE, cwd=CHECKOUT
    )
    assert keeper.stdout.readline() == b"up\n"
    rows = written_down(tmp_path)
    assert [row.name for row in rows] == ["first", "second"]
    assert all(row.running for row in rows)
    keeper.kill()
    keeper.wait()
    keeper.stdout.close()
    wait(lambda: not any(row.running for row in rows))


def orphan(run: Path, *words: str) -> int:
    """Start a process that belongs to the lab of *run* and has lost its parent; its id."""
    script = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=2).pid)"
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        env={**os.environ, MARK: str(run)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return int(done.stdout)


def test_a_left_over_is_found_named_and_ended(tmp_path):
    pid = orphan(tmp_path, "sleep", "1000")
    other = orphan(tmp_path / "other", "sleep", "1000")
    wait(lambda: leftovers(tmp_path)[0].name == "sleep")
    found = leftovers(tmp_path)
    assert [(row.name, row.pid) for row in found] == [("sleep", pid)]
    end(found)
    assert leftovers(tmp_path) == []
    assert start_time(other) is not None
    end(leftovers(tmp_path / "other"))


def test_what_a_process_left_behind_ends_with_the_lab(tmp_path):
    processes = Processes(tmp_path)
    processes.start("parent", ["sh", "-c", "sleep 1000 & sleep 1001 & wait"])
    wait(lambda: len(leftovers(tmp_path)) == 3)
    processes.close()
    assert leftovers(tmp_path) == []


def test_a_process_id_that_was_given_again_is_not_mistaken():
    mine = start_time(os.getpid())
    assert Started("me", os.getpid(), mine).running
    assert not Started("me", os.getpid(), mine - 1).running
    end([Started("me", os.getpid(), mine - 1)])


def test_a_file_is_replaced_in_one_step_and_is_the_owners_alone(tmp_path):
    file = tmp_path / "file"
    replace(file, "one")
    first = file.stat()
    replace(file, "two")
    assert file.read_text() == "two"
    assert file.stat().st_ino != first.st_ino
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_two_labs_never_take_the_same_port(tmp_path):
    with Ports(tmp_path) as first, Ports(tmp_path) as second:
        taken = [ports.take() for _ in range(100) for ports in (first, second)]
    assert len(set(taken)) == len(taken)
    assert set(taken) <= set(PORTS)


def test_a_port_in_use_is_not_taken(tmp_path, monkeypatch):
    with Ports(tmp_path) as ports:
        used, free = ports.take(), ports.take()
    monkeypatch.setattr("tests.lab.network.PORTS", [used, free])
    with Network().open_socket() as sock:
        sock.bind(("127.0.0.1", used))
        sock.listen()
        with Ports(tmp_path) as ports:
            assert ports.take() == free
