"""The object `Tailproxy.Recorder` of the configuration: a recorder of our own."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import attrs

from tailproxy.listener_options import ENDPOINT, Endpoint, ListenerKind, check_address
from tailproxy.schema import PATH, TEXT, Choice, Many, MisfitError, option, whole

_FOLDER = "/var/lib/tailproxy/recordings"


@attrs.frozen
class Recorder:
    """A recorder of our own: it takes recordings from proxies and keeps them."""

    senders: tuple[str, ...] = option(
        "From",
        Many(TEXT),
        'Whose recordings are taken: tags of nodes, such as "tag:k8s", or login names of users.'
        " It must be there.",
        default=(),
    )
    folder: Path = option("Folder", PATH, "Where they are kept.", default=Path(_FOLDER))
    kind: ListenerKind = option(
        "Kind",
        Choice(ListenerKind),
        "How proxies reach it. `serve`: behind tailscaled's serve for TCP, which sends a PROXY v2"
        " header; `tailnet`: on the node's own addresses (kernel networking); `loopback`: behind a"
        " tailscaled with userspace networking, without that header.",
        default=ListenerKind.SERVE,
    )
    address: Endpoint | None = option(
        "Address",
        ENDPOINT,
        "Where to listen. If left out: 127.0.0.2:8480 for `serve`, port 80 of the node's"
        " addresses for `tailnet`, 127.0.0.1:80 for `loopback`.",
    )
    socket: Path | None = option(
        "Socket",
        PATH,
        "A unix socket with pages of the recorded sessions, for root and the service's group. If"
        " left out, there is none.",
    )
    encrypt: tuple[str, ...] = option(
        "Encrypt",
        Many(TEXT),
        "Public keys of age (`age1…`): recordings are encrypted for them when they have ended. It"
        " takes the extra `age`.",
        default=(),
    )
    keep_days: int | None = option(
        "KeepDays",
        whole(1, 36500),
        "Delete what is older than so many days. If left out, nothing is too old.",
    )
    keep_bytes: int | None = option(
        "KeepBytes",
        whole(1048576, 2**60),
        "Delete the oldest recordings when all of them together are larger than so many bytes. If"
        " left out, there is no limit.",
    )
    free_bytes: int = option(
        "FreeBytes",
        whole(0, 2**60),
        "Take no new recordings while there are fewer bytes left on the disk.",
        default=256 * 1024 * 1024,
    )

    def __attrs_post_init__(self) -> None:
        """Nobody sends unless they are named, and the address is one for the kind."""
        if not all(self.senders) or not self.senders:
            raise MisfitError(("From",), 'at least one, such as ["tag:k8s"]')
        check_address(self.kind, self.endpoint.host)

    @property
    def endpoint(self) -> Endpoint:
        """Where to listen, the kind's default included."""
        if self.address is not None:
            return self.address
        return {
            ListenerKind.SERVE: Endpoint(ipaddress.IPv4Address("127.0.0.2"), 8480),
            ListenerKind.TAILNET: Endpoint(None, 80),
            ListenerKind.LOOPBACK: Endpoint(ipaddress.IPv4Address("127.0.0.1"), 80),
        }[self.kind]
