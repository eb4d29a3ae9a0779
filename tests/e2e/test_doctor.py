"""`tailproxy doctor` finds what is broken, and nothing else."""

from __future__ import annotations

import json

import pytest

from tests.e2e.command import tailproxy
from tests.lab.tailnet import PROXY


def doctor(lab, proxy) -> tuple[int, dict[str, str]]:
    """Exit status, and what is not well."""
    done = tailproxy(lab, "doctor", "--config", str(proxy.file), "-o", "json")
    assert not done.stderr
    found = json.loads(done.stdout)
    return done.returncode, {each["name"]: each["detail"] for each in found if each["ok"] is False}


def test_a_proxy_that_works_has_no_problem(lab, proxy):
    done = tailproxy(lab, "doctor", "--config", str(proxy.file))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(None, 2) for line in done.stdout.splitlines()]
    assert {line[0] for line in lines} == {"ok"}
    assert [line[1] for line in lines] == [
        "configuration", "tailscaled", "node", "name", "serve", "readiness", "apiserver",
        "impersonation",
    ]  # fmt: skip


def test_serve_that_leads_elsewhere_is_found(lab, proxy):
    node = lab.tailnet.nodes[PROXY]
    address, port = proxy.listeners["serve"]
    node.serve(443, f"{address}:{port}", proxy_protocol=0)
    try:
        code, problems = doctor(lab, proxy)
    finally:
        proxy.announce()
    assert (code, list(problems)) == (1, ["serve (serve)"])
    assert "without a PROXY v2 header" in problems["serve (serve)"]
    assert f"--proxy-protocol=2 tcp://{address}:{port}`" in problems["serve (serve)"]


@pytest.fixture
def other(lab, proxy):
    """A tailproxy that may be broken."""
    service = lab.start_tailproxy("serve", name="patient")
    yield service
    service.stop()
    proxy.announce()


def test_a_service_that_is_stopped_is_found(lab, other):
    assert doctor(lab, other) == (0, {})
    other.stop()
    code, problems = doctor(lab, other)
    assert (code, list(problems)) == (1, ["readiness"])
    assert "nothing answers at http://127.0.0.2:" in problems["readiness"]


def test_an_account_without_the_right_is_found(lab, other):
    cluster = lab.cluster.api
    binding = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/tailproxy-impersonate"
    before = cluster.call("GET", binding)
    cluster.call("DELETE", binding)
    try:
        code, problems = doctor(lab, other)
    finally:
        before["metadata"] = {"name": before["metadata"]["name"]}
        cluster.call("POST", binding.rpartition("/")[0], before)
    assert code == 1
    assert "impersonation" in problems
    assert "does not let us impersonate users and groups" in problems["impersonation"]


def test_a_tailscaled_that_is_away_is_found(lab, proxy, other):
    node = lab.tailnet.nodes[PROXY]
    node.stop()
    try:
        code, problems = doctor(lab, other)
    finally:
        node.start()
        node.wait()
        lab.processes.wait_ready(proxy.name, lambda: proxy.get_admin("/readyz")[0] == 200, 30)
    assert code == 1
    assert set(problems) - {"readiness"} == {"tailscaled"}
    assert "start tailscaled" in problems["tailscaled"]
