"""The pages to look things up in say what the code says."""

from __future__ import annotations

import ast
import json
import re
from typing import get_args

import pytest
from twisted.scripts.twistd import ServerOptions

from docs import reference
from tailproxy import config
from tailproxy.admin.service import admin_pages
from tailproxy.errors import ApiError, UnknownCallerError
from tailproxy.schema import options
from tailproxy.tap import Options
from tailproxy.wire import proxyproto
from tests.docs.pages import ROOT, SOURCES, blocks, quoted, rows, text, tree


@pytest.mark.parametrize("name", reference.pages())
def test_page_is_up_to_date(name):
    assert text(name) == reference.pages()[name], "run: python -m docs.reference"


def test_keys_without_effect_are_those_that_nobody_uses():
    (said,) = re.findall(
        r"have no effect in this version: (.*?)\. They",
        text("docs/configuration.md"),
        re.DOTALL,
    )
    uses = {
        node.attr
        for path in SOURCES
        # These have attributes of such names.
        if path.name not in {"node.py", "kubeconfig.py", "access.py", "destination.py"}
        and path.parent.name not in {"recorder", "sessions"}
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
    }
    unused = {
        f"{prefix}{entry.key}"
        for prefix, cls in (("", config.Config), ("APIServerProxy.", config.APIServerProxy))
        for field, entry in options(cls)
        if field.name not in uses
    }
    assert set(quoted(said)) == unused


def test_variables_of_the_environment_are_those_that_are_read():
    said = [
        name
        for row in rows("docs/configuration.md", "## The environment")
        for name in quoted(row[0])
    ]
    read = {
        name
        for path in SOURCES
        for name in re.findall(r'(?:environ|environment)(?:\.get\(|\[)"(\w+)"', text(path))
    }
    assert set(said) - {"TS_K8S_PROXY_CONFIG"} == read
    assert '"TS_K8S_PROXY_CONFIG"' in text("tailproxy/config.py")


def test_reasons_of_a_refused_header_are_all_there():
    (said,) = (
        set(quoted(row[1]))
        for row in rows("docs/metrics.md", "## Labels")
        if "proxy_header_refused" in row[0]
    )
    assert said == {*get_args(proxyproto.Reason), "timeout", "not-loopback"}


def test_options_of_twistd_exist():
    said = [row[0] for row in rows("docs/commands.md", "## `twistd tailproxy`")]
    words = [re.split("[ =]", each)[0] for cell in said for each in quoted(cell)]
    known = {f"--{option.rstrip('=')}" for option in ServerOptions().longOpt}
    known |= {f"-{letter}" for letter in ServerOptions().shortOpt.replace(":", "")}
    known |= {f"--{option.rstrip('=')}" for option in Options().longOpt} | {"-c"}
    options_ = {word for word in words if word.startswith("-")}
    assert {"--config", "--nodaemon"} <= options_ <= known


def test_pages_of_the_admin_port_are_those_that_it_has():
    said = [
        name for row in rows("docs/endpoints.md", "## The admin port") for name in quoted(row[0])
    ]
    pages = admin_pages("0", [], lambda: True, None, None, {})
    assert sorted(said) == sorted(f"/{name.decode()}" for name in pages.children)


def test_reasons_of_a_status_are_those_of_its_codes():
    said = {
        int(code): reason
        for row in rows("docs/endpoints.md", "## Refusals")
        for code in re.findall(r"\d+", row[0])
        for reason in quoted(row[1])
    }
    made = {code: json.loads(ApiError(code, "", "").status())["reason"] for code in range(400, 600)}
    assert said == {code: reason for code, reason in made.items() if reason != "Unknown"}


def test_the_example_of_a_status_is_what_is_sent():
    (example,) = blocks("docs/endpoints.md", "json")
    error = UnknownCallerError("100.64.0.99")
    assert json.loads(example) == json.loads(error.status())


def test_keys_of_whoami_are_those_that_it_has():
    said = [row[0] for row in rows("docs/endpoints.md", "## The tailnet listeners")]
    (describe,) = (
        node
        for node in ast.walk(tree(ROOT / "tailproxy/policy/description.py"))
        if isinstance(node, ast.FunctionDef) and node.name == "describe"
    )
    (returned,) = (node.value for node in describe.body if isinstance(node, ast.Return))
    assert [f"`{key.value}`" for key in returned.keys] == [
        cell for cell in said if not cell.startswith("`/")
    ]
