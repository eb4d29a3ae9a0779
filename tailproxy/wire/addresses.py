"""IP addresses of a tailnet: which ranges they come from and in which form we keep them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

import attrs

IPAddress: TypeAlias = IPv4Address | IPv6Address

_TAILNET_4 = IPv4Network("100.64.0.0/10")
_CHROME_OS_4 = IPv4Network("100.115.92.0/23")  # inside the range above, but never a tailnet's
_TAILNET_6 = IPv6Network("fd7a:115c:a1e0::/48")


def unmapped(address: IPAddress) -> IPAddress:
    """Return the IPv4 address inside an IPv4-mapped IPv6 address, any other address as it is.

    :param address: for example ``::ffff:100.64.0.1``, which becomes ``100.64.0.1``.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_tailnet_address(address: IPAddress) -> bool:
    """Tell whether an address can belong to a tailnet node or Service (dataplane.md 0).

    :param address: of either family; an IPv4-mapped one is judged by the IPv4 address inside.
    """
    plain = unmapped(address)
    if isinstance(plain, IPv4Address):
        return plain in _TAILNET_4 and plain not in _CHROME_OS_4
    return plain in _TAILNET_6


@attrs.frozen
class AddressPort:
    """An IP address with a port.

    :ivar address: never IPv4-mapped when it comes from `parse`.
    :ivar port: 1 to 65535.
    """

    address: IPAddress
    port: int

    @classmethod
    def parse(cls, text: str) -> AddressPort:
        """Read ``192.0.2.1:80`` or ``[2001:db8::1]:80``.

        :raises ValueError: for a host name, a missing or bad port, or IPv6 without brackets.
        """
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5:
            raise ValueError(f"{text!r} is not of the form IP:PORT")
        number = int(port)
        if not 0 < number < 65536:
            raise ValueError(f"the port of {text!r} is not between 1 and 65535")
        try:
            address = ip_address(host[1:-1] if bracketed else host)
        except ValueError:
            raise ValueError(f"{text!r} is not of the form IP:PORT") from None
        if bracketed != (address.version == 6):
            raise ValueError(f"{text!r}: IPv6 addresses, and only those, stand in brackets")
        return cls(unmapped(address), number)

    def __str__(self) -> str:
        """Return the form that `parse` reads."""
        if self.address.version == 6:
            return f"[{self.address}]:{self.port}"
        return f"{self.address}:{self.port}"
