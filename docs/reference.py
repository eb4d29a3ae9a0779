"""Makes the files that the code knows best: `python -m docs.reference`.

What an option, a metric or a command means is said once, where it is defined. These pages are
the same sentences as tables, the files of `docs.example` the same as a configuration;
`tests/docs/test_reference.py` sees to it that they are up to date.
"""

from __future__ import annotations

import inspect
import json
import re
import string
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from docs.dashboard import dashboard
from docs.example import default_of, example, json_schema, nested_in, plain
from tailproxy.cli.main import main as group
from tailproxy.config import Config
from tailproxy.counting import Family
from tailproxy.metrics import Metrics
from tailproxy.schema import Many, options
from tailproxy.tap import Options

if TYPE_CHECKING:
    from collections.abc import Iterator

    import attrs

    from tailproxy.schema import Option

FOLDER = Path(__file__).parent
# What the text format puts behind a family's name.
_SUFFIXES = {"counter": "_total", "info": "_info"}
_NOTE = "<!-- Made by `python -m docs.reference`; do not edit. -->\n"


def pages() -> dict[str, str]:
    """The text of each file, by its path in the project."""
    return {
        "docs/commands.md": commands(),
        "docs/configuration.md": configuration(),
        "docs/metrics.md": metrics(),
        "etc/grafana.json": dashboard(),
        "etc/tailproxy.hujson": example(),
        "etc/tailproxy.schema.json": json_schema(),
    }


def commands() -> str:
    """The page of all commands."""
    return _filled(
        "commands.md.in",
        service="\n".join(_service()),
        commands="\n".join(_command(click.Context(group, info_name="tailproxy"), "##")).rstrip(),
    )


def _service() -> Iterator[str]:
    """The table of the options of `twistd tailproxy`."""
    yield from ("| option | meaning |", "|---|---|")
    for name, short, _, meaning, *_ in Options.optParameters:
        yield _row(f"`-{short} {name.upper()}`, `--{name}={name.upper()}`", meaning)
    for name, _, meaning in Options.optFlags:
        yield _row(f"`--{name}`", meaning)
    yield _row("`--version`", inspect.getdoc(Options.opt_version) or "")


def _command(context: click.Context, heading: str) -> Iterator[str]:
    """The sections of a command and of those below it."""
    command = context.command
    yield f"{heading} `{context.command_path}`\n"
    yield f"{_prose(command.help or '')}\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```\n{context.command_path} {usage}\n```\n"
    records = [
        each.get_help_record(context) for each in command.params if isinstance(each, click.Option)
    ]
    if any(records):
        yield from ("| option | meaning |", "|---|---|")
        yield from (_row(f"`{record[0]}`", record[1]) for record in records if record)
        yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _command(
                    click.Context(inner, parent=context, info_name=name), f"{heading[:2]}#"
                )


def _prose(text: str) -> str:
    """The help of a command as Markdown; what is not to be wrapped there is code here."""
    paragraphs = inspect.cleandoc(text.partition("\f")[0]).split("\n\n")
    return "\n\n".join(
        re.sub(r"^\x08\n(.*)", r"```\n\1\n```", each, flags=re.DOTALL) for each in paragraphs
    )


def _row(*cells: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def configuration() -> str:
    """The page of all options."""
    return _filled("configuration.md.in", tables="\n".join(_tables("Top level", "", Config)))


def _tables(title: str, prefix: str, cls: type) -> Iterator[str]:
    """A section for a class of options, and one for each object inside it.

    :param prefix: path of its keys, with a final dot.
    """
    yield f"## {title}\n"
    yield "| key | what may stand there | if left out | meaning |"
    yield "|---|---|---|---|"
    inner: list[tuple[str, str, type]] = []
    for field, entry in options(cls):
        nested = nested_in(entry.kind)
        wanted = _wanted(entry)
        if nested is not None:
            path = f"{prefix}{entry.key}"
            many = "[]" if isinstance(entry.kind, Many) else ""
            inner.append((f"`{path}{many}`", f"{path}{many}.", nested))
        cells = (f"`{entry.key}`", wanted, _default(field, nested), entry.doc)
        yield _row(*cells)
    yield ""
    for title_of, path, nested in inner:
        yield from _tables(title_of, path, nested)


def _wanted(entry: Option) -> str:
    wanted = entry.kind.wanted
    return f"{wanted}; never shown" if entry.secret else wanted


def _default(field: attrs.Attribute[Any], nested: type | None) -> str:
    """The default as it would stand in the file."""
    value = default_of(field)
    if value is None:
        return "—"
    if nested is not None:
        if value == ():
            return "`[]`"
        return "one, with its defaults" if isinstance(value, tuple) else "its defaults"
    return f"`{json.dumps(plain(value))}`"


def metrics() -> str:
    """The page of all metrics."""
    ours = Metrics("")
    labels = {
        each.name: each.label_names for each in vars(ours).values() if isinstance(each, Family)
    }
    rows = ["| name | kind | labels | meaning |", "|---|---|---|---|"]
    for family in ours.registry.collect():
        names = labels.get(family.name) or next(iter(family.samples)).labels
        cells = (
            f"`{family.name}{_SUFFIXES.get(family.type, '')}`",
            family.type,
            ", ".join(f"`{name}`" for name in names if name != "le") or "—",
            family.documentation,
        )
        rows.append(_row(*cells))
    return _filled("metrics.md.in", table="\n".join(rows))


def _filled(template: str, **parts: str) -> str:
    text = (FOLDER / template).read_text(encoding="utf-8")
    return _NOTE + string.Template(text).substitute(parts)


def main() -> int:
    """Write the files; say which have changed."""
    for name, text in pages().items():
        page = FOLDER.parent / name
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{page}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
