"""A small client of tailscaled's LocalAPI, on its unix socket."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.lab.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 30.0


@dataclass(frozen=True)
class LocalApi:
    """One tailscaled.

    :ivar path: its socket.
    """

    path: Path

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """One request, *path* below ``/localapi/v0/``: status and body of the answer.

        :param body: sent as JSON unless None.
        :raises OSError: tailscaled is not there.
        """
        connection = http.client.HTTPConnection("local-tailscaled.sock")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(SECONDS)
            connection.sock.connect(str(self.path))
            data = None if body is None else json.dumps(body)
            connection.request(method, f"/localapi/v0/{path}", data)
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise OSError(f"{self.path}: {error!r}") from error
        finally:
            connection.close()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """What tailscaled answers: JSON as objects, None for nothing.

        :raises LabError: it refused; with its own words.
        :raises OSError: it is not there.
        """
        status, answer = self.send(method, path, body)
        if status >= 400:
            text = answer.decode(errors="replace").strip()
            raise LabError(f"tailscaled at {self.path} answered {status} to {path}: {text}")
        return json.loads(answer) if answer.strip() else None

    def running(self) -> bool:
        """Whether it is connected to its tailnet."""
        return bool(self.call("GET", "status?peers=false")["BackendState"] == "Running")

    def whois(self, address: str) -> dict[str, Any] | None:
        """Who has an address, ``IP`` or ``IP:PORT``; None if nobody."""
        status, answer = self.send("GET", f"whois?addr={quote(address)}")
        if status == 404:
            return None
        if status != 200:
            raise LabError(f"WhoIs of {address}: {status} {answer.decode(errors='replace')}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def certificate(self, name: str) -> tuple[bytes, bytes]:
        """Key and certificate chain for a name of the node, PEM; issued if it has none yet."""
        status, answer = self.send("GET", f"cert/{name}?type=pair")
        if status != 200:
            raise LabError(f"no certificate for {name}: {answer.decode(errors='replace').strip()}")
        mark = b"-----BEGIN CERTIFICATE-----"
        key, first, rest = answer.partition(mark)
        return key, first + rest
