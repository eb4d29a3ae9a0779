from __future__ import annotations

import pytest
import yaml
from click.testing import CliRunner

from tailproxy.cli.main import main
from tailproxy.policy.rights import Rights, manifests

POLICY = """{
  // who owns what
  "tagOwners": {"tag:ci": ["group:dev"]},
  "grants": [{"src": ["*"], "dst": ["*"], "app": {
    "tailscale.com/cap/kubernetes": [{"impersonate": {"groups": ["platform"]}}],
  }}],
}"""


def run(*words: str):
    return CliRunner().invoke(main, ["rbac", *words])


def printed(*words: str) -> list[dict]:
    done = run(*words)
    assert done.exit_code == 0, done.output
    return list(yaml.safe_load_all(done.output))


def test_without_options_anybody_may_be_impersonated():
    assert printed() == manifests(Rights(), "tailproxy", "tailproxy")


def test_options_narrow_it():
    words = ["--users", "a@b, c@d,a@b", "--groups", "x", "--constrained", "--verbs", "get,list"]
    assert printed(*words, "--account", "ns/me") == manifests(
        Rights(("a@b", "c@d"), ("x",), constrained=True, verbs=("get", "list")), "ns", "me"
    )


def test_a_policy_names_the_groups(tmp_path):
    file = tmp_path / "policy.hujson"
    file.write_text(POLICY)
    groups = ("extra", "platform", "tag:ci")
    assert printed("--policy", str(file), "--groups", "extra") == manifests(
        Rights(groups=groups), "tailproxy", "tailproxy"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--groups", " , "], "separated by commas"),
        (["--verbs", "get"], "--verbs goes with --constrained"),
        (["--constrained", "--verbs", "fly"], "'fly', wanted some of get, list"),
        (["--account", "me"], "wanted NAMESPACE/NAME"),
        (["--account", "/me"], "wanted NAMESPACE/NAME"),
    ],
)
def test_what_makes_no_sense_is_refused(words, says):
    done = run(*words)
    assert done.exit_code == 2
    assert says in done.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", ":1:2: "),
        ('{"grants": 1}', "grants is not a list"),
        ("{}", "names a group"),
    ],
)
def test_a_policy_that_cannot_be_used_is_named(tmp_path, text, says):
    file = tmp_path / "policy.hujson"
    file.write_text(text)
    done = run("--policy", str(file))
    assert done.exit_code == 1
    assert str(file) in done.output
    assert says in done.output
