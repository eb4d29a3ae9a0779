"""`tailproxy explain` as who writes grants sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.host import run
from tests.daemon import STATIC, write

KUBECONFIG = {
    "current-context": "x",
    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    "clusters": [{"name": "c", "cluster": {"server": "https://api.example:6443"}}],
    "users": [{"name": "u", "user": {"token": "our-secret"}}],
}
EXPECTED = """\
Node      node.static.invalid, 100.64.0.5
User      ada@corp.example
Groups    dev: rule 1 of tailscale.com/cap/kubernetes
Rules     rule 1 of tailscale.com/cap/kubernetes: groups dev
Request   GET /api/v1/nodes: list nodes
Decision  goes on to the API server, where RBAC decides
Sent      Host: api.example:6443
          X-Forwarded-For: 100.64.0.5
          Impersonate-Group: dev
          Impersonate-User: ada@corp.example
          Authorization: Bearer (tailproxy's own token)
          Audit-ID: (new for each request)
Recorded  no: no rule asks for it
"""


@pytest.fixture
def config(tmp_path) -> Path:
    (tmp_path / "kubeconfig").write_text(json.dumps(KUBECONFIG))
    return write(tmp_path, Resolver=STATIC)


def test_person_sees_identity_rules_decision_and_headers(config):
    said = run("explain", "--addr", "100.64.0.5", "-c", config, "GET", "/api/v1/nodes")
    assert said == EXPECTED


def test_programs_get_json(config):
    words = ["--as", "bob", "--as-group", "x", "-H", "Accept: a", "-o", "json"]
    found = json.loads(run("explain", "--addr", "100.64.0.5", "-c", config, *words))
    assert found["caller"]["user"] == "ada@corp.example"
    assert (found["request"], found["decision"]) == ("GET /api", "refuse")
    assert found["refusal"]["label"] == "client-impersonation"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "name the caller with either --node or --addr"),
        (["--addr", "100.64.0.5", "--node", "x"], 2, "either --node or --addr"),
        (["--addr", "here"], 2, "'here' does not appear to be"),
        (["--addr", "100.64.0.5", "GET"], 2, "wanted METHOD PATH"),
        (["--addr", "100.64.0.5", "-H", "x"], 2, "wanted NAME:VALUE"),
        (["--addr", "100.64.0.6"], 1, "no node of this tailnet has the address 100.64.0.6"),
        (["--node", "x"], 1, "name the caller with --addr"),
        (["--addr", "100.64.0.5", "--listener", "x"], 2, "--listener: there is serve"),
    ],
)
def test_what_cannot_be_explained_is_one_line(config, words, code, message):
    said = run("explain", "-c", config, *words, code=code)
    assert message in said
    assert "Traceback" not in said
    assert "our-secret" not in said
