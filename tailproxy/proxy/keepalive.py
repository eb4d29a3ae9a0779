"""How a peer that vanished without a word is noticed: TCP's keep-alive probes.

A forgotten watch must not live on (spec/dataplane.md 1.11), and a machine that was switched off
says no goodbye.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

# Dead after 30 s of silence and three probes without an answer, 10 s apart.
_OPTIONS = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


def watch_peer(transport: Any) -> None:
    """Have the system look after the peer, and send small writes at once.

    :param transport: a TCP connection of the reactor, or TLS on top of one.
    """
    with suppress(OSError):  # it may be gone already, which the reactor will tell
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        for name, value in _OPTIONS.items():
            if hasattr(socket, name):  # not every system has all three
                transport.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
