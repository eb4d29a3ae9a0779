"""Channels over WebSocket, one direction at a time."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.channels import ChannelReader, CloseSignal, Part, message
from tailproxy.wire.sessionevents import Unreadable
from tailproxy.wire.websocket import Control

from .conversation import whole_messages
from .encoders import WebSocketWriter, cut
from .golden import STREAMS, cases

RAW = "v4.channel.k8s.io"
BASE64 = "v4.base64.channel.k8s.io"
V5 = "v5.channel.k8s.io"


def read(subprotocol, *chunks, wanted=range(256)):
    reader = ChannelReader(subprotocol, wanted)
    return [each for chunk in chunks for each in reader.feed(chunk)]


def as_golden(each):
    match each:
        case CloseSignal(channel=channel):
            return ["close", channel]
        case Control(opcode=opcode, payload=payload):
            return ["control", opcode, payload.hex()]
        case (None, b""):
            return ["empty"]
        case (channel, data):
            return [channel, data.hex()]


@pytest.mark.parametrize(("given", "expected"), cases("ws_messages", STREAMS))
def test_golden(given, expected):
    events = read(given["sub"], *map(bytes.fromhex, given["chunks"]))
    if expected == {"error": True}:
        assert isinstance(events[-1], Unreadable)
        return
    *messages, rest = whole_messages(events)
    assert [as_golden(each) for each in messages] == expected
    assert rest == b""


class TestChannelReader:
    def test_parts_are_returned_as_they_come(self):
        data = WebSocketWriter(client=True).binary(b"\x00abcdef")
        assert read(RAW, data[:9], data[9:11], data[11:]) == [
            Part(0, b"ab", last=False),
            Part(0, b"cd", last=False),
            Part(0, b"ef", last=True),
        ]

    def test_channels_that_nobody_wants_are_passed_over(self):
        writer = WebSocketWriter(client=True)
        data = writer.binary(b"\x00typed") + writer.binary(b"\x04{}") + writer.binary(b"\x07x")
        assert read(RAW, data, wanted=(4,)) == [Part(4, b"{}", last=True)]

    def test_a_text_message_of_a_raw_protocol_is_read_all_the_same(self):
        data = WebSocketWriter(client=False).text("\x01hi")
        assert read(RAW, data) == [Part(1, b"hi", last=True)]

    def test_a_binary_message_of_a_base64_protocol_is_read_all_the_same(self):
        data = WebSocketWriter(client=False).binary(b"1aGk=")
        assert read(BASE64, data) == [Part(1, b"hi", last=True)]

    def test_line_ends_in_base64_mean_nothing(self):
        data = WebSocketWriter(client=False).text("1aG\r\nk=\n")
        assert read(BASE64, data) == [Part(1, b"hi", last=True)]

    @pytest.mark.parametrize(
        ("good", "text"),
        [
            (b"", "1a"),
            (b"hi", "1aGk=aGk="),
            (b"hi", "1aGk=a"),
            (b"foo", "1Zm9v*"),
            (b"foo", "1Zm9vZm9*Zm9v"),
            (b"", "1aGk-"),
            (b"", "1===="),
            (b"foo", "1Zm9v===="),
            (b"f", "1Zg====Zg"),
        ],
    )
    def test_what_is_no_base64_says_so_and_is_the_last(self, good, text):
        writer = WebSocketWriter(client=False)
        data = writer.text(text) + writer.text("1aGk=")
        for events in (read(BASE64, data), read(BASE64, *(bytes((byte,)) for byte in data))):
            *parts, last = events
            assert b"".join(part.data for part in parts) == good
            assert last == Unreadable("WebSocket: a message that is no base64")

    @pytest.mark.parametrize("payload", [b"\xff", b"\xff\x00\x01", b"\xff" + bytes(70_000)])
    def test_a_close_signal_names_one_channel(self, payload):
        (event,) = read(V5, WebSocketWriter(client=True).binary(payload))
        assert event == Unreadable("WebSocket: a close signal that does not name one channel")

    def test_a_close_signal_may_come_in_fragments(self):
        writer = WebSocketWriter(client=True)
        parts = (b"", False), (b"\xff", False), (b"", False), (b"\x00", True)
        assert read(V5, *(writer.binary(*part) for part in parts)) == [CloseSignal(0)]

    @pytest.mark.parametrize(
        ("subprotocol", "begun", "message"),
        [
            (RAW, b"", (None, b"")),
            (RAW, b"\x01", (1, b"")),
            (RAW, b"\x01ab", (1, b"ab")),
            (V5, b"\xff", CloseSignal(0)),
            (V5, b"\xff\x02", CloseSignal(2)),
            (BASE64, b"1", (1, b"")),
            (BASE64, b"1Z", (1, b"d")),
            (BASE64, b"1Zm", (1, b"f")),
            (BASE64, b"1Zm9", (1, b"fo")),
            (BASE64, b"1Zg=", (1, b"f")),
            (BASE64, b"1Zg==", (1, b"f")),
            (BASE64, b"1Zm9v", (1, b"foo")),
        ],
    )
    def test_a_message_that_has_begun_can_be_ended(self, subprotocol, begun, message):
        reader = ChannelReader(subprotocol)
        assert reader.farewell() == b""
        events = reader.feed(WebSocketWriter(client=False).binary(begun, last=False))
        events += reader.feed(reader.farewell())
        assert whole_messages(events) == [message, b""]
        assert reader.farewell() == b""

    @pytest.mark.parametrize("subprotocol", ["", RAW, BASE64])
    def test_our_own_messages_can_be_read(self, subprotocol):
        data = message(subprotocol, 2, b"sorry\r\n") + message(subprotocol, 3, b"{}")
        assert read(subprotocol, data) == [
            Part(2, b"sorry\r\n", last=True),
            Part(3, b"{}", last=True),
        ]


subprotocols = st.sampled_from(["", "channel.k8s.io", BASE64, RAW, V5])


@st.composite
def conversations(draw, subprotocol):
    """Make the bytes of one direction, most of them in order."""
    writer = WebSocketWriter(client=draw(st.booleans()))
    data = b""
    for _ in range(draw(st.integers(0, 6))):
        if draw(st.booleans()):
            channel = draw(st.sampled_from([0, 1, 2, 3, 4, 255, 7]))
            payload = draw(st.binary(max_size=30))
            if "base64" in subprotocol:
                text = (
                    b"%d" % (channel % 10) + b64encode(payload) + draw(st.sampled_from([b"", b"="]))
                )
            else:
                text = bytes((channel,)) + payload
            fragments = cut(text, *draw(st.lists(st.integers(0, 50), max_size=3)))
            for at, fragment in enumerate(fragments, 1):
                data += writer.binary(fragment, at == len(fragments))
                if draw(st.booleans()):
                    data += writer.ping(b"p")
        else:
            data += draw(st.one_of(st.just(writer.binary(b"")), st.binary(max_size=3)))
    return data


@given(st.data(), subprotocols, st.lists(st.integers(0, 1 << 16), max_size=30))
def test_any_split_gives_the_same_messages(data, subprotocol, places):
    conversation = data.draw(conversations(subprotocol))
    expected = whole_messages(read(subprotocol, conversation))
    assert whole_messages(read(subprotocol, *cut(conversation, *places))) == expected
    one_by_one = (conversation[at : at + 1] for at in range(len(conversation)))
    assert whole_messages(read(subprotocol, *one_by_one)) == expected
