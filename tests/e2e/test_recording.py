"""What a grant demands to be recorded and cannot be is refused, and never silently unrecorded."""

from __future__ import annotations

import time

import pytest

from tests.e2e.client import address_of, ask
from tests.lab.tailnet import CAPABILITY

PODS = "/api/v1/namespaces/default/pods"
UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")]
ENFORCED = {"recorderAddrs": ["100.127.255.2:80"], "enforceRecorder": True}


@pytest.fixture
def demand(lab, proxy):
    """Give alice a rule in the tailnet's policy, and wait until the proxy knows."""
    before = lab.tailnet.policy
    address = address_of(lab, "alice")

    def rules() -> list:
        return ask(lab, proxy, address, "/.tailproxy/whoami").json["rules"]

    def until(count: int) -> None:
        deadline = time.monotonic() + 5
        while len(rules()) != count:
            assert time.monotonic() < deadline, rules()
            time.sleep(0.05)

    def give(rule: dict) -> str:
        grant = {"src": ["alice@example.com"], "dst": ["tag:k8s"], "app": {CAPABILITY: [rule]}}
        lab.tailnet.edit_policy(lambda policy: policy["grants"].append(grant))
        until(1)
        return address

    yield give
    lab.tailnet.set_policy(before)
    until(0)


def test_without_a_recorder_nothing_goes(lab, proxy, demand):
    """dp_R4"""
    address = demand({"enforceRecorder": True})
    answer = ask(lab, proxy, address, PODS)
    assert answer.status == 403
    assert "enforceRecorder" in answer.json["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/shell/exec?command=true",
        "/shell/exec/?command=true",
        "/shell%2Fexec?command=true",
        "/shell/%65xec?command=true",
        "/shell/attach",
    ],
)
def test_sessions_are_refused_however_they_are_spelled(lab, proxy, demand, path):
    """dp_T3: by what the API server would run, not by the bytes of the path."""
    address = demand(ENFORCED)
    assert ask(lab, proxy, address, PODS).status == 200
    for method in ("POST", "GET"):
        answer = ask(lab, proxy, address, PODS + path, UPGRADE, method=method)
        assert answer.status == 403
        assert "recorded" in answer.json["message"]


def test_kubectl_shows_why(lab, demand):
    demand(ENFORCED)
    done = lab.kubectl("alice", "exec", "shell", "--", "true")
    assert done.returncode != 0
    assert "enforceRecorder" in done.stderr


def test_fail_open_rule_lets_pass_and_tells(lab, proxy, demand):
    demand({"recorderAddrs": ["100.127.255.2:80"]})
    done = lab.kubectl("alice", "exec", "shell", "--", "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    assert "may go on unrecorded" in proxy.log.read_text()
