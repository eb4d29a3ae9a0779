"""The PROXY v2 header that tailscaled writes, for clients that play its part."""

from __future__ import annotations

import struct
from ipaddress import ip_address


def proxy_header(source: str, port: int = 50000) -> bytes:
    """The header of a caller at *source*, a tailnet address (spec/dataplane.md 5.1)."""
    address = ip_address(source)
    family, mine = (0x11, "100.64.0.9") if address.version == 4 else (0x21, "fd7a:115c:a1e0::9")
    body = address.packed + ip_address(mine).packed + struct.pack("!HH", port, 8443)
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, family, len(body)) + body
