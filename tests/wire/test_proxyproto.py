"""The PROXY v2 header: what serve sends is read, everything else is refused."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.proxyproto import (
    NEED_DATA,
    SIGNATURE,
    ProxyHeaderReader,
    ProxyProtocolError,
    Source,
)

V4 = "2111000c 64656667 64400009 c822 0050"
V6 = "21210024 fd7a115ca1e000000000000000000001 fd7a115ca1e000000000000000000002 9c40 1f90"
ADA = Source(IPv4Address("100.101.102.103"), 51234)


def header(text):
    return SIGNATURE + bytes.fromhex(text)


P1 = header(V4)
P3 = header(V6)


def refusal(data):
    with pytest.raises(ProxyProtocolError) as caught:
        ProxyHeaderReader().receive_data(data)
    assert str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize(
    ("data", "source"),
    [
        pytest.param(P1, ADA, id="dp_P1"),
        pytest.param(
            header("2111000c 64400001 64400002 0001 ffff"),
            Source(IPv4Address("100.64.0.1"), 1),
            id="dp_P2",
        ),
        pytest.param(P3, Source(IPv6Address("fd7a:115c:a1e0::1"), 40000), id="dp_P3"),
        pytest.param(header("2111000f 64656667 64400009 c822 0050 040000"), ADA, id="dp_P6"),
        pytest.param(
            header(
                "21210024 00000000000000000000ffff64400001"
                "00000000000000000000ffff64400002 0001 0050"
            ),
            Source(IPv4Address("100.64.0.1"), 1),
            id="dp_P15",
        ),
        pytest.param(header("2111040c" + V4[8:] + "00" * 1024), ADA, id="most_tlv"),
    ],
)
def test_a_header_of_serve_names_the_caller(data, source):
    reader = ProxyHeaderReader()
    assert reader.receive_data(data) == source
    assert reader.trailing_data == b""
    reader.receive_eof()  # dp_P16: an end behind the header is no error


def test_dp_P4_bytes_behind_the_header_are_kept():
    request = b"GET /api HTTP/1.1\r\nHost: k\r\n\r\n"
    reader = ProxyHeaderReader()
    assert reader.receive_data(P1 + request) == ADA
    assert reader.trailing_data == request


@pytest.mark.parametrize("data", [P1, P3])
def test_dp_P5_the_header_may_come_byte_by_byte(data):
    reader = ProxyHeaderReader()
    for at in range(len(data) - 1):
        assert reader.receive_data(data[at : at + 1]) is NEED_DATA
    assert isinstance(reader.receive_data(data[-1:]), Source)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(header("20000000"), "local", id="dp_P7"),
        pytest.param(header("2112000c" + V4[8:]), "family", id="dp_P8_udp"),
        pytest.param(header("213100d8" + "00" * 216), "family", id="dp_P8_unix"),
        pytest.param(header("21000000"), "family", id="dp_P8_unspec"),
        pytest.param(header("2122" + V6[4:]), "family", id="udp6"),
        pytest.param(header("3111000c" + V4[8:]), "version", id="dp_P9"),
        pytest.param(header("1111000c" + V4[8:]), "version", id="version_1_in_binary"),
        pytest.param(header("2211000c" + V4[8:]), "command", id="unknown_command"),
        pytest.param(header("2111000b" + V4[8:]), "short-length", id="dp_P10_v4"),
        pytest.param(header("21210023" + V6[8:]), "short-length", id="dp_P10_v6"),
        pytest.param(header("2111040d"), "long-length", id="tlv_over_1_KiB"),
        pytest.param(b"PROXY TCP4 100.64.0.1 100.64.0.2 1 80\r\n", "version-1", id="dp_P11"),
        pytest.param(b"GET / HTTP/1.1\r\n", "no-signature", id="dp_P12"),
        pytest.param(b"POST / HTTP/1.1\r\n", "no-signature", id="post"),
        pytest.param(b"\x16\x03\x01\x02\x00", "no-signature", id="tls_hello"),
        pytest.param(header("2111000c 0a000001 64400009 c822 0050"), "source-address", id="dp_P13"),
        pytest.param(
            header("2111000c 7f000001 64400009 c822 0050"), "source-address", id="dp_P13_loopback"
        ),
        pytest.param(
            header("2111000c 00000000 64400009 c822 0050"), "source-address", id="unspecified"
        ),
        pytest.param(header("2121 0024" + "00" * 36), "source-address", id="unspecified_6"),
        pytest.param(
            header("21210024 00000000000000000000ffff0a000001" + "00" * 16 + "0001 0050"),
            "source-address",
            id="mapped_outside",
        ),
        pytest.param(header("2111000c 64656667 64400009 0000 0050"), "source-port", id="port_0"),
    ],
)
def test_anything_else_is_refused_with_its_reason(data, reason):
    assert refusal(data) == reason


def test_dp_P14_an_incomplete_header_waits():
    reader = ProxyHeaderReader()
    assert reader.receive_data(P1[:20]) is NEED_DATA
    with pytest.raises(ProxyProtocolError) as caught:
        reader.receive_eof()
    assert caught.value.reason == "eof"


def test_an_end_before_the_first_byte_is_no_error():
    ProxyHeaderReader().receive_eof()


def test_a_wrong_byte_is_refused_before_the_rest_arrives():
    assert refusal(b"G") == "no-signature"
    assert refusal(SIGNATURE[:5] + b"x") == "no-signature"
    assert refusal(header("20")) == "local"
    assert refusal(header("2112")) == "family"


def outcome(pieces):
    """Read pieces to the first result: source and rest, the reason of a refusal, or neither."""
    reader = ProxyHeaderReader()
    rest = iter(pieces)
    for piece in rest:
        try:
            result = reader.receive_data(piece)
        except ProxyProtocolError as error:
            return error.reason
        if result is not NEED_DATA:
            return result, reader.trailing_data + b"".join(rest)
    return None


starts = st.sampled_from(
    [P1, P3, header("20000000"), header("2111000b"), b"PROXY TCP4 ", b"GET /", SIGNATURE]
)


@given(starts, st.binary(max_size=60), st.lists(st.integers(0, 120), max_size=20))
def test_no_split_changes_the_result(start, rest, cuts):
    data = start + rest
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]
    assert outcome(pieces) == outcome([data])
    assert outcome([data[at : at + 1] for at in range(len(data))]) == outcome([data])


@given(st.binary(max_size=80), st.booleans())
def test_bytes_are_read_or_refused_and_nothing_else(data, signed):
    if signed:
        data = SIGNATURE + data
    result = outcome([data])
    assert result is None or isinstance(result, (str, tuple))
