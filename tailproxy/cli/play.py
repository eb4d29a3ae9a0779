"""`tailproxy play`: a recording in the terminal."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tailproxy.cli.recorder import recorder, recorder_options
from tailproxy.client.sessions import IDENTIFIER
from tailproxy.client.theatre import KEYS, Keyboard, Theatre, too_small
from tailproxy.wire.cast import CastError, read_cast

if TYPE_CHECKING:
    from collections.abc import Iterable


@click.command(epilog=f"Keys: {KEYS}.")
@click.option(
    "-s",
    "--speed",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Play so many times as fast.",
)
@click.option(
    "-i",
    "--idle",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Make pauses no longer than this.",
)
@recorder_options
@click.argument("recording")
def play(
    recording: str,
    speed: float,
    idle: float | None,
    socket: Path | None,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """Play a recording in this terminal.

    RECORDING is a file in the format asciicast v2, - for standard input, or the ID of a recording
    that `tailproxy sessions ls` shows.
    """
    with ExitStack() as stack:
        lines: Iterable[bytes]
        if recording == "-":
            lines = sys.stdin.buffer
        elif IDENTIFIER.fullmatch(recording) and not Path(recording).exists():
            sessions = stack.enter_context(recorder(socket, kubeconfig, context))
            if sessions.find(recording)["encrypted"]:
                raise click.ClickException(
                    f"{recording} is kept encrypted: download it from its page, decrypt it with "
                    f"`age -d -i KEY {recording}.cast.age`, and pipe that into `tailproxy play -`"
                )
            lines = sessions.lines(recording)
        else:
            try:
                lines = stack.enter_context(Path(recording).open("rb"))
            except OSError as error:
                raise click.ClickException(f"cannot read {recording}: {error.strerror}") from error
        try:
            header, events = read_cast(lines)
            theatre = Theatre(header, events, Keyboard(_terminal(stack)), _write)
            theatre.play(speed, idle)
        except CastError as error:
            raise click.ClickException(f"{recording}: {error}") from error
    note = too_small(theatre.sizes, *shutil.get_terminal_size())
    if note and sys.stdout.isatty():
        click.echo(note, err=True)


def _terminal(stack: ExitStack) -> int | None:
    """Where keys come from; None where nobody sits."""
    if not sys.stdout.isatty():
        return None
    with suppress(OSError):
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
        stack.callback(os.close, terminal)
        return terminal
    return None


def _write(text: str) -> None:
    sys.stdout.buffer.write(text.encode(errors="replace"))
    sys.stdout.buffer.flush()
