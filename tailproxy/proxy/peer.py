"""Which user of this machine is at the other end of a loopback connection.

Any local process that can open the `serve` port could put a PROXY header of its own making in
front and be any caller. So the port is for the user whom tailscaled runs as, and for root, who can
be that user anyway (spec/dataplane.md 5.2).

Linux answers by its socket diagnostics (`NETLINK_SOCK_DIAG`, sock_diag(7)): one question about
one connection, answered by the kernel at once. Elsewhere nobody can be asked, and the check is
not made.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from twisted.logger import Logger

if TYPE_CHECKING:
    from pathlib import Path

# From linux/netlink.h and linux/sock_diag.h, linux/inet_diag.h.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_HEADER = struct.Struct("=IHHII")
_ALL_STATES = 0xFFFFFFFF
_ANY_COOKIE = 0xFFFFFFFF
# Offset of the user id in an answer: header, four bytes, the 48 of the socket's id, three numbers.
_UID = struct.Struct("=I")
_UID_AT = _HEADER.size + 4 + 48 + 12
_SECONDS = 1.0


class SocketOwners:
    """Asks the kernel for the owner of a TCP socket of this network namespace.

    :raises OSError: this kernel has no socket diagnostics, or they may not be asked.
    """

    def __init__(self) -> None:
        self._netlink = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
        )
        self._netlink.settimeout(_SECONDS)
        self._number = 0

    def owner(self, local: tuple[str, int], remote: tuple[str, int]) -> int | None:
        """The user id of the socket with these two ends, or None if there is none.

        :param local: literal address and port of the end that is asked about.
        :param remote: the same of its other end.
        :raises OSError: the kernel does not answer.
        """
        family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
        self._number += 1
        question = (
            struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, _ALL_STATES)
            + struct.pack("!HH", local[1], remote[1])
            + socket.inet_pton(family, local[0]).ljust(16, b"\0")
            + socket.inet_pton(family, remote[0]).ljust(16, b"\0")
            + struct.pack("=III", 0, _ANY_COOKIE, _ANY_COOKIE)
        )
        size = _HEADER.size + len(question)
        self._netlink.sendto(
            _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, self._number, 0) + question,
            (0, 0),
        )
        while True:
            answer = self._netlink.recv(65536)
            _, kind, _, number, _ = _HEADER.unpack_from(answer)
            if number == self._number:  # else it is late, for a question that was given up
                break
        if kind != _SOCK_DIAG_BY_FAMILY:
            return None
        uid: int = _UID.unpack_from(answer, _UID_AT)[0]
        return uid

    def close(self) -> None:
        """Ask no more."""
        self._netlink.close()


class TailscaledOnly:
    """Lets in connections of tailscaled's user and of root.

    :param daemon_socket: tailscaled's LocalAPI socket; its owner is whom tailscaled runs as.
    """

    def __init__(self, daemon_socket: Path) -> None:
        self._log = Logger()
        self._daemon_socket = daemon_socket
        self._user: int | None = None
        self._owners: SocketOwners | None = None
        self._asked = False

    def admits(self, connection: socket.socket) -> bool:
        """Whether the connection comes from somebody who may write a PROXY header.

        Without tailscaled nobody gets any further, so until its socket has been seen the
        question is left to the answer that says so.
        """
        owners = self._open()
        if owners is None:
            return True
        try:
            self._user = self._daemon_socket.stat().st_uid
        except OSError:
            if self._user is None:
                return True
        try:
            peer, here = connection.getpeername(), connection.getsockname()
            owner = owners.owner(peer[:2], here[:2])
        except OSError as error:
            self._log.error("cannot see which local user connects: {reason}", reason=error)
            return False
        if owner in {0, self._user}:
            return True
        self._log.warn(
            "a process of user {owner} has connected to the serve listener and is refused: only"
            " tailscaled's user {user} may write PROXY headers",
            owner="unknown" if owner is None else owner,
            user=self._user,
        )
        return False

    def close(self) -> None:
        """Give back what asking took; asking again is possible."""
        if self._owners is not None:
            self._owners.close()
            self._owners = None
        self._asked = False

    def _open(self) -> SocketOwners | None:
        if not self._asked:
            self._asked = True
            try:
                self._owners = SocketOwners()
            except OSError as error:
                self._log.warn(
                    "cannot see which local user connects ({reason}), so every user of this"
                    " machine who can open the serve listener's port is trusted with it",
                    reason=error,
                )
        return self._owners
