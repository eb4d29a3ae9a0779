"""A configuration that is read again while the service runs.

What the supervisor itself works with stays as it was at the start: open ports, the number of
workers, whom it asks how the node and the API server stand, where the log goes. The workers keep
those too, so that all processes agree. The rest is the new workers' from their start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from tailproxy.schema import ConfigError, MisfitError, options

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailproxy.config import Config, Document
    from tailproxy.metrics import Metrics
    from tailproxy.workers.supervisor import Supervisor

_TOP = ("log_level", "local_addr", "local_port", "metrics_enabled", "health_check_enabled")
_OURS = ("listeners", "workers", "tailscaled", "upstream", "admin", "log")


def adopt(running: Config, new: Config, source: str = "") -> tuple[Config, list[str]]:
    """What of a new configuration can be had without a restart.

    :param running: the one that the service was started with.
    :param source: name of the file, for errors.
    :returns: the new one with what cannot change yet as it was; and the keys of that, if they
        have changed.
    :raises ConfigError: the two together make no sense.
    """
    top = {name: getattr(running, name) for name in _TOP}
    ours = {name: getattr(running.tailproxy, name) for name in _OURS}
    proxy = attrs.evolve(new.api_server_proxy, mode=running.api_server_proxy.mode)
    resolver = new.tailproxy.resolver
    if resolver.kind is not running.tailproxy.resolver.kind:
        resolver = running.tailproxy.resolver
    try:
        adopted = attrs.evolve(
            new,
            **top,
            api_server_proxy=proxy,
            tailproxy=attrs.evolve(new.tailproxy, **ours, resolver=resolver),
        )
    except MisfitError as error:
        raise ConfigError(source, f"needs a restart: {error}") from error
    return adopted, _differences(adopted, new)


def _differences(one: object, other: object, prefix: str = "") -> list[str]:
    found: list[str] = []
    for field, entry in options(type(one)):
        before, after = getattr(one, field.name), getattr(other, field.name)
        if before == after:
            continue
        key = f"{prefix}{entry.key}"
        if attrs.has(type(before)) and type(before) is type(after):
            found += _differences(before, after, f"{key}.")
        else:
            found.append(key)
    return found


class Reloader:
    """Reads the configuration again and has the workers replaced.

    :param first: the configuration that the service was started with.
    :param read: reads it again.
    :param check: raises `ConfigError` for one that cannot be used.

    :ivar current: what new workers start with.
    """

    _log = Logger()

    def __init__(
        self,
        first: Document,
        read: Callable[[], Document],
        check: Callable[[Config], object],
        metrics: Metrics,
    ) -> None:
        self.first = first
        self.current = first
        self._read = read
        self._check = check
        self._metrics = metrics
        self._busy = False
        self._again = False
        metrics.config_reloaded.set(1)

    def reload(self, supervisor: Supervisor) -> Deferred[None]:
        """Take up the configuration as it is now; if it is bad, everything stays as it is."""
        return Deferred.fromCoroutine(self._reload(supervisor))

    async def _reload(self, supervisor: Supervisor) -> None:
        self._again = True
        if self._busy:
            return
        self._busy = True
        try:
            while self._again and not supervisor.draining:
                self._again = False
                await self._once(supervisor)
        finally:
            self._busy = False

    async def _once(self, supervisor: Supervisor) -> None:
        before = self.current
        try:
            new = self._read()
            adopted, later = adopt(self.first.config, new.config, new.source)
            self._check(adopted)
        except ConfigError as error:
            self._refused(supervisor, str(error))
            return
        if later:
            self._log.warn(
                "{keys} in the configuration: no effect before a restart", keys=", ".join(later)
            )
        self.current = new
        self._log.info("the configuration was read again: new workers take over, one by one")
        if await supervisor.replace():
            self._metrics.config_reloaded.set(1)
            supervisor.note("")
            self._log.info("every worker has the new configuration")
        elif not supervisor.draining:
            self.current = before
            self._refused(supervisor, "a new worker did not get ready")

    def _refused(self, supervisor: Supervisor, reason: str) -> None:
        self._log.error("keeping the configuration as it was: {reason}", reason=reason)
        self._metrics.config_reloaded.set(0)
        supervisor.note(f"the new configuration is not used: {reason}")
