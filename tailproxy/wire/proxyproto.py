"""PROXY protocol version 2, read strictly: the only part of it that tailscaled's serve sends.

The header decides who a caller is, so everything that serve never sends is refused, and what
the header says about the destination is not even read (dataplane.md 5).
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal

import attrs

from tailproxy.wire.addresses import IPAddress, is_tailnet_address, unmapped

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

_FIXED = 16  # signature, version and command, family, length
_MAX_TLV = 1024
_TEXT_FORM = b"PROXY "  # how the header of version 1 begins
_ADDRESS_BYTES = {0x11: 12, 0x21: 36}


class NeedData(Enum):
    """The type of `NEED_DATA`."""

    NEED_DATA = "need data"


NEED_DATA: Final = NeedData.NEED_DATA
"""The header is not complete yet."""

Reason = Literal[
    "no-signature",
    "version-1",
    "version",
    "local",
    "command",
    "family",
    "short-length",
    "long-length",
    "source-address",
    "source-port",
    "eof",
]


class ProxyProtocolError(Exception):
    """The connection does not begin with an acceptable header: close it without an answer.

    :ivar reason: a label for metrics.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@attrs.frozen
class Source:
    """Where the proxied connection comes from.

    :ivar address: a tailnet address.
    :ivar port: 1 to 65535.
    """

    address: IPAddress
    port: int


class ProxyHeaderReader:
    """Reads the header of one connection, in whatever pieces it arrives.

    How long that may take is for the caller to say (10 s after accept, dataplane.md 5.2).

    :ivar trailing_data: what came behind the header in the last piece; it belongs to HTTP.
    """

    def __init__(self) -> None:
        self._data = b""
        self.trailing_data = b""

    def receive_data(self, data: bytes) -> Source | Literal[NeedData.NEED_DATA]:
        """Take the next bytes of the connection. Not to be called again after a result.

        :raises ProxyProtocolError: as soon as the bytes cannot become an acceptable header.
        """
        self._data += data
        head = self._data
        if not head.startswith(SIGNATURE[: len(head)]):
            return self._not_ours(head)
        if len(head) > 12:
            _check_version(head[12])
        if len(head) > 13 and head[13] not in _ADDRESS_BYTES:
            raise ProxyProtocolError("family", "the header is not about TCP over IPv4 or IPv6")
        if len(head) < _FIXED:
            return NEED_DATA
        size = _ADDRESS_BYTES[head[13]]
        length = int.from_bytes(head[14:16])
        if length < size:
            raise ProxyProtocolError("short-length", "the header is too short for its addresses")
        if length > size + _MAX_TLV:
            raise ProxyProtocolError("long-length", "the header is longer than we read")
        if len(head) < _FIXED + length:
            return NEED_DATA
        self._data = b""
        self.trailing_data = head[_FIXED + length :]
        return _source(head[_FIXED : _FIXED + size])

    def receive_eof(self) -> None:
        """Note the end of the connection before the header was complete.

        :raises ProxyProtocolError: unless nothing at all had come, which is no error.
        """
        if self._data:
            raise ProxyProtocolError("eof", "the connection ended inside the header")

    @staticmethod
    def _not_ours(head: bytes) -> Literal[NeedData.NEED_DATA]:
        if head.startswith(_TEXT_FORM):
            raise ProxyProtocolError("version-1", "the header is of version 1")
        if not _TEXT_FORM.startswith(head):
            raise ProxyProtocolError("no-signature", "there is no header of version 2")
        return NEED_DATA


def _check_version(byte: int) -> None:
    if byte >> 4 != 2:
        raise ProxyProtocolError("version", f"the header is of version {byte >> 4}")
    if byte == 0x20:
        raise ProxyProtocolError("local", "the header names no source: its command is LOCAL")
    if byte != 0x21:
        raise ProxyProtocolError("command", "the command of the header is unknown")


def _source(block: bytes) -> Source:
    """Read the address block: source, destination, source port, destination port."""
    address: IPAddress
    address = IPv4Address(block[:4]) if len(block) == 12 else unmapped(IPv6Address(block[:16]))
    if not is_tailnet_address(address):
        raise ProxyProtocolError("source-address", f"{address} is no address of a tailnet")
    port = int.from_bytes(block[-4:-2])
    if port == 0:
        raise ProxyProtocolError("source-port", "the source port is 0")
    return Source(address, port)
