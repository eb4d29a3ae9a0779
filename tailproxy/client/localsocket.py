"""The same on a unix socket of this machine."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from urllib3 import HTTPConnectionPool, Timeout, exceptions
from urllib3.connection import HTTPConnection

from tailproxy.client.connection import Asking, reason

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS = 30.0
_HOST = "localhost"


class LocalConnection(Asking):
    """Asks a service of this machine.

    :param path: of its socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

        class Through(HTTPConnection):
            """A connection of urllib3's that is made to the socket."""

            def connect(self) -> None:
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.settimeout(_SECONDS)
                try:
                    self.sock.connect(str(path))
                except OSError as error:
                    self.sock.close()
                    raise exceptions.NewConnectionError(self, str(error)) from error

        pool = HTTPConnectionPool(_HOST, timeout=Timeout(_SECONDS), retries=False, maxsize=1)
        pool.ConnectionCls = Through
        super().__init__(pool, "")

    def close(self) -> None:
        """See `Asking.close`."""
        self._pool.close()

    def explained(self, error: exceptions.HTTPError) -> str:
        """See `Asking.explained`."""
        if isinstance(error, exceptions.NewConnectionError):
            return (
                f"cannot connect to {self._path}: {reason(error)}; see whether tailproxy runs here "
                "with a recorder, and whether you are root or of its group"
            )
        return f"{self._path} gave no answer: {reason(error)}; see the log of tailproxy"
