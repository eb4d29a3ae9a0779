"""Where clients of a measurement come in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Way(Enum):
    """How clients reach a proxy; the value is the suffix of a workload's name."""

    #: The loopback port behind tailscaled: a PROXY v2 header, then plain HTTP.
    PLAIN = ""
    #: A port at which the proxy ends TLS itself.
    TLS = "-tls"
    #: The whole tailnet: the caller's tailscaled, the proxy's, and TLS from end to end.
    TAILNET = "-tailnet"


@dataclass(frozen=True)
class Door:
    """One such place, as ``load`` is told of it.

    :ivar url: scheme and authority of the requests.
    :ivar dial: ``HOST:PORT`` to connect to.
    :ivar source: ``IP:PORT`` that a PROXY header names; None for no header.
    :ivar via: ``HOST:PORT`` of an HTTP proxy that leads there.
    :ivar ca: file of who vouches for the certificate, with TLS.
    :ivar name: what the certificate is for, if not the URL's host.
    :ivar client: client certificate and its key.
    """

    url: str
    dial: str
    source: str | None = None
    via: str | None = None
    ca: Path | None = None
    name: str | None = None
    client: tuple[Path, Path] | None = None

    def words(self, path: str) -> list[str]:
        """Arguments of ``load`` for requests of a path at this door."""
        pairs = {
            "-url": self.url + path,
            "-dial": self.dial,
            "-from": self.source,
            "-via": self.via,
            "-ca": self.ca,
            "-name": self.name,
            "-cert": self.client and self.client[0],
            "-key": self.client and self.client[1],
        }
        return [str(word) for pair in pairs.items() if pair[1] is not None for word in pair]
