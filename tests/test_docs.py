"""What the documentation says is so: links, examples, names, messages, tables."""

from __future__ import annotations

import ast
import configparser
import importlib
import re
import sys
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
import yaml
from twisted.web.server import Request
from twisted.web.test.requesthelper import DummyChannel
from zope.interface.verify import verifyObject

from docs import reference
from tailproxy import config, interfaces
from tailproxy.interfaces import IIdentity, IResourcePlugin, PluginContext
from tailproxy.policy.grants import CAPABILITY, read_rules
from tailproxy.policy.identity import identify
from tailproxy.schema import options
from tailproxy.testing import FakeUpstream
from tailproxy.wire import hujson, proxyproto
from tests.lab import build, node
from tests.lab.lab import NODES, Lab
from tests.lab.tailnet import CALLERS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("changelog.d/*.md")])
SOURCES = sorted(ROOT.glob("tailproxy/**/*.py"))
MODULES = [str(path.relative_to(ROOT / "tailproxy")) for path in SOURCES]
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@cache
def text(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def prose(page: str | Path) -> str:
    return BLOCK.sub("", text(page))


def blocks(page: str | Path, language: str) -> list[str]:
    return [code for found, code in BLOCK.findall(text(page)) if found == language]


def all_blocks(language: str) -> list:
    return [
        pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, code in enumerate(blocks(page, language), 1)
    ]


def rows(page: str, section: str = "") -> list[list[str]]:
    """The rows of the tables of a page, or of one section of it, without their heads."""
    part = text(page)
    if section:
        part = part.partition(f"\n{section}\n")[2]
        part = re.split(rf"^#{{1,{section.count('#')}}} ", part, maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"^\|(.*)\|$", part, re.MULTILINE)
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in found]
    heads = {n - 1 for n, row in enumerate(cells) if set("".join(row)) <= set("-: ")}
    assert cells, f"no table in {page} {section}"
    return [row for n, row in enumerate(cells) if n not in heads and n - 1 not in heads]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read_string(text("setup.cfg"))
    return parser


@cache
def imported(module: str) -> ModuleType:
    name = f"tailproxy/{module}".removesuffix(".py").removesuffix("/__init__")
    return importlib.import_module(name.replace("/", "."))


def lines(value: str) -> list[str]:
    return [line for line in value.splitlines() if line]


