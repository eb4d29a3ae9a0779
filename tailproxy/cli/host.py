"""What commands on the proxy's host have in common: the configuration, and time to wait."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.python.failure import Failure

from tailproxy.config import DEFAULT_SOURCE, SOURCE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")

config_option = click.option(
    "-c",
    "--config",
    envvar=SOURCE_VARIABLE,
    default=DEFAULT_SOURCE,
    show_default=True,
    show_envvar=True,
    help="The configuration file of the service.",
)


def run(
    work: Callable[[Any], Coroutine[Any, Any, _T]], problems: tuple[type[Exception], ...]
) -> _T:
    """Run something that waits, to its end.

    :param work: gets the reactor.
    :param problems: what ends the command with the error's own words.
    """
    ended: list[Any] = []
    with suppress(SystemExit):
        react(lambda reactor: Deferred.fromCoroutine(work(reactor)).addBoth(ended.append))
    if not ended:  # somebody interrupted it
        raise click.Abort
    if isinstance(ended[0], Failure):
        if ended[0].check(*problems):
            raise click.ClickException(str(ended[0].value))
        ended[0].raiseException()
    result: _T = ended[0]
    return result
