"""The pages that explain name what there is: modules, interfaces, checks, rules, tests."""

from __future__ import annotations

import importlib
import re
from functools import cache
from types import ModuleType
from xml.etree import ElementTree as ET

from tailproxy import interfaces
from tests.docs.pages import ROOT, SOURCES, quoted, rows, text

MODULES = [str(path.relative_to(ROOT / "tailproxy")) for path in SOURCES]


@cache
def imported(module: str) -> ModuleType:
    name = f"tailproxy/{module}".removesuffix(".py").removesuffix("/__init__")
    return importlib.import_module(name.replace("/", "."))


def test_every_module_is_named_and_no_other():
    named = [name for row in rows("docs/architecture.md", "## Modules") for name in quoted(row[0])]
    assert sorted(named) == MODULES


def test_the_picture_shows_what_there_is():
    picture = ET.fromstring(text("docs/architecture.svg"))
    shown: dict[str, list[str]] = {}
    for each in picture.iter("{http://www.w3.org/2000/svg}text"):
        shown.setdefault(each.get("class", ""), []).append(each.text)
    source = "".join(text(path) for path in SOURCES)
    for name in shown["name"]:
        assert re.search(rf"^(?:class|def) {name}\b", source, re.MULTILINE), name
    steps = rows("docs/architecture.md", "## The way of a request")
    assert {code for line in shown["code"] for code in line.split()} == {
        code for step in steps for code in re.findall(r"\d+", step[2])
    }
    assert picture.get("aria-labelledby") == "title words"


def test_makers_of_interfaces_are_all_that_implement_them():
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


def test_readiness_checks_are_those_that_there_are():
    named = {
        name for row in rows("docs/architecture.md", "## Readiness") for name in quoted(row[0])
    }
    source = "".join(text(f"tailproxy/{name}") for name in MODULES)
    for name in named:
        assert re.search(rf'name = "{name}"|Standing\("{name}"\)', source), name
    assert set(re.findall(r'Standing\("(\w+)"\)', source)) <= named


def test_tests_that_it_names_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text("docs/threat-model.md"))
    assert named
    for path, name in named:
        assert (ROOT / path).exists(), path
        assert re.search(rf"^ *(?:async )?def {name}\(", text(path), re.MULTILINE), name


def test_every_rule_is_there():
    for number in range(1, 11):
        assert re.search(rf"^### .*\b{number}\b", text("docs/threat-model.md"), re.MULTILINE)
