"""Who writes grants can ask, on the proxy's host, what becomes of whom."""

from __future__ import annotations

import json

import pytest

from tests.e2e.client import address_of, ask
from tests.e2e.command import tailproxy
from tests.lab.tailnet import CAPABILITY, STRANGER


def explain(lab, proxy, *words: str) -> dict:
    done = tailproxy(lab, "explain", "--config", str(proxy.file), "-o", "json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("caller", "node"),
    [
        ("alice", "alice-laptop"),
        ("ci", "CI-Runner.lab.ts.net."),
        ("grace", "grace-laptop"),
        ("mallory", "mallory-laptop"),
    ],
)
def test_it_knows_what_the_proxy_knows(lab, proxy, caller, node):
    address = address_of(lab, caller)
    known = ask(lab, proxy, address, "/.tailproxy/whoami").json
    assert explain(lab, proxy, "--node", node)["caller"] == known
    assert explain(lab, proxy, "--addr", address)["caller"] == known


def test_headers_are_those_that_the_api_server_gets(lab, proxy):
    found = explain(lab, proxy, "--node", "grace-laptop", "GET", "/api/v1/nodes")
    headers = dict(found["headers"])
    assert found["decision"] == "forward"
    assert headers["Impersonate-User"] == "grace@example.com"
    assert headers["Impersonate-Group"] == "platform-team"
    assert headers["X-Forwarded-For"] == address_of(lab, "grace")
    # In the lab our own credential is a token of the service account.
    assert headers["Authorization"] == "Bearer (tailproxy's own token)"


def test_refusals_are_those_of_the_proxy(lab, proxy):
    address = address_of(lab, "alice")
    found = explain(lab, proxy, "--addr", address, "--as", "bob", "GET", "/api/v1/pods")
    answer = ask(lab, proxy, address, "/api/v1/pods", [("Impersonate-User", "bob")])
    assert found["refusal"]["code"] == answer.status == 403
    assert answer.json["message"] == f"tailproxy: {found['refusal']['message']}"


def test_a_changed_grant_is_seen_before_anybody_calls(lab, proxy):
    before = lab.tailnet.policy

    def record(policy):
        for rule in policy["grants"]:
            for grant in rule.get("app", {}).get(CAPABILITY, []):
                grant |= {"recorderAddrs": ["100.64.0.99:80"], "enforceRecorder": True}

    def recorded() -> bool:
        rules = explain(lab, proxy, "--node", "grace-laptop")["caller"]["rules"]
        return rules[0]["enforceRecorder"]

    try:
        lab.tailnet.edit_policy(record)
        # A command takes about a second; a change is there within half a second.
        assert any(recorded() for _ in range(5))
        path = "/api/v1/namespaces/default/pods/shell/exec?command=id"
        found = explain(lab, proxy, "--node", "grace-laptop", "POST", path)
        assert found["recording"].startswith("yes, at the first of 100.64.0.99:80")
    finally:
        lab.tailnet.set_policy(before)
    assert not all(recorded() for _ in range(5))


def test_person_reads_it(lab, proxy):
    done = tailproxy(lab, "explain", "--config", str(proxy.file), "--node", "ci-runner")
    assert done.returncode == 0, done.stderr
    assert "\nGroups    tag:engineering: a tag of the node\nRules     none\n" in done.stdout
    assert "\nDecision  goes on to the API server, where RBAC decides\n" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--node", "nobody"), "has the name nobody"),
        (("--addr", STRANGER), "so its requests are refused with 401"),
        (("--node", "x", "--socket", "/nowhere"), "there is no socket /nowhere; start tailscaled"),
    ],
)
def test_what_is_not_there_is_said(lab, proxy, words, message):
    done = tailproxy(lab, "explain", "--config", str(proxy.file), *words)
    assert done.returncode == 1
    assert message in done.stderr
