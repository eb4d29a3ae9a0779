"""Everybody can see who they are here, and why: as JSON, as a page, as a hint, by a command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.client import address_of, ask
from tests.e2e.command import tailproxy
from tests.lab.tailnet import CAPABILITY, PROXY

pytestmark = pytest.mark.usefixtures("proxy")

BROWSER = ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
PLATFORM = {
    "group": "platform-team",
    "reason": f"rule 1 of {CAPABILITY}",
    "rules": [{"capability": CAPABILITY, "rule": 1, "grantedOn": "node"}],
}
TAG = {"group": "tag:engineering", "reason": "a tag of the node", "rules": []}
# Each caller with user, node, where the groups come from, and why each is there.
CALLERS = {
    "alice": ("alice@example.com", "alice-laptop.lab.ts.net", "nothing", []),
    "ci": ("ci-runner.lab.ts.net", "ci-runner.lab.ts.net", "tags", [TAG]),
    "grace": ("grace@example.com", "grace-laptop.lab.ts.net", "grants", [PLATFORM]),
    "mallory": ("mallory@example.com", "mallory-laptop.lab.ts.net", "nothing", []),
}
everybody = pytest.mark.parametrize("caller", CALLERS)


@everybody
def test_whoami_says_who_and_why(lab, proxy, caller):
    user, node, source, reasons = CALLERS[caller]
    done = lab.kubectl(caller, "get", "--raw", "/.tailproxy/whoami")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    groups = [reason["group"] for reason in reasons]
    assert (found["user"], found["node"]["name"]) == (user, node)
    assert (found["groupsFrom"], found["groupReasons"]) == (source, reasons)
    assert found["impersonates"] == {"user": user, "groups": groups}
    assert found["address"] in lab.tailnet.nodes[caller].addresses
    assert (found["mode"], found["service"]) == ("auth", None)
    status, version = proxy.get_admin("/version")
    assert status == 200
    assert found["version"] in version


@everybody
def test_page_says_who_and_why(lab, proxy, caller):
    user, node, _, reasons = CALLERS[caller]
    page = ask(lab, proxy, address_of(lab, caller), "/.tailproxy/", [BROWSER])
    assert page.status == 200
    assert page.header("Content-Type") == "text/html; charset=utf-8"
    policy = page.header("Content-Security-Policy") or ""
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert page.header("X-Content-Type-Options") == "nosniff"
    assert page.header("Cache-Control") == "no-store"
    text = page.body.decode()
    assert f"<h1>{user}</h1>" in text
    assert f"<dd>{node}</dd>" in text
    assert ("<script" in text, 'href="/.tailproxy/whoami"' in text) == (False, True)
    assert re.findall("<li><b>(.*?)</b><span>(.*?)</span></li>", text) == [
        (reason["group"], reason["reason"]) for reason in reasons
    ]
    assert ("No grant of the tailnet's policy gives you a group" in text) is (reasons == [])


def test_kubectl_gets_the_list_as_json(lab):
    done = lab.kubectl("grace", "get", "--raw", "/.tailproxy/")
    found = json.loads(done.stdout)
    assert found["user"] == "grace@example.com"
    assert [plugin["path"] for plugin in found["plugins"]] == ["/.tailproxy/whoami"]


def command(lab, caller: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`tailproxy whoami` with the kubeconfig of a caller."""
    return tailproxy(lab, "whoami", *words, KUBECONFIG=str(lab.kubeconfig(caller)))


@pytest.mark.parametrize(
    ("caller", "groups", "may"),
    [
        ("alice", "none: no grant of the tailnet's policy gives you one", "deployments.apps"),
        ("ci", "tag:engineering: a tag of the node", "get list watch: "),
        ("grace", f"platform-team: rule 1 of {CAPABILITY}", "get list watch: nodes, pods"),
        ("mallory", "none: no grant", "nothing; ask the cluster's administrator to bind the user"),
    ],
)
def test_command_says_who_why_and_what(lab, caller, groups, may):
    done = command(lab, caller)
    assert (done.returncode, done.stderr) == (0, "")
    user, node, *_ = CALLERS[caller]
    assert done.stdout.startswith(f"You are  {user}\n         on the node {node}, from 100.")
    assert f"\nGroups   {groups}" in done.stdout
    assert "\nService  https://proxy.lab.ts.net (context lab)\n" in done.stdout
    assert may in done.stdout.partition("You may  in the namespace default:\n")[2]
    assert done.stdout.count(" ms ") == 3


def test_command_and_resource_agree(lab):
    found = json.loads(command(lab, "grace", "-o", "json", "-n", "kube-system").stdout)
    raw = lab.kubectl("grace", "get", "--raw", "/.tailproxy/whoami")
    assert found["caller"] == json.loads(raw.stdout)
    assert found["namespace"] == "kube-system"
    assert found["rules"]["incomplete"] is False
    # Answers on the open connection take less than the first, which makes it.
    assert found["latencySeconds"]["proxy"] < found["latencySeconds"]["first"]


