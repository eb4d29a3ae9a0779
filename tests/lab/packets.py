"""Packets that would have left the machine, had the lab's network namespace a way out.

The default route of the namespace ends at a device that leads nowhere. What is sent to an address
that is not of the namespace goes there, whole and unanswered, and a packet socket (packet(7)) on
that device sees it. Traffic of the lab itself never comes that way.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from tests.lab.network import Network

ETH_P_ALL = 0x0003
ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
#: The kernel's own talk when a device comes up: group memberships and routers (RFC 3810, 4861).
_TAILNET = ipaddress.ip_network("100.64.0.0/10")
_ICMP = 1
_IGMP, _HOP_BY_HOP, _ICMPV6 = 2, 0, 58
_PROTOCOLS = {_ICMP: "icmp", 6: "tcp", 17: "udp"}
_WITH_PORTS = (6, 17)
_LONGEST = 65536


def describe(kind: int, packet: bytes) -> str | None:
    """A packet in words, such as ``udp to 192.0.2.1:53``; None if it is no stray.

    No stray is what the kernel sends of its own accord: IGMP and ICMPv6 to groups of the link, and
    a last ICMP for an address of the tailnet when the interface of a node there has just gone.

    :param kind: its EtherType.
    :param packet: from the IP header on.
    """
    if kind == ETH_P_IP and len(packet) >= 20:
        protocol, offset = packet[9], (packet[0] & 0x0F) * 4
        target = ipaddress.ip_address(packet[16:20])
        own = protocol == _IGMP or (protocol == _ICMP and target in _TAILNET)
    elif kind == ETH_P_IPV6 and len(packet) >= 40:
        protocol, offset = packet[6], 40
        target = ipaddress.ip_address(packet[24:40])
        own = protocol in {_HOP_BY_HOP, _ICMPV6} and target.is_multicast
    else:
        return f"EtherType {kind:#06x}"
    if own:
        return None
    name = _PROTOCOLS.get(protocol, f"protocol {protocol}")
    if protocol not in _WITH_PORTS or len(packet) < offset + 4:
        return f"{name} to {target}"
    (port,) = struct.unpack_from("!H", packet, offset + 2)
    return f"{name} to {f'[{target}]' if ':' in str(target) else target}:{port}"


class PacketWatch:
    """Sees each packet that is sent by a device, from now on.

    The kernel keeps what was seen until `strays` is called; a socket's buffer bounds it, and that
    there was something is known in any case.

    :param network: the namespace (root).
    :param device: a device that only strays come to.
    """

    def __init__(self, network: Network, device: str) -> None:
        self._socket = network.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM)
        self._socket.bind((device, ETH_P_ALL))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def strays(self) -> list[str]:
        """What was sent since the last call, in words, each once."""
        found: dict[str, None] = {}
        while True:
            try:
                packet, (_, kind, *_rest) = self._socket.recvfrom(_LONGEST)
            except BlockingIOError:
                return list(found)
            if (words := describe(kind, packet)) is not None:
                found[words] = None

    def close(self) -> None:
        """Watch no more."""
        self._socket.close()
