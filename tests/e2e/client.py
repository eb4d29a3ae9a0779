"""A client that says exactly what a test wants, at the `serve` listener itself.

It plays tailscaled's part: connects to the loopback port and puts a PROXY header in front.
"""

from __future__ import annotations

import http.client
import json
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from tests.lab.lab import Lab
    from tests.lab.service import Service


def proxy_header(source: str, port: int = 50000) -> bytes:
    """A PROXY v2 header as tailscaled writes it (spec/dataplane.md 5.1)."""
    address = ip_address(source)
    family, mine = (0x11, "100.64.0.9") if address.version == 4 else (0x21, "fd7a:115c:a1e0::9")
    body = address.packed + ip_address(mine).packed + struct.pack("!HH", port, 8443)
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, family, len(body)) + body


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