class TestLinks:
    @staticmethod
    def anchors(page: Path) -> set[str]:
        """The names of the headings, as forges make them."""
        found = re.findall(r"^#+ +(.*?) *$", prose(page), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in found}

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
    def test_every_link_leads_somewhere(self, page):
        for link in LINK.findall(prose(page)):
            if link.startswith(("https://", "http://")):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{link}: no such file"
            assert target.is_relative_to(ROOT), f"{link} leads out of the project"
            assert not anchor or anchor in self.anchors(target), f"{link}: no such heading"

    def test_every_page_is_found_from_the_readme(self):
        linked = {link.partition("#")[0] for link in LINK.findall(prose("README.md"))}
        assert {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")} <= linked


class TestExamples:
    @pytest.mark.parametrize("code", all_blocks("hujson"))
    def test_hujson_can_be_read_and_configurations_be_used(self, code):
        plain = hujson.parse(code).plain()
        if "Version" in plain:
            config.parse(code, "example")

    @pytest.mark.parametrize("code", all_blocks("hujson"))
    def test_grants_hold_rules_that_can_be_read(self, code):
        for grant in hujson.parse(code).plain().get("grants", ()):
            for capability, values in grant.get("app", {}).items():
                assert capability == CAPABILITY
                assert read_rules({capability: values}).groups

    @pytest.mark.parametrize("code", all_blocks("yaml"))
    def test_manifests_can_be_read(self, code):
        for document in yaml.safe_load_all(code):
            assert {"apiVersion", "kind", "metadata"} <= set(document)

    def test_rights_in_the_readme_are_those_the_lab_gives(self):
        def rights(code: str) -> list:
            return [
                document["rules"]
                for document in yaml.safe_load_all(code)
                if document["metadata"]["name"] == "tailproxy-impersonate"
                and document["kind"] == "ClusterRole"
            ]

        (readme,) = blocks("README.md", "yaml")
        assert rights(readme) == rights(text("tests/lab/manifests/access.yaml")) != []

    def test_plugin_is_the_one_that_is_installed_end_to_end(self):
        tested = importlib.import_module("tests.e2e.test_plugin")
        (setup_cfg,) = blocks("docs/plugins.md", "ini")
        (pyproject,) = blocks("docs/plugins.md", "toml")
        (plugin,) = blocks("docs/plugins.md", "python")
        assert (setup_cfg, pyproject, plugin) == (tested.SETUP, tested.PROJECT, tested.PLUGIN)

    def test_plugin_greets_its_caller(self):
        (plugin,) = blocks("docs/plugins.md", "python")
        (example,) = blocks("docs/plugins.md", "hujson")
        names: dict = {}
        exec(plugin, names)
        greeting = names["greeting"]
        assert verifyObject(IResourcePlugin, greeting)
        given = config.parse(example, "example").tailproxy.plugins[greeting.name]
        resource = greeting.resource(PluginContext(given, "0", "auth", FakeUpstream()))
        request = Request(DummyChannel())
        caller = {
            "Node": {"Name": "laptop.example.ts.net.", "StableID": "n1"},
            "UserProfile": {"LoginName": "alice@example.com"},
        }
        request.setComponent(IIdentity, identify(caller))
        assert resource.render_GET(request) == b"good day, alice@example.com"
        assert "`good day, alice@example.com`" in text("docs/plugins.md")

    @pytest.mark.parametrize("code", all_blocks("python"))
    def test_python_compiles(self, code):
        compile(code, "example", "exec")


class TestReadme:
    def test_commands_are_environments_of_tox(self):
        parser = configparser.ConfigParser()
        parser.read_string(text("tox.ini"))
        known = {section.partition(":")[2] for section in parser.sections() if ":" in section}
        for page in PAGES:
            assert set(re.findall(r"tox -e (\w+)", text(page))) <= known, page

    def test_packages_of_the_distribution_are_those_that_ci_installs(self):
        (listed,) = re.findall(
            r"of the distribution \(.*?\): (.*?)\. `", text("README.md"), re.DOTALL
        )
        (installed,) = re.findall(r"--no-install-recommends \\\n(.*)\n", text(".ci/run"))
        assert quoted(listed) == installed.split()
        needed = {*node.PACKAGES.values(), node.CNI_PACKAGE} - {"util-linux"}  # always there
        assert set(quoted(listed)) == needed

    def test_cache_is_where_it_says(self, monkeypatch):
        monkeypatch.delenv("TAILPROXY_LAB_CACHE", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        assert f"`~/{build.cache().relative_to(Path.home())}`" in text("README.md")

    def test_python_is_the_one_that_setup_asks_for(self):
        needed = setup()["options"]["python_requires"].removeprefix(">=")
        assert f"Python {needed} or later" in text("README.md")


class TestReference:
    @pytest.mark.parametrize("name", ["configuration.md", "metrics.md"])
    def test_page_is_up_to_date(self, name):
        assert text(f"docs/{name}") == reference.pages()[name], "run: python -m docs.reference"

    def test_keys_without_effect_are_those_that_nobody_uses(self):
        (said,) = re.findall(
            r"have no effect in this version: (.*?)\. They",
            text("docs/configuration.md"),
            re.DOTALL,
        )
        uses = {
            node.attr
            for path in SOURCES
            if path.name not in {"node.py", "kubeconfig.py"}  # they have attributes of such names
            for node in ast.walk(ast.parse(text(path)))
            if isinstance(node, ast.Attribute)
        }
        unused = {
            f"{prefix}{entry.key}"
            for prefix, cls in (("", config.Config), ("APIServerProxy.", config.APIServerProxy))
            for field, entry in options(cls)
            if field.name not in uses
        }
        assert set(quoted(said)) == unused

    def test_variables_of_the_environment_are_those_that_are_read(self):
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
        assert '"TS_K8S_PROXY_CONFIG"' in text("tailproxy/tap.py")

    def test_reasons_of_a_refused_header_are_all_there(self):
        (said,) = (
            set(quoted(row[1]))
            for row in rows("docs/metrics.md", "## Labels")
            if "proxy_header_refused" in row[0]
        )
        assert said == {*get_args(proxyproto.Reason), "timeout", "not-loopback"}


class TestLab:
    def test_callers_and_nodes_are_those_of_the_lab(self):
        callers = [name for row in rows("docs/lab.md", "## Who calls") for name in quoted(row[0])]
        assert callers == list(CALLERS)
        nodes = [name for row in rows("docs/lab.md", "## Kinds of node") for name in quoted(row[0])]
        assert nodes == list(NODES)

    def test_what_a_test_may_use_exists(self):
        known = {*vars(Lab), *re.findall(r"\bself\.(\w+)", text("tests/lab/lab.py"))}
        used = set(re.findall(r"\blab\.([a-z]\w+)", text("docs/lab.md"))) - {"ts"}  # a domain
        assert {"kubectl", "tailnet"} <= used <= known


class TestArchitecture:
    def test_every_module_is_named_and_no_other(self):
        named = [
            name for row in rows("docs/architecture.md", "## Modules") for name in quoted(row[0])
        ]
        assert sorted(named) == MODULES

    def test_makers_of_interfaces_are_all_that_implement_them(self):
        classes = [
            value
            for name in MODULES
            if name not in {"testing.py", "kube/login.py"}  # fakes; a program
            for value in vars(imported(name)).values()
            if isinstance(value, type) and value.__module__ == imported(name).__name__
        ]
        for row in rows("docs/architecture.md", "## Extension points"):
            (interface,) = (getattr(interfaces, name) for name in quoted(row[0]))
            makers = {
                each.__name__
                for each in classes
                if interface.implementedBy(each) and not each.__name__.startswith("_")
            }
            assert set(quoted(row[1])) == makers, row[0]

    def test_readiness_checks_are_those_that_there_are(self):
        named = {
            name for row in rows("docs/architecture.md", "## Readiness") for name in quoted(row[0])
        }
        source = "".join(text(f"tailproxy/{name}") for name in MODULES)
        for name in named:
            assert re.search(rf'name = "{name}"|Standing\("{name}"\)', source), name
        assert set(re.findall(r'Standing\("(\w+)"\)', source)) <= named


class TestThreatModel:
    def test_tests_that_it_names_exist(self):
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text("docs/threat-model.md"))
        assert named
        for path, name in named:
            assert (ROOT / path).exists(), path
            assert re.search(rf"^ *(?:async )?def {name}\(", text(path), re.MULTILINE), name

    def test_every_rule_is_there(self):
        for number in range(1, 11):
            assert re.search(rf"^### .*\b{number}\b", text("docs/threat-model.md"), re.MULTILINE)


class TestDependencies:
    @pytest.mark.parametrize(
        ("section", "key", "heading"),
        [
            ("options", "install_requires", "## The service"),
            ("options.extras_require", "test", "## Tests (extra `test`)"),
            ("options.extras_require", "lint", "## Checks (extra `lint`)"),
        ],
    )
    def test_each_is_argued_with_its_bound(self, section, key, heading):
        argued = rows("docs/dependencies.md", heading)
        assert [quoted(row[0])[0] for row in argued] == lines(setup()[section][key])
        assert all(all(row) for row in argued), "an empty cell argues nothing"

    def test_every_import_is_declared(self):
        given = {
            "OpenSSL": "pyopenssl",
            "attr": "attrs",
            "httptools": "httptools",
            "prometheus_client": "prometheus-client",
            "service_identity": "service-identity",
            "twisted": "twisted[tls]",
            "yaml": "PyYAML",
            "zope": "zope.interface",
        }
        imported = {
            name.partition(".")[0]
            for path in SOURCES
            for each in ast.walk(ast.parse(text(path)))
            for name in (
                [alias.name for alias in each.names]
                if isinstance(each, ast.Import)
                else [each.module or ""]
                if isinstance(each, ast.ImportFrom)
                else []
            )
        } - set(sys.stdlib_module_names)
        declared = {line.split(" ")[0] for line in lines(setup()["options"]["install_requires"])}
        assert {given.get(name, name) for name in imported - {"tailproxy"}} <= declared


class TestTroubleshooting:
    @staticmethod
    def messages() -> set[str]:
        r"""Every text in the code; \0 stands for what is put in."""
        found = set()
        for path in [*SOURCES, *ROOT.glob("tests/lab/*.py")]:
            for each in ast.walk(ast.parse(text(path))):
                if isinstance(each, ast.JoinedStr):
                    parts = [getattr(part, "value", None) for part in each.values]
                    found.add("".join(p if isinstance(p, str) else "\0" for p in parts))
                elif isinstance(each, ast.Constant) and isinstance(each.value, str):
                    found.add(re.sub(r"\{[^{}]*\}", "\0", each.value))
        return found

    def test_every_message_is_one_that_the_code_has(self):
        messages = self.messages()
        told = re.findall(r"^### `(.*)`$", text("docs/troubleshooting.md"), re.MULTILINE)
        assert told
        for message in told:
            pattern = re.compile(".*\0.*".join(map(re.escape, message.split("…"))), re.DOTALL)
            assert any(pattern.search(each) for each in messages), message

    def test_every_label_is_there_with_its_code(self):
        said = {
            (label, code)
            for row in rows("docs/troubleshooting.md", "## Labels")
            for label in quoted(row[0])
            for code in row[1].split(", ")
        }
        used = set()
        for path in SOURCES:
            for each in ast.walk(ast.parse(text(path))):
                if isinstance(each, ast.Call) and len(each.args) >= 3:
                    code, label = (getattr(arg, "value", None) for arg in each.args[:2])
                    if type(code) is int and isinstance(label, str):
                        used.add((label, str(code)))
                elif isinstance(each, ast.Call) and ast.unparse(each.func) == "BadRequest":
                    used.add(("malformed-request", str(each.args[0].value)))
        assert said == used


class TestChangelog:
    def test_fragments_have_an_issue_and_a_kind(self):
        kinds = {row[0].strip("`") for row in rows("changelog.d/README.md")}
        for path in ROOT.glob("changelog.d/*"):
            if path.name != "README.md":
                issue, kind, *_, suffix = path.name.split(".")
                assert issue.isdigit()
                assert kind in kinds
                assert suffix == "md"
                assert text(path).strip().endswith(".")

    def test_release_notes_have_their_place(self):
        table = tomllib.loads(text("pyproject.toml"))["tool"]["towncrier"]
        assert "<!-- towncrier release notes start -->" in text(table["filename"])
        assert (ROOT / table["directory"]).is_dir()
