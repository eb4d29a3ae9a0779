"""The code in the pages can be used as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from tailproxy import config
from tailproxy.policy.grants import CAPABILITY, read_rules
from tailproxy.wire import hujson
from tests.docs.pages import ROOT, blocks, code, every_block, every_page, text

# Those that are checked here; what a terminal shows, checked by tests/e2e/test_tutorial.py; and two
# that nobody can check: plain text and queries of Prometheus.
LANGUAGES = {"", "console", "hujson", "ini", "json", "promql", "python", "sh", "toml", "yaml"}


@pytest.mark.parametrize("page", every_page())
def test_every_block_is_closed_and_in_a_known_language(page):
    found = code(page)
    assert {language for language, _ in found} <= LANGUAGES
    assert len(re.findall(r"^ *(?:```|~~~)", text(page), re.MULTILINE)) == 2 * len(found)


@pytest.mark.parametrize("block", every_block("hujson"))
def test_hujson_can_be_read_and_configurations_be_used(block):
    plain = hujson.parse(block).plain()
    if "Version" in plain:
        config.parse(block, "example")


@pytest.mark.parametrize("block", every_block("hujson"))
def test_grants_hold_rules_that_can_be_read(block):
    for grant in hujson.parse(block).plain().get("grants", ()):
        for capability, values in grant.get("app", {}).items():
            assert capability == CAPABILITY
            grants = read_rules({capability: values})
            assert grants.groups or grants.session_namespaces != frozenset()


@pytest.mark.parametrize("block", every_block("json") + every_block("toml"))
def test_data_can_be_read(block):
    assert json.loads(block) if block.startswith(("{", "[{")) else tomllib.loads(block)


@pytest.mark.parametrize("block", every_block("yaml"))
def test_yaml_can_be_read_and_kubernetes_objects_have_a_kind(block):
    documents = list(yaml.safe_load_all(block))
    assert documents
    for document in documents:
        # What is not one, such as a part of a chart's values, has neither.
        assert ("apiVersion" in document) == ("kind" in document)
        if document.get("kind", "Config") not in {"Config", "Kustomization"}:
            assert document["metadata"]["name"]


@pytest.mark.parametrize("block", every_block("python"))
def test_python_compiles_and_keeps_to_the_style(block):
    compile(block, "example", "exec")
    # As if it were a test: an example needs no docstrings.
    ruff = (sys.executable, "-m", "ruff")
    for check in (("check",), ("format", "--check")):
        done = subprocess.run(
            [*ruff, *check, "--stdin-filename", "tests/example.py", "-"],
            cwd=ROOT, input=block, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_rights_of_the_account_are_those_the_lab_gives():
    def rights(code: str) -> list:
        return [
            document["rules"]
            for document in yaml.safe_load_all(code)
            if document["metadata"]["name"] == "tailproxy-impersonate"
            and document["kind"] == "ClusterRole"
        ]

    account, _kubeconfig = blocks("docs/install-host.md", "yaml")
    assert rights(account) == rights(text("tests/lab/manifests/access.yaml")) != []
