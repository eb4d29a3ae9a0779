"""Which addresses are a tailnet's, and how addresses with ports are written."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.addresses import AddressPort, is_tailnet_address, unmapped


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100.63.255.255", False),
        ("100.64.0.0", True),
        ("100.115.91.255", True),
        ("100.115.92.0", False),
        ("100.115.93.255", False),
        ("100.115.94.0", True),
        ("100.127.255.255", True),
        ("100.128.0.0", False),
        ("10.0.0.1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("fd7a:115c:a1e0::", True),
        ("fd7a:115c:a1e0:ffff:ffff:ffff:ffff:ffff", True),
        ("fd7a:115c:a1e1::", False),
        ("::1", False),
        ("::", False),
        ("::ffff:100.64.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("::ffff:100.115.92.1", False),
        ("64:ff9b::6440:1", False),
    ],
)
def test_only_the_ranges_of_a_tailnet_are_a_tailnets(text, expected):
    assert is_tailnet_address(ip_address(text)) is expected


def test_only_mapped_addresses_change_family():
    assert unmapped(ip_address("::ffff:100.64.0.1")) == ip_address("100.64.0.1")
    assert unmapped(ip_address("::1")) == ip_address("::1")
    assert unmapped(ip_address("100.64.0.1")) == ip_address("100.64.0.1")


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_address_with_a_port_is_read_back_as_it_is_written(address, port):
    pair = AddressPort(unmapped(address), port)
    assert AddressPort.parse(str(pair)) == pair


@pytest.mark.parametrize(
    "text",
    [
        "",
        "100.64.0.1",
        "100.64.0.1:",
        "100.64.0.1:0",
        "100.64.0.1:65536",
        "100.64.0.1:+80",
        "100.64.0.1:\u0668\u0660",
        "100.64.0.1:000080",
        "[100.64.0.1]:80",
        "fd7a:115c:a1e0::1:80",
        "[fd7a:115c:a1e0::1]",
        "rec.corp-cat.ts.net:80",
        ":80",
    ],
)
def test_anything_but_an_ip_address_with_a_port_is_refused(text):
    with pytest.raises(ValueError):
        AddressPort.parse(text)
