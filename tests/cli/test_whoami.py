"""`tailproxy whoami` as a person sees it."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner

from tailproxy.cli.main import main
from tests.client.servers import ADA, RULES, Played, refusal


@pytest.fixture
def played(tmp_path, monkeypatch):
    with Played(tmp_path) as played:
        monkeypatch.setenv("KUBECONFIG", str(played.kubeconfig(tmp_path / "config")))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("COLUMNS", "100")
        yield played


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, ["whoami", *words])
    assert done.exit_code == code, done.output
    return done.output


def test_person_sees_who_why_what_and_how_fast(played):
    *lines, first, proxy, cluster = run().splitlines()
    assert lines == [
        "You are  ada@corp.example",
        "         on the node laptop.corp-cat.ts.net, from 100.64.0.5",
        "Groups   dev: rule 2 of tailscale.com/cap/kubernetes",
        f"Service  {played.url} (context here)",
        "         tailproxy 9.9, mode auth, svc:kube",
        "You may  in the namespace default:",
        "         get list: pods",
    ]
    assert first.startswith("Latency  ")
    assert first.endswith(" ms to the first answer, connection included")
    assert proxy.endswith(" ms for an answer of the proxy (median of 5)")
    assert cluster.endswith(" ms for one of the API server")


def test_who_may_nothing_sees_what_to_ask_for(played):
    played.whoami = (200, {**ADA, "groups": [], "groupReasons": []})
    played.review = (201, {"status": {**RULES, "resourceRules": []}})
    said = run()
    assert "Groups   none: no grant of the tailnet's policy gives you one" in said
    assert "nothing; ask the cluster's administrator to bind the user ada@corp.example" in said


def test_review_that_is_refused_is_said(played):
    played.review = refusal(401, "Unauthorized")
    assert "You may  unknown: Unauthorized\n" in run()


def test_list_that_is_not_complete_is_said(played):
    played.review = (201, {"status": {**RULES, "incomplete": True}})
    assert "perhaps more" in run()


def test_namespace_is_asked_for(played):
    assert "in the namespace apps:" in run("-n", "apps")
    assert played.asked[-1][2]["spec"] == {"namespace": "apps"}


@pytest.mark.usefixtures("played")
def test_programs_get_json_and_yaml():
    found = json.loads(run("-o", "json"))
    assert found["caller"] == ADA
    again = yaml.safe_load(run("-o", "yaml"))
    assert {**again, "latencySeconds": 0} == {**found, "latencySeconds": 0}


def test_names_cannot_give_orders_to_the_terminal(played):
    played.whoami = (200, {**ADA, "user": "ada\x1b[2J\u202e\n@corp.example"})
    assert "You are  ada?[2J??@corp.example\n" in run()


def test_what_goes_wrong_is_one_line(played):
    played.whoami = refusal(403, "forbidden")
    said = run(code=1)
    assert said.startswith(f"Error: {played.url} is no tailproxy: ")
    assert "\n" not in said.strip()


def test_kubeconfig_and_context_are_chosen(played, tmp_path, monkeypatch):
    other = played.kubeconfig(tmp_path / "other")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "gone"))
    assert "context here" in run("--kubeconfig", str(other), "--context", "here")
    assert "no context 'x'" in run("--kubeconfig", str(other), "--context", "x", code=1)
    assert "gone" in run(code=1)
