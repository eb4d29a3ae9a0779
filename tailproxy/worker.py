"""The program of a worker process: the data plane, told what to do over the control channel.

It is started by the supervisor alone. When the supervisor goes, the worker drains and ends too.
"""

from __future__ import annotations

import signal
import socket
import sys
from typing import IO, TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, globalLogBeginner

import tailproxy
from tailproxy.assembly import DataPlaneOnly
from tailproxy.audit.writer import LogWriter
from tailproxy.config import parse
from tailproxy.reactor import install, settle
from tailproxy.schema import ConfigError
from tailproxy.workers.channel import Channel
from tailproxy.workers.figures import pack
from tailproxy.workers.lines import LinePipe
from tailproxy.workers.messages import (
    Adopt,
    Adopted,
    AskMetrics,
    Connection,
    Failed,
    Figures,
    Leave,
    Leaving,
    Load,
    Ready,
    Standings,
    Start,
)
from tailproxy.workers.process import CONTROL

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from tailproxy.workers.messages import Message

_LOG = 1
# Seconds between two looks at the checks: until they are well at first, and later.
_FIRST_LOOKS = 0.05
_LATER_LOOKS = 0.5
# What is not well by then (tailscaled is away, there is no certificate yet) is no reason to let
# callers wait: they are told.
_SETTLED = 2.0


class Worker:
    """This process, between the control channel and the data plane.

    :param control: the worker's end of the channel.
    :ivar status: what the process is to exit with.
    """

    _log = Logger()

    def __init__(self, reactor: Any, control: socket.socket) -> None:
        self.status = 0
        self._reactor = reactor
        self._pipe = LinePipe(reactor, _LOG)
        self._channel = Channel(reactor, control, self)
        self._parts: DataPlaneOnly | None = None
        self._writer: LogWriter | None = None
        self._taken = 0
        self._report: IDelayedCall | None = None
        self._standings: tuple[tuple[str, bool, str], ...] | None = None
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._born = reactor.seconds()
        self._ready = False
        self._leaving = False
        self._done = False
        self._stopped = False
        self._alone = False
        reactor.callWhenRunning(self._heed_signals)

    def _heed_signals(self) -> None:
        # A terminal's Ctrl-C and a service manager reach all processes at once, but it is the
        # supervisor who leads; with SIGTERM a single worker can be sent away.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._reactor.callFromThread(self._told_to_go))

    def _told_to_go(self) -> None:
        if not self._leaving:
            self._channel.send(Leaving())  # the supervisor answers with Leave

    def message_received(self, message: Message, connection: socket.socket | None) -> None:
        """See `tailproxy.workers.channel.Owner`."""
        match message:
            case Start():
                self._start(message)
            case Adopt():
                self._adopt(message)
            case Connection():
                self._admit(message.listener, connection)
            case AskMetrics():
                self._tell_figures(message.number)
            case Leave():
                self._reactor.callLater(message.after, self._leave)
            case _:
                self._log.error("the supervisor has lost step")
                self._leave()

    def channel_emptied(self) -> None:
        """See `tailproxy.workers.channel.Owner`."""
        if self._done:
            self._stop()

    def channel_lost(self, reason: str) -> None:
        """See `tailproxy.workers.channel.Owner`."""
        self._alone = True
        if self._done:
            self._stop()
        elif not self._leaving:
            self._log.warn("the supervisor is gone ({reason}): leaving too", reason=reason)
            self._leave()

    def _start(self, start: Start) -> None:
        try:
            if start.version != tailproxy.__version__:
                raise ConfigError(
                    start.source,
                    f"tailproxy {tailproxy.__version__} was installed while {start.version} runs;"
                    " restart the service",
                )
            config = parse(start.text, start.source)
            self._parts = DataPlaneOnly(config, self._reactor)
        except ConfigError as error:
            self._channel.send(Failed(str(error)))
            self.status = 1
            self._end()
            return
        self._begin_log(self._parts, start.log, config.log_level.value)
        self._parts.site.watch(self._changed)
        self._parts.services.startService()
        self._parts.plane.startService()
        self._looking.start(_FIRST_LOOKS)
        settle()

    def _begin_log(self, parts: DataPlaneOnly, form: str, level: str) -> None:
        writer = self._writer = LogWriter(
            cast("IO[str]", self._pipe), parts.access_log, self._reactor, form, level
        )
        globalLogBeginner.beginLoggingTo([writer.observer])

        def finish() -> None:
            writer.close()
            self._pipe.finish()

        self._reactor.addSystemEventTrigger("after", "shutdown", finish)

    def _adopt(self, order: Adopt) -> None:
        problem = ""
        try:
            config = parse(order.text, order.source)
            if self._parts is not None and self._writer is not None:
                self._parts.adopt(config)
                self._writer.write_as(order.log, config.log_level.value)
        except ConfigError as error:
            problem = str(error)
        # There may be a check that the supervisor has not heard of yet.
        self._look()
        self._channel.send(Adopted(problem))

    def _admit(self, listener: str, connection: socket.socket | None) -> None:
        self._taken += 1
        self._changed()
        if connection is None:
            self._log.error(
                "a connection to {listener} is lost: this process may open no more files; raise"
                " the limit of open files",
                listener=listener,
            )
        elif self._parts is None or listener not in self._parts.doors:
            connection.close()
        else:
            self._parts.doors[listener].admit(connection)

    def _changed(self) -> None:
        """The number of connections has: say so when the loop comes round."""
        if self._report is None:
            self._report = self._reactor.callLater(0, self._tell_load)

    def _tell_load(self) -> None:
        self._report = None
        if self._parts is not None:
            self._channel.send(Load(self._taken, self._parts.site.connections))

    def _tell_figures(self, number: int) -> None:
        families = pack(self._parts.metrics.registry.collect()) if self._parts is not None else []
        self._channel.send(Figures(number, families))

    def _look(self) -> None:
        """Tell how the checks stand, if that is news."""
        if self._parts is None:
            return
        results = [(check.name, check.check()) for check in self._parts.checks]
        standings = tuple((name, result.ok, result.detail) for name, result in results)
        if standings != self._standings:
            self._standings = standings
            self._channel.send(Standings(standings))
        lost = self._pipe.take_lost()
        if lost:
            self._log.error("{lost} log lines were lost: nobody read them in time", lost=lost)
        late = self._reactor.seconds() - self._born > _SETTLED
        if not self._ready and (late or all(result.ok for _, result in results)):
            self._ready = True
            self._looking.interval = _LATER_LOOKS
            self._channel.send(Ready())

    def _leave(self) -> None:
        if not self._leaving:
            self._leaving = True
            Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        if self._parts is not None:
            await self._parts.plane.stopService()
            await self._parts.services.stopService()
        self._end()

    def _end(self) -> None:
        """Say the last figures, then end."""
        self._done = True
        if self._looking.running:
            self._looking.stop()
        if not self._alone:
            self._tell_figures(0)
        if self._alone or not self._channel.waiting:
            self._stop()

    def _stop(self) -> None:
        self._channel.close()
        if self._reactor.running and not self._stopped:
            self._stopped = True
            self._reactor.stop()


def main() -> None:
    """Run a worker; the supervisor has put the control channel where it belongs."""
    install()
    from twisted.internet import reactor  # noqa: PLC0415 - importing it chooses it

    loop: Any = reactor
    worker = Worker(loop, socket.socket(fileno=CONTROL))
    loop.run()
    sys.exit(worker.status)
