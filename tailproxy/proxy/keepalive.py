"""How a peer that vanished without a word is noticed: TCP's keep-alive probes.

A forgotten watch must not live on (spec/dataplane.md 1.11), and a machine that was switched off
says no goodbye.
"""

from __future__ import annotations

import socket
from contextlib import suppress

# Dead after 30 s of silence and three probes without an answer, 10 s apart. Not every system has
# all of these.
_OPTIONS = [
    (getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
]


def watch_peer(connection: socket.socket) -> None:
    """Have the system look after the peer, and send small writes at once.

    :param connection: of TCP.
    """
    with suppress(OSError):  # it may be gone already, which the reactor will tell
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _OPTIONS:
            connection.setsockopt(socket.IPPROTO_TCP, name, value)
