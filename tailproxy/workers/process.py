"""One worker process, as the supervisor sees it: started, spoken to, ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger

from tailproxy.workers.channel import Channel
from tailproxy.workers.figures import unpack
from tailproxy.workers.lines import WholeLines
from tailproxy.workers.messages import (
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
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prometheus_client import Metric
    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from tailproxy.workers.messages import Adopt, Message, Start

# Where the worker finds its end of the control channel.
CONTROL = 3
# The worker's modules are those of the supervisor, wherever it has them from. That is said here
# and not in the environment, which programs inherit that a worker starts.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop());"
    " from tailproxy.worker import main; main()"
)
# A dead worker's pipes are read this long; a program that it has started may hold them open.
_LAST_WORDS = 1.0


class Chief(Protocol):
    """Hears about its workers."""

    def worker_ready(self, worker: WorkerProcess) -> None:
        """It takes connections."""

    def worker_leaving(self, worker: WorkerProcess) -> None:
        """It takes no more, though nobody has told it so."""

    def worker_silent(self, worker: WorkerProcess) -> None:
        """It cannot be told anything any more; its end should follow."""

    def worker_roomy(self, worker: WorkerProcess) -> None:
        """Everything that was to be sent to it has been."""

    def worker_ended(
        self, worker: WorkerProcess, reason: str, unsent: list[tuple[str, socket.socket]]
    ) -> None:
        """It is gone.

        :param reason: its exit status or signal, in words.
        :param unsent: connections that it was never sent, each with its listener.
        """


class WorkerProcess(ProcessProtocol):
    """A worker, from its start to its end.

    :param start: what it is told first.
    :param patience: seconds that its drain may take.
    :param write: takes whole log lines.

    :ivar number: from 1.
    :ivar ready: whether it takes connections.
    :ivar checks: how its readiness checks stand: name, whether well, why.
    :ivar families: its metrics when they were last asked for.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        start: Start,
        patience: float,
        chief: Chief,
        write: Callable[[bytes], None],
    ) -> None:
        self.number = start.number
        self.patience = patience
        self.ready = False
        self.checks: Sequence[tuple[str, bool, str]] = ()
        self.families: list[Metric] = []
        self._reactor = reactor
        self._start = start
        self._chief = chief
        self._write = write
        self._channel: Channel
        self._welcoming = False
        self._taken = 0
        self._handed = 0
        self._open = 0
        self._asked = 0
        self._answers: dict[int, Deferred[list[Metric]]] = {}
        self._orders: deque[Deferred[str]] = deque()
        self._lines = WholeLines()
        self._complaints = WholeLines()
        self._failure = ""
        self._closing: IDelayedCall | None = None

    def spawn(self) -> None:
        """Start the process.

        :raises OSError: the system has no room for it.
        """
        ours, theirs = socket.socketpair()
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            self._channel = Channel(self._reactor, ours, self)
            self._reactor.spawnProcess(
                self,
                sys.executable,
                [sys.executable, "-P", "-c", _PROGRAM, json.dumps(sys.path)],
                env=None,
                childFDs={0: nothing, 1: "r", 2: "r", CONTROL: theirs.fileno()},
            )
        except BaseException:
            self._channel.close()
            raise
        finally:
            theirs.close()
            os.close(nothing)
        self._channel.send(self._start)

    @property
    def pid(self) -> int:
        """The process id; 0 when it has ended."""
        return (self.transport is not None and self.transport.pid) or 0

    @property
    def load(self) -> int:
        """See `tailproxy.workers.balance.Taker`."""
        return self._open + self._handed - self._taken

    @property
    def unsent(self) -> int:
        """See `tailproxy.workers.balance.Taker`."""
        return self._channel.waiting

    def take(self, listener: str, connection: socket.socket) -> None:
        """See `tailproxy.workers.balance.Taker`."""
        self._handed += 1
        self._channel.send(Connection(listener), connection)

    def leave(self, after: float) -> None:
        """Have it drain and end; before it was ready there is nothing to drain.

        :param after: that many seconds.
        """
        if self._welcoming:
            self.ready = False
            self._channel.send(Leave(after))
        else:
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)

    def adopt(self, order: Adopt) -> Deferred[str]:
        """Have it take up another configuration.

        :returns: why it cannot; empty when it has done so, or has nothing left to do it for.
        """
        if not self.pid:
            return succeed("")
        answer: Deferred[str] = Deferred()
        self._orders.append(answer)
        self._channel.send(order)
        return answer

    def ask_metrics(self) -> Deferred[list[Metric]]:
        """Its metrics as they are now; before it was ready or if it ends first, as they were."""
        if not (self.pid and self._welcoming):
            return succeed(self.families)
        self._asked += 1
        number = self._asked
        answer = self._answers[number] = Deferred()
        self._channel.send(AskMetrics(number))
        return answer

    def message_received(self, message: Message, connection: socket.socket | None) -> None:
        """See `tailproxy.workers.channel.Owner`."""
        match message:
            case Load():
                self._taken, self._open = message.taken, message.open
            case Standings():
                self.checks = message.checks
            case Figures():
                self._counted(message)
            case Ready():
                self.ready = self._welcoming = True
                self._chief.worker_ready(self)
            case Leaving():
                self.ready = False
                self._chief.worker_leaving(self)
            case Adopted() if self._orders:
                _answer(self._orders.popleft(), message.problem)
            case Failed():
                self._failure = message.reason
            case _:
                self._log.error("worker {number} has lost step", number=self.number)
                self.kill()

    def _counted(self, figures: Figures) -> None:
        self.families = unpack(figures.families)
        waiting = self._answers.pop(figures.number, None)
        if waiting is not None:
            _answer(waiting, self.families)

    def channel_emptied(self) -> None:
        """See `tailproxy.workers.channel.Owner`."""
        self._chief.worker_roomy(self)

    def channel_lost(self, reason: str) -> None:
        """See `tailproxy.workers.channel.Owner`. Most often it has just ended."""
        self.ready = False
        self._chief.worker_silent(self)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Its log lines, and what it says past its log."""
        if childFD == 1:
            block = self._lines.receive_data(data)
            if block:
                self._write(block)
        else:
            self._complain(self._complaints.receive_data(data))

    def _complain(self, block: bytes) -> None:
        for line in block.decode(errors="replace").splitlines():
            self._log.error("worker {number} says: {line}", number=self.number, line=line)

    def processExited(self, reason: Failure) -> None:
        """It is gone; its pipes may still hold something."""
        self._closing = self._reactor.callLater(_LAST_WORDS, self._close_pipes)

    def _close_pipes(self) -> None:
        self._closing = None
        if self.transport is not None:
            self.transport.loseConnection()

    def processEnded(self, reason: Failure) -> None:
        """It is gone, and everything it said is here."""
        if self._closing is not None:
            self._closing.cancel()
        self.ready = False
        self._channel.doRead()
        self._channel.close()
        rest = self._lines.rest()
        if rest:
            self._write(rest)
        self._complain(self._complaints.rest())
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            _answer(answer, self.families)
        while self._orders:
            _answer(self._orders.popleft(), f"worker {self.number} has ended meanwhile")
        self._chief.worker_ended(self, self._last(reason), self._channel.take_unsent())

    def _last(self, reason: Failure) -> str:
        if self._failure:
            return self._failure
        value: Any = reason.value
        number = getattr(value, "signal", None)
        if number is not None:
            return f"signal {signal.Signals(number).name}"
        return f"exit status {getattr(value, 'exitCode', None)}"


def _answer(waiting: Deferred[Any], answer: object) -> None:
    if not waiting.called:  # else it was too late
        waiting.callback(answer)
