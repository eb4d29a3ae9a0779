"""How commands print what they found: for people, or as JSON or YAML for programs."""

from __future__ import annotations

import json
import shutil
import textwrap
import unicodedata
from typing import TYPE_CHECKING, Any

import click
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

_LEAST_COLUMNS = 60

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(("json", "yaml")),
    help="For programs: print everything in this form.",
)


def echo_data(value: Any, form: str) -> None:
    """Print a value as `json` or `yaml`."""
    if form == "json":
        click.echo(json.dumps(value, indent=2))
    else:
        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)


def echo_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print lines with labels in front, wrapped to the terminal.

    :param rows: label and text; lines that follow one another with an empty label belong to the
        label above.
    """
    known = list(rows)
    width = max((len(label) for label, _ in known), default=0) + 2
    columns = max(shutil.get_terminal_size((100, 24)).columns, _LEAST_COLUMNS)
    for label, text in known:
        lines = textwrap.wrap(plain(text), columns - width, break_on_hyphens=False) or [""]
        for number, line in enumerate(lines):
            click.echo(f"{label if not number else '':{width}}{line}".rstrip())


def echo_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print columns, the last of them as long as it is."""
    known = [[plain(each) for each in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*known, strict=True)]
    for row in known:
        cells = (f"{each:{width}}" for each, width in zip(row, widths, strict=True))
        click.echo("   ".join(cells).rstrip())


def plain(text: str) -> str:
    """A text from elsewhere without what a terminal would obey."""
    return "".join("?" if unicodedata.category(each) in _OBEYED else each for each in text)


# Control characters, and those that change the direction of what follows.
_OBEYED = frozenset(("Cc", "Cf", "Cs"))
