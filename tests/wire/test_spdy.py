"""SPDY/3.1, one direction at a time."""

from __future__ import annotations

import hashlib
import sys
import zlib
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire import spdy
from tailproxy.wire.sessionevents import Unreadable
from tailproxy.wire.spdy import (
    DICTIONARY,
    MAX_BLOCK,
    MAX_CONTROL,
    Data,
    Headers,
    Ping,
    SpdyReader,
    SynReply,
    SynStream,
    data_frame,
    goaway_frame,
)

from .conversation import joined
from .encoders import SpdyWriter, cut
from .golden import STREAMS, cases

NAMES = {
    "SynStream": "SYN_STREAM",
    "SynReply": "SYN_REPLY",
    "RstStream": "RST_STREAM",
    "GoAway": "GOAWAY",
    "WindowUpdate": "WINDOW_UPDATE",
}
FIELDS = {"associated": "assoc", "priority": "pri"}


def values(pairs):
    return {name: value.split("\0") for name, value in pairs}


def as_golden(each):
    if isinstance(each, Data):
        return {
            "ctrl": False,
            "stream": each.stream,
            "flags": int(each.last),
            "data": each.data.hex(),
        }
    kind = type(each).__name__
    frame = {
        "ctrl": True,
        "version": 3,
        "type": NAMES.get(kind, kind.upper()),
        "flags": 0,
    }
    for field in each.__attrs_attrs__:
        value = getattr(each, field.name)
        if field.name == "headers":
            value = values(value)
        elif field.name == "settings":
            value = [list(setting) for setting in value]
        frame[FIELDS.get(field.name, field.name)] = value
    return frame


def read(*chunks):
    reader = SpdyReader()
    return [each for chunk in chunks for each in reader.feed(chunk)]


class TestGolden:
    @pytest.mark.parametrize(("nothing", "expected"), cases("zdict", STREAMS))
    def test_the_dictionary(self, nothing, expected):
        assert {
            "len": len(DICTIONARY),
            "adler32": f"{zlib.adler32(DICTIONARY):08x}",
            "sha256": hashlib.sha256(DICTIONARY).hexdigest(),
        } == expected

    @pytest.mark.parametrize(("chunks", "expected"), cases("spdy_frames", STREAMS))
    def test_frames(self, chunks, expected):
        chunks = [bytes.fromhex(chunk) for chunk in chunks]
        reader = SpdyReader()
        frames = [each for chunk in chunks for each in reader.feed(chunk)]
        if expected == {"error": True}:
            assert isinstance(frames[-1], Unreadable)
            return
        whole = b"".join(chunks)
        rest = whole[len(whole) - reader.pending :]
        assert rest.hex() == expected["rest"]
        if rest:  # What has come of a frame is handed on all the same.
            assert b"".join(each.data for each in frames) == rest[8:]
        else:
            # A data frame with FIN behind another of its stream stays one by itself.
            assert [as_golden(each) for each in frames] == expected["frames"]


