"""A client that says exactly what a test wants, at the `serve` listener itself.

It plays tailscaled's part: connects to the loopback port and puts a PROXY header in front.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.proxyheader import proxy_header

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from tests.lab.lab import Lab
    from tests.lab.service import Service


@dataclass(frozen=True)
class Answer:
    """An answer as it came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)


def connect(lab: Lab, service: Service, source: str) -> socket.socket:
    """A connection to the `serve` listener from a tailnet address."""
    sock = lab.cluster.network.connect(service.listeners["serve"], timeout=30)
    sock.sendall(proxy_header(source))
    return sock


def ask(
    lab: Lab,
    service: Service,
    source: str,
    path: str,
    headers: Iterable[tuple[str, str]] = (),
    *,
    method: str = "GET",
    body: bytes | None = None,
) -> Answer:
    """One request from a tailnet address; headers are sent as given, repetitions included."""
    connection = http.client.HTTPConnection("kube.example")
    connection.sock = connect(lab, service, source)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, response.getheaders(), response.read())
    finally:
        connection.close()


def address_of(lab: Lab, caller: str) -> str:
    """The IPv4 tailnet address of a caller."""
    return lab.tailnet.nodes[caller].addresses[0]
