"""Links lead somewhere, and every page is found."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from docs.conf import menu
from tests.docs.pages import ROOT, every_page, prose, text

LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
TAG = re.compile(r'\b(?:href|src|srcset)="([^"]+)"')
PAGES = sorted(path.stem for path in ROOT.glob("docs/*.md"))


def links(page: str | Path) -> list[str]:
    """The targets of all links and pictures of a page."""
    return LINK.findall(prose(page)) + TAG.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The names of the headings, as Git hosts and Sphinx make them."""
    found: set[str] = set()
    times: Counter[str] = Counter()
    for heading in re.findall(r"^#+ +(.*?) *$", prose(page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(f"{name}-{times[name]}" if times[name] else name)
        times[name] += 1
    return found


@pytest.mark.parametrize("page", every_page())
def test_every_link_leads_somewhere(page):
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        assert target.is_relative_to(ROOT), f"{link} leads out of the project"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"
        # Sphinx copies files that are linked to, not folders.
        assert target.is_file() or page.parent != ROOT / "docs", f"{link}: name a file in it"


def test_pages_that_other_files_name_exist():
    files = [ROOT / "setup.cfg", ROOT / "tox.ini", *ROOT.glob("etc/*")]
    for folder in ("bench", "docs", "tailproxy", "tests"):
        files += ROOT.glob(f"{folder}/**/*.py")
    named = 0
    for path in files:
        for page, anchor in re.findall(r"\b(docs/[\w-]+\.md)(?:#([\w-]+))?", text(path)):
            assert (ROOT / page).exists(), f"{path}: {page}"
            assert not anchor or anchor in anchors(ROOT / page), f"{path}: {page}#{anchor}"
            named += 1
    assert named > 10


@pytest.mark.parametrize("page", every_page())
def test_every_picture_has_words_in_its_place(page):
    assert "![](" not in prose(page)


def test_every_page_is_in_the_menu_once_and_found_from_the_readme():
    listed = re.findall(r"^([\w-]+)$", menu(text("docs/index.md")), re.MULTILINE)
    assert sorted(["index", *listed]) == PAGES
    assert "docs/index.md" in links("README.md")


def test_the_menu_has_the_kinds_of_pages():
    kinds = re.findall(r"^:caption: (.*)$", menu(text("docs/index.md")), re.MULTILINE)
    assert kinds == ["Tutorial", "How-to guides", "Reference", "Explanation"]


@pytest.mark.parametrize("page", every_page())
def test_a_page_has_one_title(page):
    if page.parent != ROOT / "changelog.d" or page.name == "README.md":
        titles = re.findall(r"^# .+", prose(page), re.MULTILINE)
        assert len(titles) == 1
