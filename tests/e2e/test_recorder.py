"""Our own recorder on a node of the tailnet takes what our proxy records."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tailproxy.wire.cast import read_cast
from tests.e2e.client import address_of, ask
from tests.lab.kubectl import Terminal
from tests.lab.operations import Scene
from tests.lab.tailnet import CAPABILITY


def wait(condition):
    """What it gives, once that is something."""
    deadline = time.monotonic() + 15
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def recorder(lab, tmp_path_factory):
    """A tailproxy with a recorder on another node, behind its serve."""
    node = lab.tailnet.add_node("archive", tags=["tag:archive"])
    lab.tailnet.allow("*", src="tag:k8s", dst="tag:archive")
    folder = tmp_path_factory.mktemp("archive")
    port = lab.ports.take()
    service = lab.start_tailproxy(
        "loopback",
        name="archive",
        tailproxy={
            "Tailscaled": {"Socket": str(node.socket)},
            "Certificates": {"Source": "self-signed"},
            "Recorder": {
                "From": ["tag:k8s"],
                "Folder": str(folder),
                "Address": f"127.0.0.2:{port}",
                "FreeBytes": 0,
            },
        },
    )
    node.serve(80, f"127.0.0.2:{port}", terminate_tls=False)
    service.folder = folder
    service.address = f"{node.addresses[0]}:80"
    yield service
    assert service.stop() == 0, service.log.read_text()[-3000:]
    node.stop()


@pytest.fixture
def scene(lab, proxy, recorder, tmp_path):
    """Alice, whose sessions must be recorded there."""
    before = lab.tailnet.policy
    address = address_of(lab, "alice")

    def rules() -> int:
        return len(ask(lab, proxy, address, "/.tailproxy/whoami").json["rules"])

    rule = {"recorderAddrs": [recorder.address], "enforceRecorder": True}
    grant = {
        "src": ["alice@example.com"],
        "dst": ["tag:k8s"],
        "app": {CAPABILITY: [rule]},
    }
    lab.tailnet.edit_policy(lambda policy: policy["grants"].append(grant))
    wait(lambda: rules() == 1)
    yield Scene.of(lab, "alice", tmp_path, version="1.36")
    lab.tailnet.set_policy(before)
    wait(lambda: rules() == 0)


def kept(folder: Path, state: str) -> list[dict]:
    """What the index says, the latest first."""
    with closing(sqlite3.connect(f"file:{folder}/index.sqlite?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        rows = database.execute(
            "SELECT * FROM recording WHERE state = ? ORDER BY id DESC", (state,)
        ).fetchall()
    return [dict(row) for row in rows]


def shown(folder: Path, recording: dict) -> str:
    (path,) = folder.glob(f"*/{recording['id']}.cast")
    _, events = read_cast(path.read_bytes().splitlines(keepends=True))
    return "".join(each.data for each in events if each.code == "o")


def test_a_session_is_kept_and_found(recorder, scene):
    done = scene.kubectl.run("exec", scene.pod, "--", "sh", "-c", "echo hello; echo wörld")
    assert (done.returncode, done.stdout) == (0, "hello\nwörld\n".encode())
    (found,) = wait(lambda: kept(recorder.folder, "complete"))
    assert shown(recorder.folder, found) == "hello\nwörld\n"
    assert (found["user"], found["pod"], found["exit_code"]) == ("alice@example.com", "shell", 0)
    assert found["command"] == "sh -c echo hello; echo wörld"
    assert found["proxy"].startswith("proxy.")
    assert found["session"]


def test_a_recorder_that_is_killed_ends_the_session_and_has_what_was_shown(recorder, scene):
    with Terminal(scene.kubectl, "exec", "-it", scene.pod, "--", "sh", rows=31, columns=97) as tty:
        tty.expect(rb"[$#] ")
        tty.type(b"echo $((6*7))\r")
        tty.expect(rb"\b42\r?\n")
        wait(lambda: any(b"42\\r" in p.read_bytes() for p in recorder.folder.glob("*/*.part")))
        os.kill(recorder.pid, signal.SIGKILL)
        tty.expect(rb"must be recorded, and the recorder has closed the connection")
    recorder.stop()  # it has ended already
    recorder.start()
    (found,) = wait(lambda: kept(recorder.folder, "interrupted"))
    assert "\r\n42\r\n" in shown(recorder.folder, found)
    assert (found["width"], found["height"]) == (97, 31)
    done = scene.kubectl.run("exec", scene.pod, "--", "true")
    assert done.returncode == 0
