"""Commands in the pages are ones that there are: programs, options, environments."""

from __future__ import annotations

import argparse
import ast
import getopt
import re
import shlex
import subprocess
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec

import click
import pytest
from twisted.scripts.twistd import ServerOptions

from bench import __main__ as bench
from tailproxy.cli.main import main
from tailproxy.tap import Options
from tests.docs.pages import (
    PAGES,
    ROOT,
    SOURCES,
    every_block,
    ini,
    prose,
    quoted,
    tree,
    words_of,
)
from tests.lab import __main__ as lab
from tests.lab import demo

ENVIRONMENTS = {name.partition(":")[2] for name in ini("tox.ini").sections() if ":" in name}
EXTRAS = set(ini("setup.cfg")["options.extras_require"])
# What may stand before a program.
BEFORE = {"!", "do", "else", "exec", "if", "pipx", "run", "sudo", "then", "time", "while"}
HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1(.*?)\n.*?^\s*\2$", re.DOTALL | re.MULTILINE)


def commands(script: str) -> list[list[str]]:
    """The words of each command of a shell script.

    Words of a redirection may come out as a command of their own; no harm is done by that.
    """
    script = HEREDOC.sub(r"\3", script)
    found: list[list[str]] = []
    for inner in re.findall(r"\$\(([^()]*)\)", script):
        found += commands(inner)
    line = ""
    for more in script.replace("\\\n", " ").splitlines():
        line += more
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a quotation that goes on in the next line
            line += "\n"
            continue
        line = ""
        found.append([])
        for word in words:
            if set(word) <= set("();<>|&"):
                found.append([])
            elif found[-1] or (word not in BEFORE and not re.match(r"\w+=", word)):
                found[-1].append(word)
    assert not line
    return [words for words in found if words]


class IncompleteError(AssertionError):
    """A command without an argument that it needs."""


def check(words: list[str]) -> None:
    """Fail if one of our own programs is called as it cannot be."""
    for prefix, checked in PROGRAMS.items():
        if words[: len(prefix)] == list(prefix):
            checked(words[len(prefix) :])
            return


def click_command(words: list[str]) -> None:
    """Options and arguments of `tailproxy`, down to the innermost command."""
    command: click.Command = main
    context = click.Context(main)
    while True:
        given, rest, _ = command.make_parser(context).parse_args(list(words))
        for each in command.get_params(context):
            value = given.get(each.name)
            missing = each.value_is_missing(value)
            if isinstance(each.type, click.Choice) and not missing:
                each.type_cast_value(context, value)
            if each.required and missing:
                raise IncompleteError(each.name)
        if not isinstance(command, click.Group) or not rest:
            break
        name, found, words = command.resolve_command(context, rest)
        assert found is not None, name
        command, context = found, click.Context(found, parent=context)
    assert not rest, f"too many words: {rest}"


def twistd(words: list[str]) -> None:
    """Options of twistd before, ours behind `tailproxy`."""
    place = words.index("tailproxy") if "tailproxy" in words else len(words)
    for options, given in ((ServerOptions(), words[:place]), (Options(), words[place + 1 :])):
        _, rest = getopt.getopt(given, options.shortOpt, options.longOpt)
        assert not rest, rest


def by(parser: Callable[[], argparse.ArgumentParser]) -> Callable[[list[str]], None]:
    """A command whose words an argparse parser takes."""
    return lambda words: parser().parse_args(words) and None


def tox(words: list[str]) -> None:
    """An environment of tox.ini, and what it is told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-e", default="full")
    parser.add_argument("rest", nargs="*")
    args = parser.parse_args(words)
    assert set(args.e.split(",")) <= ENVIRONMENTS | {"full"}
    if args.e in TOLD:
        TOLD[args.e](args.rest)


def pip(words: list[str]) -> None:
    """Extras of ours exist."""
    for extras in re.findall(r"^\.\[(.*)\]$", "\n".join(words), re.MULTILINE):
        assert set(extras.split(",")) <= EXTRAS


def module(words: list[str]) -> None:
    """A module that there is."""
    assert find_spec(words[0]), words[0]


PROGRAMS: dict[tuple[str, ...], Callable[[list[str]], None]] = {
    ("tailproxy",): click_command,
    ("kubectl", "tailproxy"): click_command,
    ("twistd",): twistd,
    ("tox",): tox,
    ("pip", "install"): pip,
    ("python", "-m", "tests.lab"): by(lab.parser),
    ("python", "-m", "bench"): by(bench.parser),
    ("python", "-m"): module,
}
TOLD = {"bench": by(bench.parser), "demo": by(demo.parser)}


@pytest.mark.parametrize("block", every_block("sh"))
def test_shell_can_be_read_and_its_commands_exist(block):
    read = subprocess.run(
        ["bash", "-n"], input=block, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert read.returncode == 0, read.stderr
    found = commands(block)
    assert found
    for words in found:
        check(words)


@pytest.mark.parametrize("block", every_block("console"))
def test_commands_at_a_prompt_exist(block):
    typed = re.findall(r"^\$ (.*)$", block, re.MULTILINE)
    assert typed
    for words in commands("\n".join(typed)):
        check(words)


def check_quoted(prose: str) -> None:
    """Fail if a command between backquotes cannot be called."""
    for inline in quoted(prose):
        begins = inline.split()[0]
        if " " in inline and "…" not in inline and begins in {first for first, *_ in PROGRAMS}:
            for words in commands(inline):
                # Where it is only named, it may stand without its arguments.
                with suppress(IncompleteError):
                    check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_between_the_lines_exist(page):
    check_quoted(prose(page).replace("\n", " "))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_messages_exist(path):
    nodes = list(ast.walk(tree(path)))
    docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
    parts = {part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if node not in docstrings | parts:
            for message in words_of(node):
                check_quoted(message.replace("\0", "NAME"))
