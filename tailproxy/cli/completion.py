"""Completion of `kubectl tailproxy ...`: kubectl asks the program `kubectl_complete-tailproxy`."""

from __future__ import annotations

import sys

import click
from click.shell_completion import ShellComplete

from tailproxy.cli.main import main

# What kubectl does beside showing what it is told (Cobra's ShellCompDirective).
_OFFER_FILES = 0
_OFFER_NOTHING = 4


def complete() -> None:
    """Print what may come next, a line each, and last what else kubectl shall offer.

    The words so far are the program's arguments; the last one is incomplete, or empty.
    """
    *words, incomplete = sys.argv[1:] or [""]
    found = ShellComplete(main, {}, "kubectl tailproxy", "").get_completions(words, incomplete)
    for each in found:
        if each.type == "plain":
            click.echo(f"{each.value}\t{each.help}" if each.help else each.value)
    files = any(each.type != "plain" for each in found)
    click.echo(f":{_OFFER_FILES if files else _OFFER_NOTHING}")
