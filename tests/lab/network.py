"""Where a part of the lab can be reached: this machine's network, or a namespace of its own."""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tests.lab.errors import LabError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

CLONE_NEWNET = 0x40000000
#: Below the ports that Linux gives to outgoing connections, so that none of those takes one of
#: ours between its choice and its use (net.ipv4.ip_local_port_range starts at 32768).
PORTS = range(20000, 32000)


@dataclass(frozen=True)
class Network:
    """A network that processes of the lab live in.

    :ivar prefix: words to put in front of a command so that it runs there; empty for this
        machine's own network.
    :ivar namespace: the file of the network namespace, such as ``/run/netns/labnode``, or None.
    """

    prefix: tuple[str, ...] = ()
    namespace: Path | None = None

    def open_socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM
    ) -> socket.socket:
        """A new socket of this network.

        A socket stays in the namespace it was made in, so this process can use one of the lab's
        namespace without living there itself: a thread goes there, makes it, and ends.

        :raises OSError: the namespace cannot be entered (that takes root).
        """
        if self.namespace is None:
            return socket.socket(family, kind)
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(self._socket_inside, family, kind).result()

    def _socket_inside(self, family: int, kind: int) -> socket.socket:
        assert self.namespace is not None
        libc = ctypes.CDLL(None, use_errno=True)
        with self.namespace.open("rb") as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(self.namespace))
        return socket.socket(family, kind)

    def connect(self, address: tuple[str, int], timeout: float = 5.0) -> socket.socket:
        """A TCP connection to *address* (a numeric IPv4 or IPv6 address, a port) of this network.

        :param timeout: seconds, for the connection and for what is done with the socket later.
        :raises OSError: nothing answers there.
        """
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        sock = self.open_socket(family)
        try:
            sock.settimeout(timeout)
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock


#: The network of this machine.
MACHINE = Network()


class Ports:
    """Free ports, each kept from other labs of this machine until `close`.

    A port is held by a locked file, which the kernel unlocks when the process ends in whatever
    way; so two labs that start at once never choose the same one.

    :param folder: where those files are, the same for all labs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def take(self) -> int:
        """A port that nothing listens on at any IPv4 address.

        :raises LabError: no port of `PORTS` is free.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for port in random.sample(PORTS, len(PORTS)):
            if self._lock(port) and self._unused(port):
                return port
        raise LabError(
            f"no free port from {PORTS.start} to {PORTS.stop - 1}: end what holds them "
            f"(`ss -ltnp` lists it)"
        )

    def _lock(self, port: int) -> bool:
        file = (self._folder / str(port)).open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._held.append(file)
        return True

    @staticmethod
    def _unused(port: int) -> bool:
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("", port))
                udp.bind(("", port))
            except OSError:
                return False
        return True

    def close(self) -> None:
        """Let go of all ports taken."""
        while self._held:
            self._held.pop().close()
