"""The service as twistd runs it: where the log goes, signals, the process id's file."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile

from tailproxy.audit.writer import LogWriter
from tailproxy.options import LogFormat
from tailproxy.reactor import settle
from tailproxy.workers.lines import events

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tailproxy.audit.access import AccessLog
    from tailproxy.config import Config
    from tailproxy.interfaces import IDrainable
    from tailproxy.reload import Reloader


class LogOutput:
    """Where log lines go, as twistd was told, and in which form, as the configuration says.

    :param access_log: writes where everything else is written.
    :ivar twistd: its own options; none yet while the service is being made.
    """

    def __init__(self, config: Config, reactor: Any, access_log: AccessLog) -> None:
        self.twistd: Mapping[str, Any] = {}
        self._config = config
        self._access_log = access_log
        self._reactor = reactor
        self._stream: IO[str] | None = None
        self._writer: LogWriter | None = None

    def observer(self) -> ILogObserver:
        """What writes the events of this process."""
        self._stream = self._opened()
        level = self._config.log_level.value
        form = self.form(self._config)
        self._writer = LogWriter(self._stream, self._access_log, self._reactor, form, level)
        self._reactor.addSystemEventTrigger("after", "shutdown", self._writer.close)
        return self._writer.observer

    def form(self, config: Config) -> str:
        """Of the lines: `json` or `text`. Where somebody else logs, workers' lines are JSON."""
        wanted = config.tailproxy.log.format
        on_terminal = wanted is LogFormat.AUTO and _is_terminal(self._stream)
        text = self._stream is not None and (wanted is LogFormat.TEXT or on_terminal)
        return "text" if text else "json"

    def adopt(self, config: Config) -> None:
        """Write lines as this configuration says from now on."""
        if self._writer is not None:
            self._writer.write_as(self.form(config), config.log_level.value)

    def flush(self) -> None:
        """Write what was to be written in a moment."""
        if self._writer is not None:
            self._writer.flush()

    def write(self, block: bytes) -> None:
        """Write lines that a worker has made; where somebody else logs, as events again."""
        if self._stream is None:
            events(block)
            return
        # When nobody can be written to any more, nobody can be told so.
        with suppress(OSError):
            self._stream.write(block.decode(errors="replace"))
            self._stream.flush()

    def _opened(self) -> IO[str]:
        """Standard error if twistd was told nothing else and stays in the foreground."""
        logfile = self.twistd.get("logfile")
        if logfile == "-":
            return sys.stdout
        if logfile or not self.twistd.get("nodaemon", True):
            return cast("IO[str]", LogFile.fromFullPath(logfile or "twistd.log"))
        return sys.stderr


class TailproxyService(MultiService):
    """The whole service. It starts from the bottom up and leaves from the top down.

    Its parts are put below it by `tailproxy.assembly`, in the order of their start.

    :param output: says where the log goes.
    :param leaving: they are drained first, all at once.
    :param reloader: is told of SIGHUP.
    :param kill: ends other processes at once.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        reactor: Any,
        output: LogOutput,
        leaving: Sequence[IDrainable],
        reloader: Reloader,
        kill: Callable[[], None],
    ) -> None:
        super().__init__()
        self._config = config
        self._reactor = reactor
        self._output = output
        self._leaving = leaving
        self._reloader = reloader
        self._kill = kill
        self._twistd: Mapping[str, Any] = {}

    def run_by(self, twistd: Mapping[str, Any]) -> None:
        """Take note of twistd's own options."""
        self._twistd = self._output.twistd = twistd

    def setServiceParent(self, parent: Any) -> None:
        """Become part of an application, which logs as the configuration says.

        An observer of the user's own (`twistd --logger`) goes first; that is twistd's doing.
        """
        if (
            isinstance(parent, Componentized)
            and parent.getComponent(ILogObserver) is None
            and not self._twistd.get("logger")
        ):
            parent.setComponent(ILogObserver, self._output.observer())
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Open every port.

        :raises SystemExit: one cannot be opened.
        """
        try:
            super().privilegedStartService()
        except CannotListenError as error:
            if not self._twistd.get("nodaemon"):
                # twistd hands the message to the terminal it was started from.
                raise
            _forget_pid(self._twistd)
            _say(cannot_listen(error))
            raise SystemExit(1) from error

    def startService(self) -> None:
        """Start everything, and from now on leave when told to."""
        super().startService()
        if self._config.unheeded:
            self._log.warn(
                "{keys} in the configuration: no effect, as tailscaled runs beside tailproxy",
                keys=", ".join(self._config.unheeded),
            )
        if self._twistd:
            self._reactor.callWhenRunning(self._heed_signals)
            self._reactor.callWhenRunning(settle)

    def _heed_signals(self) -> None:
        # Twisted's own handlers would let the process die of the signal after a drain that went
        # well, and would not hear a second one (spec/dataplane.md 2.11).
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(self._leave))
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._reloader.reload))

    def _leave(self) -> None:
        if self.running:
            self._log.info("leaving; a second signal ends everything at once")
            self._reactor.stop()
        else:
            self._kill()
            _forget_pid(self._twistd)
            self._output.flush()
            _say("ended by a second signal")
            os._exit(1)

    def stopService(self) -> Deferred[Any]:
        """Drain what serves, and only then stop what that needs; probes are answered last."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        Service.stopService(self)
        await DeferredList([service.drain() for service in self._leaving])
        for service in reversed(list(self)):
            if service in self._leaving:
                await maybeDeferred(service.stopService)
        others = [service for service in reversed(list(self)) if service not in self._leaving]
        await DeferredList([maybeDeferred(service.stopService) for service in others])


def cannot_listen(error: CannotListenError) -> str:
    """Why a port cannot be opened, with the port's name."""
    reason = os.strerror(error.socketError.errno or 0)
    return f"cannot listen on {error.interface or 'any address'} port {error.port}: {reason}"


def _say(message: str) -> None:
    """One line on the real standard error: twistd has made log events of `sys.stderr` by now."""
    os.write(2, f"tailproxy: {message}\n".encode())


def _is_terminal(stream: IO[str] | None) -> bool:
    return stream is not None and stream in {sys.stdout, sys.stderr} and stream.isatty()


def _forget_pid(twistd: Mapping[str, Any]) -> None:
    if twistd.get("pidfile"):
        Path(twistd["pidfile"]).unlink(missing_ok=True)
