"""Log lines on their way from a worker to the supervisor's stream: whole, and without waiting."""

from __future__ import annotations

import errno
import json
import os
import select
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IWriteDescriptor
from twisted.logger import Logger, LogLevel
from zope.interface import implementer

if TYPE_CHECKING:
    from twisted.python.failure import Failure

# A line beyond this is cut; no event of ours comes near it.
LONGEST = 1 << 20
# What waits while the supervisor does not read. Beyond it lines are lost, and that is told.
WAITING_AT_MOST = 4 << 20
_LAST_SECONDS = 2.0


class WholeLines:
    """Keeps the beginning of a line until its end comes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def receive_data(self, data: bytes) -> bytes:
        """The lines that are complete now, as one block; maybe none."""
        end = data.rfind(b"\n") + 1
        if not end and self._size + len(data) <= LONGEST:
            self._keep(data)
            return b""
        block = b"".join((*self._parts, data[:end] if end else data + b"\n"))
        self._parts, self._size = [], 0
        if end and end < len(data):
            self._keep(data[end:])
        return block

    def rest(self) -> bytes:
        """What is left at the end, as a line."""
        parts, self._parts, self._size = self._parts, [], 0
        left = b"".join(parts)
        return left + b"\n" if left else b""

    def _keep(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)


def events(block: bytes) -> None:
    """Log again what JSON lines tell of, for an observer that wants events."""
    for line in block.splitlines():
        fields = json.loads(line)
        del fields["time"]
        logger = Logger(namespace=fields.pop("logger"))
        logger.emit(LogLevel.lookupByName(fields.pop("level")), "{message}", **fields)


@implementer(IWriteDescriptor)
class LinePipe:
    """The worker's end: a stream to write text to, which never makes its writer wait.

    :param descriptor: of the pipe's writing end; it is made non-blocking.
    """

    def __init__(self, reactor: Any, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._reactor = reactor
        self._descriptor = descriptor
        self._waiting = bytearray()
        self._lost = 0
        self._gone = False

    def write(self, text: str) -> int:
        """Take whole lines."""
        data = text.encode(errors="replace")
        if self._gone:
            return len(text)
        if len(self._waiting) + len(data) > WAITING_AT_MOST:
            self._lost += text.count("\n")
            return len(text)
        self._waiting += data
        return len(text)

    def take_lost(self) -> int:
        """How many lines were lost since the last time this was asked."""
        lost, self._lost = self._lost, 0
        return lost

    def flush(self) -> None:
        """Write what the pipe takes now; the rest goes when it takes more."""
        self.doWrite()

    def doWrite(self) -> None:
        """The pipe takes more."""
        try:
            while self._waiting:
                del self._waiting[: os.write(self._descriptor, self._waiting)]
        except BlockingIOError:
            self._reactor.addWriter(self)
            return
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            # The supervisor is gone, and nobody else reads.
            self._gone = True
            self._waiting.clear()
        self._reactor.removeWriter(self)

    def finish(self) -> None:
        """The reactor has stopped: write the rest now, for two seconds at most."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        while self._waiting and not self._gone and poll.poll(_LAST_SECONDS * 1000):
            self.doWrite()

    def fileno(self) -> int:
        """For the reactor."""
        return self._descriptor

    def connectionLost(self, reason: Failure) -> None:
        """For the reactor: nobody reads any more."""
        self._gone = True
        self._waiting.clear()

    def logPrefix(self) -> str:
        """For the reactor."""
        return "log"