class TestSpdyReader:
    def test_a_block_inflates_only_behind_all_that_came_before_it(self):
        writer = SpdyWriter()
        frames = read(
            writer.open(1, {"streamtype": "error"}),
            writer.reply(1, [("x", "y")]),
            writer.headers(1, [("streamtype", "error")]),
            writer.open(3, {"streamtype": "error"}),
        )
        assert [values(each.headers) for each in frames] == [
            {"streamtype": ["error"]},
            {"x": ["y"]},
            {"streamtype": ["error"]},
            {"streamtype": ["error"]},
        ]
        assert [type(each) for each in frames] == [SynStream, SynReply, Headers, SynStream]

    def test_an_answer_without_a_block_leaves_the_inflater_alone(self):
        writer = SpdyWriter()
        frames = read(writer.control(2, pack(">I", 1)), writer.reply(3, [("a", "b")]))
        assert [each.headers for each in frames] == [(), (("a", "b"),)]

    def test_data_is_handed_on_as_it_comes(self):
        frame = SpdyWriter().data(5, b"abcdef", last=True)
        reader = SpdyReader()
        assert reader.feed(frame[:10]) == [Data(5, b"ab", last=False)]
        assert reader.pending == 10
        assert reader.feed(frame[10:13]) == [Data(5, b"cde", last=False)]
        assert reader.feed(frame[13:]) == [Data(5, b"f", last=True)]
        assert reader.pending == 0

    @pytest.mark.parametrize("stream", [1, 127, 128, 133, 255, 0x01000000, 0x7FFFFFFF])
    def test_ids_have_31_bits(self, stream):
        writer = SpdyWriter()
        opened, data = read(writer.open(stream, {}), writer.data(stream, b"x"))
        assert opened.stream == data.stream == stream

    def test_the_reserved_bit_of_an_id_means_nothing(self):
        writer = SpdyWriter()
        (frame,) = read(writer.control(8, pack(">I", 1 << 31 | 7) + writer.block([])))
        assert frame.stream == 7

    def test_a_name_is_read_without_case(self):
        (frame,) = read(SpdyWriter().open(1, {"StreamType": "error"}))
        assert frame.only_value("streamtype") == "error"

    @pytest.mark.parametrize(
        ("headers", "only", "first"),
        [
            ([("streamtype", "stdin")], "stdin", "stdin"),
            ([("streamtype", "stdin"), ("streamtype", "stdout")], None, "stdin"),
            ([("streamtype", "stdin\0stdout")], None, "stdin"),
            ([("StreamType", "stdin"), ("streamtype", "stdin")], None, "stdin"),
            ([("x", "stdin")], None, ""),
            ([("streamtype", "")], "", ""),
        ],
    )
    def test_more_than_one_value_is_not_one(self, headers, only, first):
        (frame,) = read(SpdyWriter().open(1, headers))
        assert frame.only_value("streamtype") == only
        assert frame.first_value("streamtype") == first

    @pytest.mark.parametrize(
        ("reason", "data"),
        [
            ("unknown type 5", SpdyWriter().control(5, b"")),
            ("unknown type 10", SpdyWriter().control(10, bytes(4))),
            ("type 1 with 9 bytes", SpdyWriter().control(1, bytes(9))),
            ("type 2 with 0 bytes", SpdyWriter().control(2, b"")),
            ("type 3 with 4 bytes", SpdyWriter().control(3, bytes(4))),
            ("type 4 with 3 bytes", SpdyWriter().control(4, bytes(3))),
            ("type 6 with 5 bytes", SpdyWriter().control(6, bytes(5))),
            ("type 7 with 4 bytes", SpdyWriter().control(7, bytes(4))),
            ("type 8 with 3 bytes", SpdyWriter().control(8, bytes(3))),
            ("about stream 0", SpdyWriter().reset(0)),
            ("without a status", SpdyWriter().reset(1, 0)),
            ("about stream 0", SpdyWriter().open(0, {})),
            ("another length", SpdyWriter().control(4, pack(">I", 7))),
            ("cannot be inflated", SpdyWriter().control(8, pack(">I", 1) + b"nonsense")),
            ("too short", SpdyWriter().control(8, pack(">I", 1) + SpdyWriter().deflated(b"\0"))),
            (
                "behind its pairs",
                SpdyWriter().control(8, pack(">I", 1) + SpdyWriter().deflated(bytes(5))),
            ),
            (
                "too short for its strings",
                SpdyWriter().control(
                    8, pack(">I", 1) + SpdyWriter().deflated(pack(">II", 1, 0xFFFFFFFF))
                ),
            ),
        ],
    )
    def test_what_cannot_be_read_says_why_and_is_the_last(self, reason, data):
        writer = SpdyWriter()
        reader = SpdyReader()
        *before, last = reader.feed(writer.ping(1) + data + writer.ping(3))
        assert before == [Ping(1)]
        assert isinstance(last, Unreadable)
        assert reason in last.reason
        assert reader.feed(writer.ping(5)) == []

    def test_the_end_of_the_compressed_stream_is_an_error(self):
        compressor = zlib.compressobj(zdict=DICTIONARY)
        block = compressor.compress(bytes(4)) + compressor.flush(zlib.Z_FINISH)
        (event,) = read(SpdyWriter().control(8, pack(">I", 1) + block))
        assert "the end of the compressed headers" in event.reason

    def test_a_block_may_be_long(self):
        (frame,) = read(SpdyWriter().open(1, {"x": "y" * (MAX_BLOCK - 100)}))
        assert len(frame.only_value("x")) == MAX_BLOCK - 100

    @pytest.mark.parametrize("over", [0, 1, 2, 300, MAX_BLOCK])
    def test_a_longer_one_is_not_inflated_to_its_end(self, over):
        text = pack(">II", 1, 1) + b"x" + pack(">I", MAX_BLOCK - 13 + over)
        block = SpdyWriter().deflated(text + b"y" * (MAX_BLOCK - 13 + over))
        (event,) = read(SpdyWriter().control(8, pack(">I", 1) + block))
        assert "1048576 bytes or more" in event.reason

    def test_many_long_ones_are_too_much_together(self):
        writer, reader = SpdyWriter(), SpdyReader()
        block = {"x": "y" * (MAX_BLOCK - 100)}
        for stream in range(1, 33, 2):
            assert isinstance(reader.feed(writer.open(stream, block))[0], SynStream)
        (event,) = reader.feed(writer.open(33, block))
        assert "16777216 bytes together" in event.reason

    def test_many_short_ones_are_not(self):
        writer, reader = SpdyWriter(), SpdyReader()
        for stream in range(1, 10_001, 2):
            (event,) = reader.feed(writer.open(stream, {"x": "y" * 4000}))
            assert isinstance(event, SynStream)

    def test_a_control_frame_of_hostile_length_is_refused_at_its_head(self):
        head = SpdyWriter().control(1, b"")[:4] + pack(">I", MAX_CONTROL + 1)
        (event,) = read(head)
        assert f"with {MAX_CONTROL + 1} bytes" in event.reason

    def test_state_is_bounded(self):
        reader = SpdyReader()
        reader.feed(SpdyWriter().control(8, bytes(MAX_CONTROL))[:-1])
        reader.feed(pack(">II", 1, 0xFFFFFF))
        for _ in range(200):
            reader.feed(bytes(65536))
        kept = sum(sys.getsizeof(value) for value in vars(reader).values())
        assert kept < 2 * MAX_CONTROL

    def test_our_own_frames_can_be_read(self):
        assert read(data_frame(5, b"bye", spdy.FIN)) == [Data(5, b"bye", last=True)]
        assert read(goaway_frame(7, 2)) == [spdy.GoAway(7, 2)]


