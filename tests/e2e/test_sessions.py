"""Recorded sessions are found, played and ended by who has a grant, with the installed command."""

from __future__ import annotations

import json
import time

import pytest

from tests.e2e.client import address_of, ask
from tests.e2e.command import tailproxy
from tests.lab.kubectl import Terminal
from tests.lab.operations import Scene
from tests.lab.tailnet import CAPABILITY, DOMAIN


def wait(condition):
    """What it gives, once that is something."""
    deadline = time.monotonic() + 15
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def library(lab, tmp_path_factory):
    """A tailproxy with a recorder on a node of its own, which shows what that has."""
    node = lab.tailnet.add_node("library", tags=["tag:library"])
    before = lab.tailnet.policy
    lab.tailnet.allow("tcp:80", src="tag:k8s", dst="tag:library")
    lab.tailnet.allow("tcp:443", dst="tag:library")
    may = {"tailproxy": {"sessions": ["play", "kill"], "namespaces": ["default"]}}
    grant = {"src": ["grace@example.com"], "dst": ["tag:library"], "app": {CAPABILITY: [may]}}
    lab.tailnet.edit_policy(lambda policy: policy["grants"].append(grant))
    folder = tmp_path_factory.mktemp("library")
    recorder, pages = lab.ports.take(), lab.ports.take()
    service = lab.start_tailproxy(
        "loopback",
        name="library",
        tailproxy={
            "Tailscaled": {"Socket": str(node.socket)},
            "Listeners": [{"Address": f"127.0.0.2:{pages}"}],
            "Recorder": {
                "From": ["tag:k8s"],
                "Folder": str(folder / "recordings"),
                "Address": f"127.0.0.2:{recorder}",
                "Socket": str(folder / "sessions.sock"),
                "FreeBytes": 0,
            },
        },
    )
    node.serve(80, f"127.0.0.2:{recorder}", terminate_tls=False)
    node.serve(443, f"127.0.0.2:{pages}")
    service.socket = folder / "sessions.sock"
    service.address = f"{node.addresses[0]}:80"
    yield service
    assert service.stop() == 0, service.log.read_text()[-3000:]
    lab.tailnet.set_policy(before)
    node.stop()


@pytest.fixture
def scene(lab, proxy, library, tmp_path):
    """Alice, whose sessions must be recorded there."""
    before = lab.tailnet.policy
    address = address_of(lab, "alice")

    def rules() -> int:
        return len(ask(lab, proxy, address, "/.tailproxy/whoami").json["rules"])

    rule = {"recorderAddrs": [library.address], "enforceRecorder": True}
    grant = {"src": ["alice@example.com"], "dst": ["tag:k8s"], "app": {CAPABILITY: [rule]}}
    lab.tailnet.edit_policy(lambda policy: policy["grants"].append(grant))
    wait(lambda: rules() == 1)
    yield Scene.of(lab, "alice", tmp_path, version="1.36")
    lab.tailnet.set_policy(before)
    wait(lambda: rules() == 0)


@pytest.fixture
def run(lab, library, tmp_path):  # noqa: ARG001 - it answers
    """Runs the command as somebody, over the tailnet."""

    def run(caller: str, *words: str, code: int = 0) -> str:
        file = lab.kubeconfig(caller, f"https://library.{DOMAIN}", tmp_path / caller)
        done = tailproxy(lab, *words, KUBECONFIG=str(file))
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr if code else done.stdout

    return run


def test_session_is_found_and_played(lab, library, scene, run):
    done = scene.kubectl.run("exec", scene.pod, "--", "sh", "-c", "echo seen by Grace")
    assert done.returncode == 0

    def found():
        words = ("--text", "seen by", "-n", "default", "-o", "json")
        items = json.loads(run("grace", "sessions", "ls", *words))
        return [item for item in items if item["state"] == "complete"]

    [item] = wait(found)
    assert (item["user"], item["pod"], item["exitCode"]) == ("alice@example.com", "shell", 0)
    assert item["proxy"] == f"proxy.{DOMAIN}"
    assert run("grace", "play", item["id"]) == "seen by Grace\n"
    assert "alice@example.com" in run("grace", "sessions", "show", item["id"])
    refused = run("alice", "sessions", "ls", code=1)
    assert "lets alice@example.com see recorded sessions" in refused
    assert "there is no recording" in run("alice", "play", item["id"], code=1)
    here = tailproxy(lab, "sessions", "ls", "--socket", str(library.socket), "-o", "json")
    assert item in json.loads(here.stdout)


def test_running_session_is_ended_with_a_reason(library, scene, run):
    with Terminal(scene.kubectl, "exec", "-it", scene.pod, "--", "sh", rows=31, columns=97) as tty:
        tty.expect(rb"[$#] ")
        [item] = wait(lambda: json.loads(run("grace", "sessions", "ls", "--live", "-o", "json")))
        assert (item["width"], item["height"]) == (97, 31)
        assert "is being ended" in run("grace", "sessions", "kill", item["id"])
        tty.expect(rb"this session is ended by grace@example.com; the command may still run")
        assert tty.wait() != 0
    ended = wait(
        lambda: (
            (found := json.loads(run("grace", "sessions", "show", item["id"], "-o", "json")))[
                "state"
            ]
            != "live"
            and found
        )
    )
    assert "ended by grace@example.com" in ended["detail"]
    assert "ends the session" in library.log.read_text()
    assert "does not run any more" in run("grace", "sessions", "kill", item["id"], code=1)
