"""One end of the control channel: messages, and with some of them an open descriptor.

A descriptor is sent with the first byte of its message (SCM_RIGHTS, unix(7)), one for each
`sendmsg`. Linux ends a read behind the bytes that a descriptor came with, so a read brings at most
one; a descriptor that this process has no room for is missing, and that is noticed
(MSG_CTRUNC).
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.interfaces import IReadWriteDescriptor
from zope.interface import implementer

from tailproxy.workers.messages import Connection, ControlError, MessageReader, encode

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from tailproxy.workers.messages import Message

_READ = 65536
_ROOM = socket.CMSG_SPACE(array.array("i").itemsize)
# One turn of the loop must not go to one channel alone.
_READS_AT_ONCE = 64
# Too many descriptors are on their way, of all processes of this user together; the socket
# itself would take more, so the reactor cannot say when to go on.
_FULL = (errno.ETOOMANYREFS, errno.ENOMEM, errno.ENOBUFS)
_AGAIN = 0.02


class Owner(Protocol):
    """Hears what comes through a channel."""

    def message_received(self, message: Message, connection: socket.socket | None) -> None:
        """A message.

        :param connection: what came with a `Connection`; None if this process has no room for
            another descriptor.
        """

    def channel_emptied(self) -> None:
        """Everything that was to be sent has been."""

    def channel_lost(self, reason: str) -> None:
        """The other side is gone. Called once; never after `Channel.close`."""


@implementer(IReadWriteDescriptor)
class Channel:
    """A control channel.

    :param sock: one end of a pair of unix stream sockets; it belongs to the channel now.
    """

    def __init__(self, reactor: Any, sock: socket.socket, owner: Owner) -> None:
        sock.setblocking(False)
        self._reactor = reactor
        self._socket = sock
        self._owner = owner
        self._reader = MessageReader()
        self._descriptors: deque[int | None] = deque()
        self._queue: deque[tuple[bytes, socket.socket | None, str]] = deque()
        self._again: IDelayedCall | None = None
        self._open = True
        reactor.addReader(self)

    @property
    def waiting(self) -> int:
        """How many messages have not been sent."""
        return len(self._queue)

    def send(self, message: Message, connection: socket.socket | None = None) -> None:
        """Send a message, now or as soon as there is room.

        :param connection: goes with it, and is closed here once it is on its way.
        """
        name = message.listener if isinstance(message, Connection) else ""
        self._queue.append((encode(message), connection, name))
        if self._open and len(self._queue) == 1:
            self._write()

    def take_unsent(self) -> list[tuple[str, socket.socket]]:
        """The connections that were not sent, each with its listener; they are the caller's now."""
        found = [(name, sock) for _, sock, name in self._queue if sock is not None]
        self._queue.clear()
        return found

    def close(self) -> None:
        """Neither read nor write any more. What is unsent can still be taken."""
        if not self._open:
            return
        self._open = False
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._socket.close()
        for descriptor in self._descriptors:
            if descriptor is not None:
                os.close(descriptor)
        self._descriptors.clear()

    def doRead(self) -> None:
        """For the reactor: there is something."""
        for _ in range(_READS_AT_ONCE):
            if not self._open:
                return
            try:
                # Not `socket.recv_fds`, which keeps the flags to itself.
                data, ancillary, flags, _ = self._socket.recvmsg(
                    _READ, _ROOM, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(error.strerror or str(error))
                return
            descriptors = array.array("i", b"".join(body for _, _, body in ancillary))
            self._descriptors.extend(descriptors)
            if flags & socket.MSG_CTRUNC and not descriptors:
                self._descriptors.append(None)
            if not data:
                self._lose("closed")
                return
            try:
                messages = self._reader.receive_data(data)
            except ControlError as error:
                self._lose(str(error))
                return
            for message in messages:
                self._owner.message_received(message, self._companion(message))

    def _companion(self, message: Message) -> socket.socket | None:
        if not isinstance(message, Connection) or not self._descriptors:
            return None
        descriptor = self._descriptors.popleft()
        if descriptor is None:
            return None
        connection = socket.socket(fileno=descriptor)
        connection.setblocking(False)
        return connection

    def doWrite(self) -> None:
        """For the reactor: there is room."""
        self._write()

    def _write(self) -> None:
        while self._queue:
            data, connection, name = self._queue[0]
            try:
                if connection is None:
                    sent = self._socket.send(data)
                else:
                    sent = socket.send_fds(self._socket, [data], [connection.fileno()])
            except BlockingIOError:
                self._reactor.addWriter(self)
                return
            except OSError as error:
                self._reactor.removeWriter(self)
                # That the other side is gone the reader notices too, behind its last words.
                if error.errno in _FULL and self._again is None:
                    self._again = self._reactor.callLater(_AGAIN, self._try_again)
                return
            if connection is not None:
                connection.close()
            if sent < len(data):
                self._queue[0] = (data[sent:], None, name)
            else:
                self._queue.popleft()
        self._reactor.removeWriter(self)
        self._owner.channel_emptied()

    def _try_again(self) -> None:
        self._again = None
        self._write()

    def _lose(self, reason: str) -> None:
        self.close()
        self._owner.channel_lost(reason)

    def fileno(self) -> int:
        """For the reactor; -1 once it is closed."""
        return self._socket.fileno()

    def connectionLost(self, reason: Failure) -> None:
        """For the reactor: it found the socket unusable."""
        if self._open:
            self._lose(reason.getErrorMessage())

    def logPrefix(self) -> str:
        """For the reactor."""
        return "control"