def test_kubectl_has_the_command_too(lab):
    """kubectl finds `kubectl-tailproxy` in the path, and hands its words on."""
    done = subprocess.run(
        [
            *lab.cluster.kubectl_prefix, str(lab.binary("kubectl")),
            "tailproxy", "whoami", "--namespace=kube-system",
        ],
        env={
            **lab.environment,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "KUBECONFIG": str(lab.kubeconfig("ci")),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("You are  ci-runner.lab.ts.net\n")
    assert "in the namespace kube-system:" in done.stdout


def test_command_tells_what_is_no_tailproxy(lab):
    done = command(lab, "admin")
    assert done.returncode == 1
    assert "is no tailproxy: it answers /.tailproxy/whoami with 4" in done.stderr


def test_command_tells_that_the_tailnet_is_away(lab):
    node = lab.tailnet.nodes["mallory"]
    node.stop()
    try:
        done = command(lab, "mallory")
    finally:
        node.start()
        node.wait()
    assert done.returncode == 1
    assert "through the HTTP proxy of context 'lab': Connection refused" in done.stderr


@pytest.fixture(scope="module")
def fresh(lab, proxy):
    """A tailproxy that has told nobody anything yet."""
    service = lab.start_tailproxy("serve", name="fresh")
    yield service
    assert service.stop() == 0
    proxy.announce()


@pytest.mark.usefixtures("fresh")
def test_who_has_nothing_is_told_by_kubectl_what_to_ask_for(lab):
    done = lab.kubectl("mallory", "get", "pods")
    assert done.returncode == 1
    [warning] = [line for line in done.stderr.splitlines() if line.startswith("Warning: ")]
    assert "you are mallory@example.com on the node mallory-laptop.lab.ts.net" in warning
    assert "bind the user mallory@example.com" in warning
    assert '(Forbidden): pods is forbidden: User "mallory@example.com"' in done.stderr
    refused = [lab.kubectl("mallory", "get", "pods").stderr for _ in range(8)]
    # Three from each of the workers, of which there are two.
    assert sum("Warning" in stderr for stderr in [done.stderr, *refused]) <= 6
    assert "Warning" not in refused[-1]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("caller", "words", "allowed"),
    [
        ("alice", ["get", "pods"], True),
        ("grace", ["get", "nodes"], True),
        ("grace", ["get", "secrets"], False),
        ("ci", ["delete", "configmap", "small"], False),
    ],
)
def test_who_has_something_is_not_told(lab, caller, words, allowed):
    done = lab.kubectl(caller, *words)
    assert (done.returncode == 0) is allowed
    assert "Warning" not in done.stderr


@pytest.fixture
def served(lab, proxy):
    """A tailproxy that is called by the name of a Tailscale Service, which its node hosts."""
    service = lab.start_tailproxy(
        "serve", name="served", config={"APIServerProxy": {"ServiceName": "svc:kube"}}
    )
    node = lab.tailnet.nodes[PROXY]
    before = node.api.call("GET", "serve-config")
    address, port = service.listeners["serve"]
    node.serve(443, f"{address}:{port}", service="svc:kube")
    yield service
    node.api.call("POST", "serve-config", before)
    unadvertised = {"AdvertiseServicesSet": True, "AdvertiseServices": []}
    node.api.call("PATCH", "prefs", unadvertised)
    assert service.stop() == 0
    proxy.announce()


def test_grants_on_the_service_say_so(lab, served):
    """Node and Service are granted the same in the lab; each rule says where."""
    address = address_of(lab, "grace")
    deadline = time.monotonic() + 10
    while len((found := ask(lab, served, address, "/.tailproxy/whoami").json)["rules"]) < 2:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    rule = {"capability": CAPABILITY, "rule": 1}
    assert found["service"] == "svc:kube"
    assert found["groupReasons"] == [
        {
            "group": "platform-team",
            "reason": f"rule 1 of {CAPABILITY} and rule 1 of {CAPABILITY}, granted on the Service",
            "rules": [{**rule, "grantedOn": "node"}, {**rule, "grantedOn": "service"}],
        }
    ]
    page = ask(lab, served, address, "/.tailproxy/", [BROWSER]).body.decode()
    assert "<dt>Service</dt><dd>svc:kube</dd>" in page
    explained = tailproxy(
        lab, "explain", "--config", str(served.file), "--addr", address, "-o", "json"
    )
    assert json.loads(explained.stdout)["caller"] == found
    examined = tailproxy(lab, "doctor", "--config", str(served.file))
    assert examined.returncode == 0, examined.stdout
    assert "port 443 of svc:kube leads to" in examined.stdout
