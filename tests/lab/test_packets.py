"""Packets in words, and which of them are strays."""

from __future__ import annotations

import ipaddress
import struct

import pytest

from tests.lab.packets import ETH_P_IP, ETH_P_IPV6, describe


def ipv4(target: str, protocol: int, payload: bytes, options: bytes = b"") -> bytes:
    header = bytes([0x40 | (5 + len(options) // 4), 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0])
    return header + bytes([10, 77, 0, 1]) + ipaddress.ip_address(target).packed + options + payload


def ipv6(target: str, protocol: int, payload: bytes) -> bytes:
    header = bytes([0x60, 0, 0, 0, 0, len(payload), protocol, 64])
    return header + bytes(16) + ipaddress.ip_address(target).packed + payload


PORTS = struct.pack("!HH", 40000, 53)


@pytest.mark.parametrize(
    ("kind", "packet", "words"),
    [
        (ETH_P_IP, ipv4("192.0.2.1", 17, PORTS), "udp to 192.0.2.1:53"),
        (ETH_P_IP, ipv4("192.0.2.1", 6, PORTS, options=bytes(8)), "tcp to 192.0.2.1:53"),
        (ETH_P_IP, ipv4("192.0.2.1", 1, b"\x08\x00"), "icmp to 192.0.2.1"),
        (ETH_P_IP, ipv4("192.0.2.1", 50, b""), "protocol 50 to 192.0.2.1"),
        # Port mapping asks a group of the link: that is somebody's doing.
        (ETH_P_IP, ipv4("239.255.255.250", 17, PORTS), "udp to 239.255.255.250:53"),
        (ETH_P_IPV6, ipv6("2001:db8::1", 17, PORTS), "udp to [2001:db8::1]:53"),
        (ETH_P_IPV6, ipv6("2001:db8::1", 58, b"\x80\x00"), "protocol 58 to 2001:db8::1"),
        (0x0806, bytes(28), "EtherType 0x0806"),
        (ETH_P_IP, b"\x45", "EtherType 0x0800"),
    ],
)
def test_a_stray_is_named_by_protocol_and_target(kind: int, packet: bytes, words: str) -> None:
    assert describe(kind, packet) == words


@pytest.mark.parametrize(
    ("kind", "packet"),
    [
        (ETH_P_IP, ipv4("224.0.0.22", 2, b"\x22")),
        (ETH_P_IP, ipv4("100.100.100.100", 1, b"\x03\x01")),
        (ETH_P_IPV6, ipv6("ff02::16", 0, bytes(8))),
        (ETH_P_IPV6, ipv6("ff02::2", 58, b"\x85")),
    ],
)
def test_what_the_kernel_says_when_a_device_comes_up_is_no_stray(kind: int, packet: bytes) -> None:
    assert describe(kind, packet) is None
