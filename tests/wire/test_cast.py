"""Recordings, written and read."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.cast import (
    MAX_WAITING,
    CastError,
    CastEvent,
    CastHeader,
    CastWriter,
    read_cast,
    read_header,
    session_header,
)

from .encoders import cut
from .golden import STREAMS, cases

HEADER = CastHeader(timestamp=1_760_000_000, src_node="laptop.ts.net", src_node_id="n1")


@pytest.mark.parametrize(("given", "expected"), cases("cast_header", STREAMS))
def test_golden(given, expected):
    who = given["who"]
    header = session_header(
        node=who["Name"],
        node_id=who["StableID"],
        user_id=who["User"],
        login=who["LoginName"],
        tags=who.get("Tags", ()),
        query=given["query"],
        namespace=given["ns"],
        pod=given["pod"],
        session_type=given["type"],
        timestamp=7,
    )
    written = header.as_json()
    assert written.pop("tailproxy") == {}
    assert [written.pop(key) for key in ("width", "height", "timestamp")] == [0, 0, 7]
    assert written == expected


def lines(data):
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def events(data):
    return [line[1:] for line in lines(data) if isinstance(line, list)]


def begun(terminal=False, header=HEADER):
    writer = CastWriter(header, terminal)
    return writer, lines(writer.begin())


class TestHeader:
    def test_without_a_terminal_it_comes_at_once(self):
        writer, (header,) = begun()
        assert (header["width"], header["height"], header["version"]) == (0, 0, 2)
        assert not writer.waiting
        assert lines(writer.output(0.5, 1, b"x")) == [[0.5, "o", "x"]]
        assert writer.release() == b""

    def test_with_a_terminal_it_waits_for_the_first_size(self):
        writer, nothing = begun(terminal=True)
        assert nothing == []
        assert writer.output(0.25, 1, b"$ ") == b""
        assert writer.marker(0.5, "note") == b""
        assert writer.waiting
        header, *waited = lines(writer.resize(0.75, 120, 40))
        assert (header["width"], header["height"]) == (120, 40)
        assert waited == [[0.25, "o", "$ "], [0.5, "m", "note"]]
        assert not writer.waiting

    def test_who_never_says_a_size_has_80_columns_and_24_rows(self):
        writer, _ = begun(terminal=True)
        writer.output(0.1, 1, b"x")
        header, *waited = lines(writer.release())
        assert (header["width"], header["height"]) == writer.size == (80, 24)
        assert waited == [[0.1, "o", "x"]]
        assert lines(writer.resize(3.0, 100, 30)) == [[3.0, "r", "100x30"]]

    def test_it_waits_for_so_many_bytes_at_most(self):
        writer, _ = begun(terminal=True)
        assert writer.output(0.1, 1, b"x" * (MAX_WAITING - 100)) == b""
        header, *waited = lines(writer.output(0.2, 1, b"y" * 100))
        assert header["width"] == 80
        assert [len(text) for _, _, text in waited] == [MAX_WAITING - 100, 100]

    def test_the_end_does_not_wait(self):
        writer, _ = begun(terminal=True)
        writer.output(0.1, 2, b"\xe2\x82")
        header, last = lines(writer.end(0.2))
        assert header["height"] == 24
        assert last == [0.2, "o", "\ufffd"]

    def test_a_size_that_is_known_is_not_waited_for(self):
        known = CastHeader(timestamp=1, width=100, height=30)
        writer, (header,) = begun(terminal=True, header=known)
        assert (header["width"], header["height"]) == writer.size == (100, 30)

    def test_it_holds_what_is_known_of_the_session(self):
        own = {"session": "s1", "command": ["sh", "-c", "a b"], "groups": ["g"]}
        _, (header,) = begun(header=CastHeader(timestamp=1, tailproxy=own))
        assert header["tailproxy"] == own

    @given(
        st.builds(
            CastHeader,
            timestamp=st.integers(0, 1 << 40),
            src_node=st.text(),
            src_node_id=st.text(),
            namespace=st.text(),
            pod=st.text(),
            container=st.text(),
            session_type=st.sampled_from(["exec", "attach"]),
            command=st.text(),
            src_node_tags=st.lists(st.text()).map(tuple),
            src_node_user_id=st.integers(0, 1 << 60),
            src_node_user=st.text(),
            width=st.integers(1, 65535),
            height=st.integers(1, 65535),
            tailproxy=st.dictionaries(st.text(), st.text()),
        )
    )
    def test_what_is_written_is_read(self, header):
        assert read_header(CastWriter(header, terminal=True).begin()) == header

    def test_text_that_is_no_unicode_can_be_written(self):
        header = CastHeader(timestamp=1, pod="a\ud800")
        writer = CastWriter(header, terminal=False)
        assert read_header(writer.begin()).pod == "a?"
        assert lines(writer.marker(1, "b\ud800")) == [[1, "m", "b?"]]


class TestEvents:
    def test_both_streams_share_a_line_of_time(self):
        writer, _ = begun()
        written = writer.output(1.0, 1, b"a") + writer.output(2.0, 2, b"b")
        written += writer.output(1.5, 1, b"c") + writer.marker(2.25, "end")
        assert lines(written) == [
            [1.0, "o", "a"],
            [2.0, "o", "b"],
            [2.0, "o", "c"],
            [2.25, "m", "end"],
        ]

    def test_seconds_have_six_digits(self):
        writer, _ = begun()
        assert writer.output(0.123456789, 1, b"a") == b'[0.123457,"o","a"]\n'
        assert writer.output(1e-9 + 7, 1, b"a") == b'[7.0,"o","a"]\n'

    def test_a_character_may_be_cut_in_each_stream(self):
        writer, _ = begun()
        written = writer.output(1, 1, b"caf\xc3") + writer.output(2, 2, b"\xe2\x82")
        written += writer.output(3, 1, b"\xa9") + writer.output(4, 2, b"\xac") + writer.end(5)
        assert lines(written) == [[1, "o", "caf"], [3, "o", "\u00e9"], [4, "o", "\u20ac"]]

    def test_what_is_no_text_is_shown_as_such(self):
        writer, _ = begun()
        written = writer.output(1, 1, b"a\xffb\xc3") + writer.end(2)
        assert lines(written) == [[1, "o", "a\ufffdb"], [2, "o", "\ufffd"]]

    def test_nothing_is_no_line(self):
        writer, _ = begun()
        assert writer.output(1, 1, b"") == writer.end(2) == b""

    def test_a_line_is_a_line_whatever_it_says(self):
        writer, _ = begun()
        text = 'quote " back \\ \n \r \u2028 \u2029 \x1b[0m \x00 \x7f <&>'
        line = writer.output(1, 1, text.encode())
        assert line.count(b"\n") == 1
        assert lines(line) == [[1, "o", text]]

    def test_sizes_have_columns_first_and_no_repetition(self):
        writer, _ = begun(terminal=True)
        written = b"".join(
            writer.resize(at, *size)
            for at, size in enumerate([(120, 40), (120, 40), (100, 30), (100, 30), (120, 40)])
        )
        assert lines(written)[1:] == [[2, "r", "100x30"], [4, "r", "120x40"]]

    def test_without_a_terminal_there_are_no_sizes(self):
        writer, _ = begun()
        assert writer.resize(1, 120, 40) == b""

    @given(st.binary(), st.lists(st.integers(0, 1 << 16)), st.booleans())
    def test_the_text_does_not_depend_on_the_pieces(self, data, places, terminal):
        writer, _ = begun(terminal)
        written = b"".join(
            writer.output(at, 1, piece) for at, piece in enumerate(cut(data, *places))
        )
        written += writer.end(99)
        text = "".join(text for code, text in events(written) if code == "o")
        assert text == data.decode(errors="replace")


class TestReading:
    def test_a_recording_is_read_as_it_was_written(self):
        writer = CastWriter(HEADER, terminal=True)
        data = writer.begin() + writer.resize(0, 80, 24) + writer.output(0.5, 1, "é".encode())
        data += writer.resize(1, 100, 30) + writer.marker(2, "exit 0") + writer.end(3)
        header, read = read_cast(io.BytesIO(data))
        assert (header.width, header.src_node_id, header.tailproxy) == (80, "n1", {})
        assert list(read) == [
            CastEvent(0.5, "o", "é"),
            CastEvent(1.0, "r", "100x30"),
            CastEvent(2.0, "m", "exit 0"),
        ]

    def test_sizes_of_the_other_writer_are_turned(self):
        header = {"version": 2, "width": 80, "height": 24, "srcNodeID": "n1"}
        _, read = read_cast([json.dumps(header).encode() + b"\n", b'[1,"r","30x100"]\n'])
        assert list(read) == [CastEvent(1.0, "r", "100x30")]

    def test_those_of_a_recording_of_something_else_are_not(self):
        _, read = read_cast([b'{"version":2,"width":80,"height":24}\n', b'[1,"r","100x30"]\n'])
        assert list(read) == [CastEvent(1.0, "r", "100x30")]

    @pytest.mark.parametrize(
        "line", [b"", b"\n", b"[]\n", b"{}\n", b'{"version":1}\n', b"\xff\n", b"[" * 99_999]
    )
    def test_without_a_header_it_is_none(self, line):
        with pytest.raises(CastError, match=r"^line 1 is no "):
            read_cast([line])

    def test_a_header_with_values_of_other_kinds_is_read_as_if_they_were_missing(self):
        line = b'{"version":2,"width":"x","srcNodeTags":7,"kubernetes":[],"tailproxy":1}'
        assert read_header(line) == CastHeader(timestamp=0, session_type="")

    def test_a_last_line_that_was_cut_off_is_left_out(self):
        _, read = read_cast([b'{"version":2}\n', b'[1,"o","a"]\n', b'[2,"o","b'])
        assert list(read) == [CastEvent(1.0, "o", "a")]

    def test_a_last_line_without_its_end_is_not(self):
        _, read = read_cast([b'{"version":2}\n', b"\n", b'[1,"o","a"]'])
        assert list(read) == [CastEvent(1.0, "o", "a")]

    @pytest.mark.parametrize(
        "line", [b"{}\n", b"[1]\n", b'[1,"o"]\n', b'["1","o","a"]\n', b'[1,"o",2]\n', b"[1,\n"]
    )
    def test_another_bad_line_is_named(self, line):
        _, read = read_cast([b'{"version":2}\n', b'[1,"o","a"]\n', line])
        assert next(read) == CastEvent(1.0, "o", "a")
        with pytest.raises(CastError, match=r"^line 3 is no "):
            next(read)