@st.composite
def conversations(draw):
    """Make the bytes of one direction, most of them in order."""
    writer = SpdyWriter()
    stream = st.sampled_from([1, 3, 5, 133, 0x7FFFFFFF])
    name = st.sampled_from(["streamtype", "port", "x"])
    value = st.text(st.characters(max_codepoint=255), max_size=20)
    frame = st.one_of(
        st.builds(writer.data, stream, st.binary(max_size=40), st.booleans()),
        st.tuples(stream, st.lists(st.tuples(name, value), max_size=3)).map(
            lambda pair: writer.open(*pair)
        ),
        st.tuples(stream, st.lists(st.tuples(name, value), max_size=3)).map(
            lambda pair: writer.headers(*pair)
        ),
        st.builds(writer.reply, stream),
        st.builds(writer.ping, st.integers(0, 9)),
        st.builds(writer.reset, stream),
        st.builds(writer.goaway, st.integers(0, 9)),
        st.binary(max_size=12),
    )
    return b"".join(draw(st.lists(frame, max_size=12)))


@given(conversations(), st.lists(st.integers(0, 1 << 16), max_size=30))
def test_any_split_gives_the_same_frames(data, places):
    assert joined(read(*cut(data, *places))) == joined(read(data))


@given(conversations())
def test_bytes_one_by_one_give_the_same_frames(data):
    one_by_one = read(*(data[at : at + 1] for at in range(len(data))))
    assert joined(one_by_one) == joined(read(data))
