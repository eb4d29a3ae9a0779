"""Each caller is who the tailnet says they are, and may do what RBAC says."""

from __future__ import annotations

import json
import time

import pytest

from tests.e2e.client import address_of, ask
from tests.lab.tailnet import STRANGER

pytestmark = pytest.mark.usefixtures("proxy")


def whoami(lab, caller: str) -> dict:
    done = lab.kubectl(caller, "auth", "whoami", "-o", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["status"]["userInfo"]


def test_alice_is_her_login_name(lab):
    info = whoami(lab, "alice")
    assert info["username"] == "alice@example.com"
    assert info["groups"] == ["system:authenticated"]


def test_tagged_node_is_its_name_with_its_tags_as_groups(lab):
    info = whoami(lab, "ci")
    assert info["username"] == "ci-runner.lab.ts.net"
    assert info["groups"] == ["tag:engineering", "system:authenticated"]


def test_granted_groups_are_impersonated(lab):
    info = whoami(lab, "grace")
    assert info["username"] == "grace@example.com"
    assert info["groups"] == ["platform-team", "system:authenticated"]


@pytest.mark.parametrize(
    ("caller", "words", "allowed"),
    [
        ("alice", ["get", "pods"], True),
        ("alice", ["get", "nodes"], False),
        ("ci", ["get", "pods", "--all-namespaces"], True),
        ("ci", ["delete", "configmap", "small"], False),
        ("grace", ["get", "nodes"], True),
        ("grace", ["get", "configmaps"], False),
    ],
)
def test_rbac_decides(lab, caller, words, allowed):
    done = lab.kubectl(caller, *words)
    assert (done.returncode == 0) is allowed, done.stderr
    if not allowed:
        user = whoami(lab, caller)["username"]
        assert "(Forbidden): " in done.stderr
        assert f'User "{user}" cannot' in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["get", "pods"],
        ["get", "secrets", "--all-namespaces"],
        ["get", "nodes"],
        ["create", "configmap", "mine"],
        ["delete", "pod", "shell"],
        ["logs", "shell"],
        ["exec", "shell", "--", "true"],
    ],
)
def test_mallory_is_known_and_may_nothing(lab, words):
    done = lab.kubectl("mallory", *words)
    assert done.returncode != 0
    assert "forbidden" in done.stderr.lower()
    assert 'User "mallory@example.com" cannot' in done.stderr


def test_no_identity_no_request(lab, proxy):
    """Design rule 1: an address that no node owns is refused with 401."""
    answer = ask(lab, proxy, STRANGER, "/api/v1/namespaces")
    assert answer.status == 401
    assert answer.json["reason"] == "Unauthorized"
    assert STRANGER in answer.json["message"]


def test_known_address_behind_the_same_door_is_let_in(lab, proxy):
    answer = ask(lab, proxy, address_of(lab, "ci"), "/api/v1/namespaces")
    assert answer.status == 200


def test_loopback_listener_knows_its_callers_from_tailscaled(lab, proxy):
    """The userspace form, without a PROXY header: tailscaled says whose connection it is."""
    path = lab.kubeconfig("grace", proxy.url("loopback"), lab.run / "grace-loopback.kubeconfig")
    done = lab.kubectl("grace", "auth", "whoami", "-o", "json", f"--kubeconfig={path}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"]["userInfo"]["username"] == "grace@example.com"


def test_whoami_resource_says_what_would_be_impersonated(lab, proxy):
    answer = ask(lab, proxy, address_of(lab, "grace"), "/.tailproxy/whoami")
    assert answer.status == 200
    assert answer.json["impersonates"] == {"user": "grace@example.com", "groups": ["platform-team"]}
    assert answer.json["node"]["name"] == "grace-laptop.lab.ts.net"


def test_kubectl_as_is_refused_with_a_reason(lab):
    done = lab.kubectl("alice", "get", "pods", "--as=someone")
    assert done.returncode != 0
    assert "tailproxy" in done.stderr
    assert "--as" in done.stderr


def test_changed_grant_takes_effect_within_two_seconds(lab, proxy):
    address = address_of(lab, "mallory")
    assert ask(lab, proxy, address, "/api/v1/nodes").status == 403
    before = lab.tailnet.policy

    def grant(policy):
        for rule in policy["grants"]:
            if "app" in rule:
                rule["src"].append("mallory@example.com")

    def status_within(wanted: int, seconds: float) -> float:
        start = time.monotonic()
        while ask(lab, proxy, address, "/api/v1/nodes").status != wanted:
            assert time.monotonic() - start < seconds, f"no {wanted} within {seconds} s"
            time.sleep(0.05)
        return time.monotonic() - start

    try:
        lab.tailnet.edit_policy(grant)
        status_within(200, 2.0)
    finally:
        lab.tailnet.set_policy(before)
    status_within(403, 2.0)
