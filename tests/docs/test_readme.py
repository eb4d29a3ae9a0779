"""What the README says of the project itself, and docs/lab.md of the lab."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.pages import ini, quoted, rows, text
from tests.lab import build, node
from tests.lab.lab import NODES, Lab
from tests.lab.tailnet import CALLERS


def test_packages_of_the_distribution_are_those_that_ci_installs():
    (listed,) = re.findall(r"of the distribution \(.*?\): (.*?)\. `", text("README.md"), re.DOTALL)
    (installed,) = re.findall(r"--no-install-recommends \\\n(.*)\n", text(".ci/run"))
    assert quoted(listed) == installed.split()
    needed = {*node.PACKAGES.values(), node.CNI_PACKAGE} - {"util-linux"}  # always there
    assert set(quoted(listed)) == needed


def test_cache_is_where_it_says(monkeypatch):
    monkeypatch.delenv("TAILPROXY_LAB_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert f"`~/{build.cache().relative_to(Path.home())}`" in text("README.md")


def test_python_is_the_one_that_setup_asks_for():
    needed = ini("setup.cfg")["options"]["python_requires"].removeprefix(">=")
    assert f"Python {needed} or later" in text("README.md")


def test_callers_and_nodes_are_those_of_the_lab():
    callers = [name for row in rows("docs/lab.md", "## Who calls") for name in quoted(row[0])]
    assert callers == list(CALLERS)
    nodes = [name for row in rows("docs/lab.md", "## Kinds of node") for name in quoted(row[0])]
    assert nodes == list(NODES)


def test_what_a_test_may_use_exists():
    known = {*vars(Lab), *re.findall(r"\bself\.(\w+)", text("tests/lab/lab.py"))}
    used = set(re.findall(r"\blab\.([a-z]\w+)", text("docs/lab.md"))) - {"ts"}  # a domain
    assert {"kubectl", "tailnet"} <= used <= known
