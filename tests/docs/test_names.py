"""Names in the pages are those of things that there are: options, metrics, files."""

from __future__ import annotations

import re

import pytest

from docs.example import nested_in
from tailproxy.config import Config
from tailproxy.metrics import Metrics
from tailproxy.schema import options
from tests.docs.pages import PAGES, ROOT, every_page, prose, quoted, text

FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}


def keys(prefix: str, cls: type) -> set[str]:
    """The path of every option of a class and of the objects inside it."""
    found = set()
    for _, entry in options(cls):
        path = f"{prefix}{entry.key}"
        inner = nested_in(entry.kind)
        found |= {path} if inner is None else {path, *keys(f"{path}.", inner)}
    return found


@pytest.mark.parametrize("page", every_page())
def test_options_exist(page):
    known = keys("", Config)
    for name in quoted(prose(page).replace("\n", " ")):
        path = name.replace("[]", "")
        if re.fullmatch(r"(?:Tailproxy|APIServerProxy)(?:\.[A-Za-z]+)+", path):
            # What is below Plugins is the plugins' own.
            assert path in known or path.startswith("Tailproxy.Plugins."), name


def test_metrics_exist_and_each_is_documented():
    collected = list(Metrics("").registry.collect())
    series = {sample.name for family in collected for sample in family.samples}
    series |= {family.name for family in collected}
    series |= {f"{family.name}_total" for family in collected if family.type == "counter"}
    for family in collected:
        if family.type == "histogram":
            series |= {f"{family.name}_{part}" for part in ("bucket", "count", "sum")}
    for page in PAGES:
        # Modules have such names, too.
        named = set(re.findall(r"\btailproxy_(?!plugin\b|greeting\b)\w+", text(page)))
        assert named <= series, page
    for family in collected:
        assert f"`{family.name}" in text("docs/metrics.md")


@pytest.mark.parametrize("page", every_page())
def test_files_exist(page):
    for name in quoted(prose(page).replace("\n", " ")):
        path = name.partition("::")[0]
        if re.fullmatch(r"[\w.-]+/[\w./*-]*", path) and path.split("/")[0] in FOLDERS:
            assert any(ROOT.glob(path.rstrip("/"))), name
