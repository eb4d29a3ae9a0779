"""A configuration that is read again while the service runs: on SIGHUP, and when it changes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.interfaces import CheckResult, IReadinessCheck
from tailproxy.schema import ConfigError, options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from twisted.internet.interfaces import IReactorTime

    from tailproxy.config import Config, Document
    from tailproxy.metrics import Metrics

# Seconds between looks at the files. A change is taken up when two looks have found the same:
# somebody may be writing still.
PERIOD = 1.0


def changed_keys(one: object, other: object, prefix: str = "") -> list[str]:
    """The keys whose values differ between two configurations. The values are not told: they may
    be secrets.
    """
    found: list[str] = []
    for field, entry in options(type(one)):
        before, after = getattr(one, field.name), getattr(other, field.name)
        if before == after:
            continue
        key = f"{prefix}{entry.key}"
        if attrs.has(type(before)) and type(before) is type(after):
            found += changed_keys(before, after, f"{key}.")
        else:
            found.append(key)
    return found


@implementer(IReadinessCheck)
class Reloader(Service):
    """Reads the configuration again and has it taken up; a bad one changes nothing.

    Files are compared by content, so that any way of replacing them is noticed: written over,
    renamed, or switched by a symbolic link as Kubernetes does.

    :param first: the configuration that the service was started with.
    :param read: reads it again.
    :param files: those that the service reads, for a configuration: its own first.
    :param adopt: takes it up, or raises `ConfigError` and leaves everything as it was.
    :param clock: for the looks at the files.
    :param now: seconds since 1970.
    :ivar current: the one that is in force.
    """

    _log = Logger()
    name = "configuration"

    def __init__(
        self,
        first: Document,
        read: Callable[[], Document],
        files: Callable[[Config], Sequence[Path]],
        adopt: Callable[[Document], Awaitable[None]],
        metrics: Metrics,
        clock: IReactorTime,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.current = first
        self._read = read
        self._files = files
        self._adopt = adopt
        self._metrics = metrics
        self._now = now
        self._problem = ""
        self._busy = False
        self._again = False
        self._seen = self._pending = self._contents()
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock
        self._succeeded()

    def startService(self) -> None:
        """Look at the files from now on."""
        super().startService()
        self._looking.start(PERIOD, now=False)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        if self._looking.running:
            self._looking.stop()

    def check(self) -> CheckResult:
        """See `IReadinessCheck.check`. It is always ready: the last good one is in force."""
        detail = "the file is in force as it was read"
        if self._problem:
            detail = f"the last good one is in force; the new one is not used: {self._problem}"
        return CheckResult(ok=True, detail=detail)

    def _contents(self) -> tuple[bytes | None, ...]:
        return tuple(content(path) for path in self._files(self.current.config))

    def _look(self) -> None:
        before, self._pending = self._pending, self._contents()
        if self._pending != self._seen and self._pending == before:
            self.reload()

    def reload(self) -> Deferred[None]:
        """Take up the configuration as it is now. While that is being done, another call means
        that it is done once more behind it.
        """
        return Deferred.fromCoroutine(self._reload())

    async def _reload(self) -> None:
        self._again = True
        if self._busy:
            return
        self._busy = True
        try:
            while self._again and self.running:
                self._again = False
                await self._once()
        finally:
            self._busy = False

    async def _once(self) -> None:
        self._seen = self._pending = self._contents()
        before = self.current
        try:
            new = self._read()
            await self._adopt(new)
        except ConfigError as error:
            self._refused(str(error))
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the service goes on
            self._log.failure("taking up the configuration has failed")
            self._refused(repr(error))
            return
        self.current = new
        # It may name other files.
        self._seen = self._pending = self._contents()
        self._succeeded()
        keys = ", ".join(changed_keys(before.config, new.config)) or "nothing in it has changed"
        self._log.info("the configuration was read again and is in force: {keys}", keys=keys)

    def _succeeded(self) -> None:
        self._problem = ""
        self._metrics.config_reloaded.set(1)
        self._metrics.config_reload_time.set(self._now())

    def _refused(self, problem: str) -> None:
        self._log.error("keeping the configuration as it was: {reason}", reason=problem)
        self._problem = problem
        self._metrics.config_reloaded.set(0)


def content(path: Path) -> bytes | None:
    """What is in a file; None if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None
