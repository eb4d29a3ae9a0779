"""`tailproxy sessions`: what a recorder has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from tailproxy.cli.output import echo_data, echo_rows, echo_table, output_option
from tailproxy.cli.recorder import recorder, recorder_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class _Moment(click.ParamType[datetime]):
    """A point in time, as a time or as how long ago it is."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            if value[-1:] in _UNITS and value[:-1].isdigit():
                return datetime.now(UTC) - timedelta(**{_UNITS[value[-1]]: int(value[:-1])})
            return datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"found {value!r}, wanted a date or time such as 2026-05-01 or 2026-05-01T10:00, "
                "or how long ago, such as 30m, 6h or 2d",
                param,
                ctx,
            )


@click.group()
def sessions() -> None:
    """Look at the recorded sessions of a recorder, and end running ones.

    The recorder is the one behind the current context of the kubeconfig, for those who have a grant
    for it, or with --socket one of this machine.
    """


@sessions.command()
@click.option("--user", help="Of this login name.")
@click.option("--node", help="From this node, by its full name.")
@click.option("-n", "--namespace", help="In this namespace.")
@click.option("--pod", help="In this pod.")
@click.option("--container", help="In this container.")
@click.option("--command", help="With this in the command.")
@click.option("--text", help="With this in anything that is known of it.")
@click.option("--since", type=_Moment(), help="Begun then or later: a time, or how long ago (6h).")
@click.option("--until", type=_Moment(), help="Begun before.")
@click.option("--live", is_flag=True, help="Those alone that run now.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most."
)
@recorder_options
@output_option
def ls(
    since: datetime | None,
    until: datetime | None,
    live: bool,
    limit: int,
    socket: Path | None,
    kubeconfig: Path | None,
    context: str | None,
    output: str | None,
    **filters: str | None,
) -> None:
    """List recorded sessions, the latest first."""
    wanted = {name: value for name, value in filters.items() if value}
    wanted |= {
        name: moment.isoformat()
        for name, moment in (("since", since), ("until", until))
        if moment is not None
    }
    if live:
        wanted["state"] = "live"
    with recorder(socket, kubeconfig, context) as found:
        items = list(found.search(wanted, limit))
    if output:
        echo_data(items, output)
    elif items:
        echo_table(
            ("ID", "BEGAN", "LENGTH", "STATE", "WHO", "WHERE", "COMMAND"), map(_columns, items)
        )
    else:
        click.echo("No session fits.", err=True)


@sessions.command()
@recorder_options
@output_option
@click.argument("identifier", metavar="ID")
def show(
    identifier: str,
    socket: Path | None,
    kubeconfig: Path | None,
    context: str | None,
    output: str | None,
) -> None:
    """Show what is known of a session."""
    with recorder(socket, kubeconfig, context) as found:
        item = found.find(identifier)
    if output:
        echo_data(item, output)
    else:
        echo_rows(_rows(item))


@sessions.command()
@recorder_options
@click.argument("identifiers", metavar="ID...", nargs=-1, required=True)
def kill(
    identifiers: tuple[str, ...],
    socket: Path | None,
    kubeconfig: Path | None,
    context: str | None,
) -> None:
    """End running sessions. Their users read who has ended them."""
    with recorder(socket, kubeconfig, context) as found:
        for identifier in identifiers:
            item = found.end(identifier)
            click.echo(f"{identifier}: {_who(item)} in {_where(item)} is being ended")


def _columns(item: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        item["id"],
        item["start"],
        _length(item),
        _state(item),
        _who(item),
        _where(item),
        item["command"],
    )


def _rows(item: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "ID", item["id"]
    yield "Began", item["start"]
    yield "Length", _length(item) or "(it runs)"
    yield "State", _state(item)
    if item["detail"]:
        yield "", item["detail"]
    yield "Who", _who(item)
    yield "", f"on the node {item['node']}"
    yield "Where", _where(item)
    yield item["kind"].capitalize() or "Command", item["command"] or "(no command)"
    size = f"{item['width']}x{item['height']}" if item["width"] else "none"
    yield "Terminal", size
    yield "Recorded", f"{item['size']} bytes, by {item['proxy'] or 'an unknown proxy'}"
    if item["session"]:
        yield "Request", item["session"]


def _state(item: Mapping[str, Any]) -> str:
    code = item["exitCode"]
    return str(item["state"]) if code is None else f"{item['state']}, exit {code}"


def _who(item: Mapping[str, Any]) -> str:
    return item["user"] or " ".join(item["tags"]) or item["node"]


def _where(item: Mapping[str, Any]) -> str:
    return "/".join(filter(None, (item["namespace"], item["pod"], item["container"])))


def _length(item: Mapping[str, Any]) -> str:
    if item["state"] == "live":
        return ""
    minutes, rest = divmod(int(item["durationSeconds"]), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
