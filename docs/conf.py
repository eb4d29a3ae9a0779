"""How Sphinx makes the pages into HTML: `tox -e docs`.

The pages are plain Markdown, for readers on a Git host as much as for Sphinx. What Sphinx needs
beyond that is made here: the menu, which is what index.md lists, and copies of the files that the
pages link to.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pygments.lexers.data import JsonLexer

import tailproxy

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "tailproxy"
release = tailproxy.__version__
extensions = ["myst_parser"]
# Headings have anchors, named as Git hosts name them.
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"tailproxy {release}"
html_static_path = ["pages.css"]
html_css_files = ["pages.css"]
html_show_copyright = False
# "info" in a table is what to type, quotes and all.
smartquotes = False
# The sources are in the repository.
html_copy_source = False
html_show_sourcelink = False
# Code that names no language is plain text.
highlight_language = "none"
linkcheck_timeout = 20


def menu(index: str) -> str:
    """The menu: a `toctree` for each section of index.md, with the pages that it lists."""
    made = []
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        kind, _, listed = section.partition("\n")
        pages = re.findall(r"^- \[[^\]]+\]\(([\w-]+)\.md\)", listed, re.MULTILINE)
        made.append(
            "\n".join(["```{toctree}", ":hidden:", f":caption: {kind}", "", *pages, "```", ""])
        )
    return "\n".join(made)


def copies(page: str) -> str:
    """A page whose links to Markdown that is no page, such as the README, lead to a copy of it.

    Links to other files do so anyway.
    """
    return re.sub(r"\]\((\.\./[^)#]+\.md)(?:#[^)]*)?\)", r"](path:\1)", page)


def _read(_app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = copies(source[0])
    if page == "index":
        source[0] += f"\n{menu(source[0])}"


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_lexer("hujson", JsonLexer)
    app.connect("source-read", _read)
