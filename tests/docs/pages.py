"""The project's pages, read the way its tests look at them."""

from __future__ import annotations

import ast
import configparser
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(
    page
    for pattern in ("*.md", "changelog.d/*.md", "docs/**/*.md", "etc/**/*.md")
    for page in ROOT.glob(pattern)
)
SOURCES = sorted(ROOT.glob("tailproxy/**/*.py"))
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@cache
def text(path: str | Path) -> str:
    """A file of the project."""
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def tree(path: Path) -> ast.Module:
    """A module of the project."""
    return ast.parse(text(path))


def words_of(node: ast.AST) -> Iterator[str]:
    r"""A text in the code, if it is one; \0 stands for what is put in."""
    if isinstance(node, ast.JoinedStr):
        parts = [getattr(part, "value", None) for part in node.values]
        yield "".join(part if isinstance(part, str) else "\0" for part in parts)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield re.sub(r"\{[^{}]*\}", "\0", node.value)


def prose(page: str | Path) -> str:
    """A page without its code."""
    return _BLOCK.sub("", text(page))


def code(page: str | Path) -> list[tuple[str, str]]:
    """All code of a page, each with its language; the empty one is plain text."""
    return [(language, dedent(inside)) for _, language, inside in _BLOCK.findall(text(page))]


def blocks(page: str | Path, language: str) -> list[str]:
    """The code of one language in a page."""
    return [inside for found, inside in code(page) if found == language]


def every_page() -> list:
    """Each page, as a parameter of a test."""
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES]


def every_block(language: str) -> list:
    """All code of one language, as parameters of a test."""
    return [
        pytest.param(inside, id=f"{page.relative_to(ROOT)}-{language}-{number}")
        for page in PAGES
        for number, inside in enumerate(blocks(page, language), 1)
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
    """What stands between backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def lines(value: str) -> list[str]:
    """The lines of a value of setup.cfg or tox.ini that are not empty."""
    return [line for line in value.splitlines() if line]


def ini(path: str) -> configparser.ConfigParser:
    """A file such as setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read_string(text(path))
    return parser
