"""WebSocket frames, one direction at a time."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.sessionevents import Unreadable
from tailproxy.wire.websocket import (
    BINARY,
    CONTINUATION,
    MAX_FRAME,
    TEXT,
    Control,
    WebSocketReader,
    frame,
    turned,
    unmask,
)

from .conversation import whole_frames
from .encoders import WebSocketWriter, cut
from .golden import STREAMS, cases


def read(*chunks):
    reader = WebSocketReader()
    return [each for chunk in chunks for each in reader.feed(chunk)]


class TestGolden:
    @pytest.mark.parametrize(("chunks", "expected"), cases("ws_frames", STREAMS))
    def test_frames(self, chunks, expected):
        reader = WebSocketReader()
        events = [each for chunk in chunks for each in reader.feed(bytes.fromhex(chunk))]
        if expected == {"error": True}:
            assert [type(each) for each in events] == [Unreadable]
            return
        *frames, rest = whole_frames(events)
        shown = [
            {
                "fin": True,
                "op": each.opcode,
                "masked": each.masked,
                "payload": each.payload.hex(),
            }
            if isinstance(each, Control)
            else {"fin": each[3], "op": each[0], "masked": each[2], "payload": each[1].hex()}
            for each in frames
        ]
        assert shown == expected["frames"]
        assert (rest.hex(), reader.pending) == (expected["rest"], 0)


class TestWebSocketReader:
    @pytest.mark.parametrize("client", [True, False])
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 4095, 4096, 65535, 65536, 100_003])
    def test_every_length_masked_or_not(self, size, client):
        payload = bytes(range(256)) * (size // 256 + 1)
        data = WebSocketWriter(client).binary(payload[:size])
        *frames, rest = whole_frames(read(*cut(data, 1, 3, 11, 5000, 70_001)))
        assert frames == [(BINARY, payload[:size], client, True)]
        assert rest == b""

    def test_payload_is_handed_on_as_it_comes(self):
        data = WebSocketWriter(client=True).binary(b"abcdefg")
        reader = WebSocketReader()
        (first,) = reader.feed(data[:9])
        assert (first.payload(), first.frame_ends, reader.pending) == (b"abc", False, 9)
        (second,) = reader.feed(data[9:])
        assert (second.payload(), second.message_ends, reader.pending) == (b"defg", True, 0)

    def test_control_frames_may_stand_between_fragments(self):
        writer = WebSocketWriter(client=False)
        reader = WebSocketReader()
        events = reader.feed(writer.binary(b"a", last=False) + writer.ping(b"p"))
        assert reader.in_message
        events += reader.feed(writer.binary(b"b"))
        assert not reader.in_message
        assert whole_frames(events) == [
            (BINARY, b"a", False, False),
            Control(9, b"p", masked=False),
            (CONTINUATION, b"b", False, True),
            b"",
        ]

    @pytest.mark.parametrize(
        ("reason", "data"),
        [
            ("reserved bit", b"\xa2"),
            ("reserved bit", b"\x92\x00"),
            ("unknown type 3", b"\x83"),
            ("unknown type 11", b"\x8b"),
            ("in fragments", b"\x08"),
            ("more than 125", b"\x89\x7e"),
            ("more than 125", b"\x88\xff"),
            ("continuation of no message", b"\x80\x00"),
            ("a message inside another", b"\x02\x00\x82\x00"),
            (f"{MAX_FRAME + 1} bytes", b"\x82\x7f" + (MAX_FRAME + 1).to_bytes(8)),
            (f"{2**64 - 1} bytes", b"\x82\xff" + b"\xff" * 8),
        ],
    )
    def test_what_cannot_be_read_says_why_and_is_the_last(self, reason, data):
        reader = WebSocketReader()
        ping = frame(9, b"")
        first, *_, last = reader.feed(ping + data + ping)
        assert first == Control(9, b"", masked=False)
        assert isinstance(last, Unreadable)
        assert reason in last.reason
        assert reader.feed(ping) == []

    def test_state_is_bounded(self):
        reader = WebSocketReader()
        for _ in range(8):
            reader.feed(b"\x02\xff" + MAX_FRAME.to_bytes(8) + b"mask")
            for _ in range(MAX_FRAME // 65536):
                reader.feed(bytes(65536))
            reader.feed(b"\x80\x00")
        reader.feed(b"\x89\x7d" + bytes(124))
        assert reader.pending == 126
        assert sum(sys.getsizeof(value) for value in vars(reader).values()) < 1024

    @pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
    def test_our_own_frames_can_be_read(self, size):
        data = frame(TEXT, b"x" * size, final=False) + frame(CONTINUATION, b"")
        assert whole_frames(read(data)) == [
            (TEXT, b"x" * size, False, False),
            (CONTINUATION, b"", False, True),
            b"",
        ]


@given(st.binary(max_size=9000), st.binary(min_size=4, max_size=4), st.integers(0, 9000))
def test_a_part_can_be_unmasked_by_itself(data, key, at):
    masked = bytes(byte ^ key[place % 4] for place, byte in enumerate(data))
    assert unmask(masked, key) == data
    assert unmask(masked[at:], turned(key, at)) == data[at:]


@st.composite
def conversations(draw):
    """Make the bytes of one direction, most of them in order."""
    writers = st.sampled_from([WebSocketWriter(client=True), WebSocketWriter(client=False)])
    each = st.one_of(
        st.builds(lambda w, data, last: w.binary(data, last), writers, st.binary(), st.booleans()),
        st.builds(lambda w, data: w.ping(data), writers, st.binary(max_size=125)),
        st.builds(lambda w: w.close(), writers),
        st.binary(max_size=3).map(lambda data: b"\x82\x7f" + len(data).to_bytes(8) + data),
        st.builds(frame, st.sampled_from([0, 2]), st.binary(max_size=130), final=st.booleans()),
        st.binary(max_size=4),
    )
    return b"".join(draw(st.lists(each, max_size=12)))


@given(conversations(), st.lists(st.integers(0, 1 << 16), max_size=30))
def test_any_split_gives_the_same_frames(data, places):
    assert whole_frames(read(*cut(data, *places))) == whole_frames(read(data))


@given(conversations())
def test_bytes_one_by_one_give_the_same_frames(data):
    one_by_one = read(*(data[at : at + 1] for at in range(len(data))))
    assert whole_frames(one_by_one) == whole_frames(read(data))
