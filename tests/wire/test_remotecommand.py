"""What exec and attach show, over both protocols."""

from __future__ import annotations

import json
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.cast import CastHeader, CastWriter
from tailproxy.wire.outcome import MAX_TEXT
from tailproxy.wire.session import (
    FrameHolder,
    Input,
    Outcome,
    Output,
    Resized,
    Unreadable,
    tap,
)

from .conversation import merged, play, size_of
from .encoders import SpdyWriter, WebSocketWriter
from .golden import STREAMS, cases

SUCCESS = b'{"metadata":{},"status":"Success"}'
EXIT_7 = (
    b'{"status":"Failure","message":"exit code 7","reason":"NonZeroExitCode",'
    b'"details":{"causes":[{"reason":"ExitCode","message":"7"}]}}'
)
SIZE = b'{"Width":120,"Height":40}\n'


def spdy(subprotocol="v4.channel.k8s.io", terminal=False):
    return tap("SPDY/3.1", subprotocol, terminal)


def websocket(subprotocol="v5.channel.k8s.io", terminal=False):
    return tap("websocket", subprotocol, terminal)


def recording(session, given):
    """Record a golden session, and return its lines as the golden cases show them."""
    writer = CastWriter(CastHeader(timestamp=1), given["tty"])
    lines = writer.begin()
    for way, data in given["steps"]:
        side = session.up if way == "c" else session.down
        for event in side(bytes.fromhex(data)):
            if isinstance(event, Output):
                lines += writer.output(1.0, event.stream, event.data)
            elif isinstance(event, Resized):
                lines += writer.resize(1.0, event.columns, event.rows)
            else:
                assert isinstance(event, Outcome)
    lines += writer.end(2.0)
    header, *rest = map(json.loads, lines.splitlines())
    return [["header", header["width"], header["height"]], *(line[1:] for line in rest)]


def joined(lines):
    result = []
    for code, *rest in lines:
        if code == "o" and result[-1][0] == "o":
            result[-1] = ["o", result[-1][1] + rest[0]]
        else:
            result.append([code, *rest])
    return result


class TestGolden:
    @pytest.mark.parametrize(("given", "expected"), cases("spdy_session", STREAMS))
    def test_spdy(self, given, expected):
        assert joined(recording(spdy(terminal=given["tty"]), given)) == joined(expected)

    @pytest.mark.parametrize(("given", "expected"), cases("ws_session", STREAMS))
    def test_websocket(self, given, expected):
        session = websocket(given["sub"], given["tty"])
        assert joined(recording(session, given)) == joined(expected)


class TestSpdy:
    def test_a_session_with_a_terminal(self):
        up, down = SpdyWriter(), SpdyWriter()
        steps = [
            (">", up.open(1, {"streamtype": "error"})),
            ("<", down.reply(1)),
            (">", up.open(3, {"streamtype": "stdin"})),
            ("<", down.reply(3)),
            (">", up.open(5, {"streamtype": "stdout"})),
            ("<", down.reply(5)),
            (">", up.open(7, {"streamtype": "resize"})),
            ("<", down.reply(7)),
            (">", up.data(7, SIZE)),
            ("<", down.data(5, b"$ ")),
            (">", up.data(3, b"exit 7\n") + up.ping(1)),
            ("<", down.ping(1) + down.data(5, b"exit 7\r\n")),
            (">", up.data(7, b'{"Width":80,"Height":24}\n')),
            ("<", down.data(5, last=True) + down.data(1, EXIT_7) + down.reset(1)),
            ("<", down.reset(3) + down.reset(7) + down.goaway(7)),
        ]
        assert play(spdy(terminal=True), steps, places=()) == [
            Resized(120, 40),
            Output(1, b"$ exit 7\r\n"),
            Resized(80, 24),
            Outcome(7, "exit code 7", "exit"),
        ]

    def test_input_through_a_pipe_is_passed_over(self):
        up, down = SpdyWriter(), SpdyWriter()
        steps = [
            (">", up.open_all("error", "stdin", "stdout", "stderr")),
            (">", up.data(3, b"\x80\x03\x00\x01" * 9) + up.data(3, last=True)),
            ("<", down.data(7, b"warning\n") + down.data(5, b"done\n")),
            ("<", down.data(1, SUCCESS, last=True)),
        ]
        assert play(spdy(), steps) == [
            Output(2, b"warning\n"),
            Output(1, b"done\n"),
            Outcome(0, "", "success"),
        ]

    @pytest.mark.parametrize("stream", [1, 127, 128, 133, 0x7FFFFFFF])
    def test_any_stream_id_is_taken_at_its_full_width(self, stream):
        up, down = SpdyWriter(), SpdyWriter()
        steps = [
            (">", up.open(stream, {"streamtype": "stderr"}) + up.open(5, {"streamtype": "error"})),
            ("<", down.data(stream, b"x")),
        ]
        assert play(spdy(), steps) == [Output(2, b"x")]

    @pytest.mark.parametrize(
        "headers",
        [
            {"streamtype": "what"},
            {"streamtype": ""},
            {"streamtype": "Error"},
            {"streamtype": "error\0stdout"},
            [("streamtype", "error"), ("streamtype", "stdout")],
            {"x": "error"},
            {},
        ],
    )
    def test_data_of_a_stream_of_doubtful_purpose_is_output(self, headers):
        steps = [
            (">", SpdyWriter().open(9, headers)),
            ("<", SpdyWriter().data(9, b"shown")),
        ]
        assert play(spdy(), steps) == [Output(1, b"shown")]

    @pytest.mark.parametrize("kind", ["stdin", "resize"])
    def test_data_that_no_honest_server_sends_is_output(self, kind):
        steps = [
            (">", SpdyWriter().open(9, {"streamtype": kind})),
            ("<", SpdyWriter().data(9, b"shown")),
        ]
        assert play(spdy(terminal=True), steps) == [Output(1, b"shown")]

    def test_data_of_an_unannounced_stream_is_output(self):
        assert play(spdy(), [("<", SpdyWriter().data(9, b"shown"))]) == [Output(1, b"shown")]

    def test_a_stream_that_is_opened_twice_for_two_purposes_is_for_output(self):
        up, down = SpdyWriter(), SpdyWriter()
        steps = [
            (">", up.open(1, {"streamtype": "error"}) + up.open(1, {"streamtype": "stdout"})),
            ("<", down.data(1, b"shown", last=True)),
        ]
        assert play(spdy(), steps) == [Output(1, b"shown")]

    def test_of_two_error_streams_neither_is_one(self):
        up, down = SpdyWriter(), SpdyWriter()
        steps = [
            (">", up.open_all("error", "error")),
            ("<", down.data(1, b"a", last=True) + down.data(3, b"b", last=True)),
        ]
        assert play(spdy(), steps) == [Output(1, b"ab")]

    def test_what_the_server_calls_its_streams_does_not_matter(self):
        down = SpdyWriter()
        steps = [("<", down.open(2, {"streamtype": "error"}) + down.data(2, b"shown"))]
        assert play(spdy(), steps) == [Output(1, b"shown")]

    def test_two_streams_for_output_are_both_shown(self):
        up, down = SpdyWriter(), SpdyWriter()
        steps = [
            (">", up.open_all("stdout", "stdout")),
            ("<", down.data(1, b"a") + down.data(3, b"b")),
        ]
        assert play(spdy(), steps) == [Output(1, b"ab")]

    @pytest.mark.parametrize("way", [">", "<"])
    def test_what_cannot_be_read_is_said_once_and_last(self, way):
        session = spdy()
        other = "<" if way == ">" else ">"
        junk = SpdyWriter().control(12, b"")
        steps = [("<", SpdyWriter().data(5, b"x")), (way, junk), (way, junk), (other, junk)]
        assert play(session, steps, places=()) == [
            Output(1, b"x"),
            Unreadable("SPDY: a control frame of unknown type 12"),
        ]

    def test_an_error_stream_that_ended_with_nothing_is_success(self):
        steps = [
            (">", SpdyWriter().open_all("error")),
            ("<", SpdyWriter().data(1, last=True)),
        ]
        assert play(spdy(), steps) == [Outcome(0, "", "success")]

    def test_a_session_that_is_cut_off_has_no_outcome(self):
        assert play(spdy(), [(">", SpdyWriter().open_all("error", "stdout"))]) == []

    def test_a_status_that_is_cut_off_is_no_success(self):
        steps = [
            (">", SpdyWriter().open_all("error")),
            ("<", SpdyWriter().data(1, SUCCESS[:-1])),
        ]
        (outcome,) = play(spdy(), steps)
        assert outcome.kind == "protocol-error"

    @pytest.mark.parametrize("subprotocol", ["", "channel.k8s.io", "v3.channel.k8s.io"])
    def test_old_versions_say_it_in_plain_text(self, subprotocol):
        steps = [
            (">", SpdyWriter().open_all("error")),
            ("<", SpdyWriter().data(1, b"no such file\n", last=True)),
        ]
        outcome = Outcome(None, "no such file", "failure")
        assert play(spdy(subprotocol), steps) == [outcome]

    def test_output_of_a_stream_in_one_read_is_one_event(self):
        down = SpdyWriter()
        session = spdy()
        session.up(SpdyWriter().open_all("error", "stdout", "stderr"))
        data = b"".join(
            [
                down.data(3, b"a"),
                down.data(3, b""),
                down.data(3, b"b"),
                down.data(5, b"c"),
                down.data(3, b"d"),
            ]
        )
        assert session.down(data) == [Output(1, b"ab"), Output(2, b"c"), Output(1, b"d")]


class TestWebSocket:
    def test_a_session_with_fragments_and_pings(self):
        up, down = WebSocketWriter(client=True), WebSocketWriter(client=False)
        steps = [
            ("<", down.binary(b"\x01")),
            (">", up.binary(b"\x04" + SIZE)),
            ("<", down.binary(b"\x01a", last=False) + down.ping(b"1")),
            (">", up.pong(b"1") + up.binary(b"\x00typed")),
            ("<", down.binary(b"\x01b", last=False) + down.binary(b"\x02")),
            ("<", down.binary(b"\x02err") + down.binary(b"")),
            (">", up.binary(b"\xff\x00")),
            ("<", down.binary(b"\x03" + EXIT_7) + down.close()),
        ]
        assert play(websocket(terminal=True), steps, places=()) == [
            Resized(120, 40),
            Output(1, b"a\x01b\x02"),
            Output(2, b"err"),
            Outcome(7, "exit code 7", "exit"),
        ]

    @pytest.mark.parametrize("channel", [0, 1, 4, 5, 255])
    def test_data_on_any_channel_but_that_for_errors_is_output(self, channel):
        down = WebSocketWriter(client=False)
        steps = [("<", down.binary(bytes((channel,)) + b"shown"))]
        assert play(websocket("v4.channel.k8s.io"), steps) == [Output(1, b"shown")]

    @pytest.mark.parametrize("client", [True, False])
    def test_either_side_may_mask(self, client):
        writer = WebSocketWriter(client)
        steps = [
            (">", writer.binary(b"\x04" + SIZE)),
            ("<", writer.binary(b"\x01hi") + writer.close()),
        ]
        assert play(websocket(terminal=True), steps) == [
            Resized(120, 40),
            Output(1, b"hi"),
            Outcome(0, "", "success"),
        ]

    @pytest.mark.parametrize("subprotocol", ["base64.channel.k8s.io", "v4.base64.channel.k8s.io"])
    def test_base64(self, subprotocol):
        down = WebSocketWriter(client=False)
        steps = [
            ("<", down.text("1Zm9v", last=False) + down.text("YmE=")),
            ("<", down.text("1")),
            ("<", down.text("2ZXJy")),
        ]
        assert play(websocket(subprotocol), steps) == [Output(1, b"fooba"), Output(2, b"err")]

    def test_sizes_in_base64(self):
        up = WebSocketWriter(client=True)
        steps = [(">", up.text("4eyJXaWR0aCI6ODAsIkhlaWdodCI6MjR9Cg=="))]
        session = websocket("v4.base64.channel.k8s.io", terminal=True)
        assert play(session, steps) == [Resized(80, 24)]

    @pytest.mark.parametrize("subprotocol", ["", "channel.k8s.io", "base64.channel.k8s.io"])
    def test_version_1_knows_no_sizes(self, subprotocol):
        up = WebSocketWriter(client=True)
        steps = [(">", up.binary(b"\x04" + SIZE) + up.binary(b"4e30="))]
        assert play(websocket(subprotocol, terminal=True), steps) == []

    def test_version_1_says_errors_in_plain_text(self):
        down = WebSocketWriter(client=False)
        steps = [
            ("<", down.binary(b"\x03no such ") + down.binary(b"\x03file\n")),
            ("<", down.close()),
        ]
        assert play(websocket(""), steps) == [Outcome(None, "no such file", "failure")]

    def test_a_bare_channel_byte_on_the_error_channel_is_no_outcome(self):
        down = WebSocketWriter(client=False)
        steps = [("<", down.binary(b"\x03")), ("<", down.binary(b"\x03" + EXIT_7))]
        assert play(websocket(), steps) == [Outcome(7, "exit code 7", "exit")]

    def test_a_status_may_come_in_two_messages(self):
        down = WebSocketWriter(client=False)
        steps = [
            ("<", down.binary(b"\x03" + EXIT_7[:30])),
            ("<", down.binary(b"\x03" + EXIT_7[30:]) + down.close()),
        ]
        assert play(websocket(), steps) == [Outcome(7, "exit code 7", "exit")]

    def test_a_status_that_is_cut_off_is_no_success(self):
        down = WebSocketWriter(client=False)
        (outcome,) = play(websocket(), [("<", down.binary(b"\x03" + EXIT_7[:30]))])
        assert outcome.kind == "protocol-error"

    @pytest.mark.parametrize(
        ("end", "expected"),
        [
            (WebSocketWriter(client=False).close(1000), [Outcome(0, "", "success")]),
            (b"\x88\x00", [Outcome(0, "", "success")]),
            (WebSocketWriter(client=False).close(1011), []),
            (b"", []),
        ],
    )
    def test_without_a_status_only_a_normal_end_is_success(self, end, expected):
        assert play(websocket(), [("<", end)]) == expected

    @pytest.mark.parametrize("way", [">", "<"])
    def test_what_cannot_be_read_is_said_once_and_last(self, way):
        down = WebSocketWriter(client=False)
        steps = [("<", down.binary(b"\x01x")), (way, b"\xc2"), (way, b"\xc2"), ("<", b"\xc2")]
        (shown, *rest) = play(websocket(), steps, places=())
        assert shown == Output(1, b"x")
        assert [type(event) for event in rest] == [Unreadable]


class TestInput:
    def test_of_spdy(self):
        up = SpdyWriter()
        session = tap("SPDY/3.1", "v4.channel.k8s.io", terminal=True, with_input=True)
        opened = up.open_all("error", "stdin", "stdout", "resize")
        sent = (
            up.data(3, b"ls") + up.data(7, SIZE) + up.data(1, b"x") + up.data(3, b"\n", last=True)
        )
        assert [*session.up(opened), *session.up(sent)] == [
            Input(b"ls"),
            Resized(120, 40),
            Input(b"\n"),
        ]

    @pytest.mark.parametrize(
        "headers", [{"streamtype": "what"}, {"streamtype": "stdin\0error"}, {}]
    )
    def test_of_a_stream_of_doubtful_purpose(self, headers):
        session = tap("SPDY/3.1", "v4.channel.k8s.io", terminal=True, with_input=True)
        session.up(SpdyWriter().open(3, headers))
        assert session.up(SpdyWriter().data(3, b"x")) == [Input(b"x")]

    def test_of_websocket(self):
        up = WebSocketWriter(client=True)
        session = tap("websocket", "v5.channel.k8s.io", terminal=True, with_input=True)
        sent = up.binary(b"\x00ls") + up.binary(b"\x04" + SIZE) + up.binary(b"\x00")
        assert session.up(sent + up.binary(b"\x07x")) == [Input(b"ls"), Resized(120, 40)]

    def test_of_base64(self):
        up = WebSocketWriter(client=True)
        session = tap("websocket", "base64.channel.k8s.io", terminal=True, with_input=True)
        assert session.up(up.text("0bHMK")) == [Input(b"ls\n")]

    @pytest.mark.parametrize(
        ("session", "data"),
        [
            (spdy(), SpdyWriter().open_all("stdin") + SpdyWriter().data(1, b"x")),
            (websocket(), WebSocketWriter(client=True).binary(b"\x00x")),
        ],
    )
    def test_is_not_told_unless_it_is_asked_for(self, session, data):
        assert session.up(data) == []


class Reader:
    """What a client is told, read with another tap."""

    def __init__(self, protocol, subprotocol, announced):
        self.tap = tap(protocol, subprotocol, terminal=False)
        self.tap.up(announced)

    def told(self, data):
        return merged([*self.tap.down(data), *self.tap.end()])


class TestFarewell:
    @pytest.mark.parametrize(("terminal", "stream"), [(True, 1), (False, 2)])
    def test_spdy(self, terminal, stream):
        opened = SpdyWriter().open_all("error", "stdin", "stdout", "stderr")
        session = spdy(terminal=terminal)
        session.up(opened)
        last_words = session.farewell("sorry\r\n", EXIT_7)
        told = Reader("SPDY/3.1", "v4.channel.k8s.io", opened).told(last_words)
        assert told == [Output(stream, b"sorry\r\n"), Outcome(7, "exit code 7", "exit")]
        assert last_words.endswith(SpdyWriter().goaway(7, 2))

    def test_plain_text_for_old_versions(self):
        opened = SpdyWriter().open_all("error")
        session = spdy("v3.channel.k8s.io")
        session.up(opened)
        told = Reader("SPDY/3.1", "", opened).told(session.farewell("sorry\r\n", EXIT_7))
        assert told == [Outcome(None, "sorry", "failure")]

    def test_streams_that_the_server_ended_are_left_alone(self):
        up, down = SpdyWriter(), SpdyWriter()
        session = spdy()
        session.up(up.open_all("error", "stdout", "stderr"))
        session.down(down.data(1, SUCCESS, last=True) + down.reset(5))
        assert session.farewell("sorry", EXIT_7) == down.goaway(5, 2)

    def test_before_any_stream_there_is_only_the_end(self):
        assert spdy().farewell("sorry", EXIT_7) == SpdyWriter().goaway(0, 2)

    @pytest.mark.parametrize("subprotocol", ["v5.channel.k8s.io", "v4.base64.channel.k8s.io"])
    @pytest.mark.parametrize(("terminal", "stream"), [(True, 1), (False, 2)])
    def test_websocket(self, subprotocol, terminal, stream):
        last_words = websocket(subprotocol, terminal).farewell("sorry\r\n", EXIT_7)
        told = Reader("websocket", subprotocol, b"").told(last_words)
        assert told == [Output(stream, b"sorry\r\n"), Outcome(7, "exit code 7", "exit")]
        assert last_words.endswith(WebSocketWriter(client=False).close(1011))

    def test_version_1_of_websocket(self):
        told = Reader("websocket", "", b"").told(websocket("").farewell("sorry", EXIT_7))
        assert told == [Output(2, b"sorry"), Outcome(None, "sorry", "failure")]

    def test_a_message_that_has_begun_is_ended_first(self):
        begun = WebSocketWriter(client=False).binary(b"\x01a", last=False)
        session = websocket()
        session.down(begun)
        told = Reader("websocket", "v5.channel.k8s.io", b"").told(
            begun + session.farewell("sorry", EXIT_7)
        )
        assert told[:2] == [Output(1, b"a"), Output(2, b"sorry")]

    @pytest.mark.parametrize(
        ("session", "frame"),
        [
            (spdy(), SpdyWriter().data(5, b"abc")),
            (websocket(), WebSocketWriter(client=False).binary(b"\x01abc")),
        ],
    )
    def test_nothing_is_said_inside_a_frame(self, session, frame):
        for size, byte in enumerate(frame[:-1], 1):
            session.down(bytes((byte,)))
            assert session.down_border == size
            assert session.farewell("sorry", EXIT_7) == b""
            assert session.farewell("sorry", EXIT_7, held=size)
        session.down(frame[-1:])
        assert session.down_border == 0
        assert session.farewell("sorry", EXIT_7)

    @pytest.mark.parametrize("subprotocol", ["v5.channel.k8s.io", "v4.base64.channel.k8s.io"])
    @pytest.mark.parametrize("begun", [False, True])
    def test_what_was_not_passed_on_was_not_said(self, subprotocol, begun):
        down = WebSocketWriter(client=False)
        passed_on = down.binary(b"1Zg", last=False) if begun else b""
        session = websocket(subprotocol)
        session.down(passed_on)
        session.down(down.binary(b"1Zm9v" if not begun else b"8=")[:-1])
        last_words = session.farewell("sorry", EXIT_7, held=session.down_border)
        reader = Reader("websocket", subprotocol, b"")
        *_, shown, outcome = reader.told(passed_on + last_words)
        assert shown == Output(2, b"sorry")
        assert outcome == Outcome(7, "exit code 7", "exit")

    @pytest.mark.parametrize(
        ("session", "last"), [(spdy(), SpdyWriter().goaway(0, 2)), (websocket(), b"\x03\xf3")]
    )
    def test_who_sent_what_cannot_be_read_is_talked_to_all_the_same(self, session, last):
        session.up(b"\xff" * 99)
        assert session.farewell("sorry", EXIT_7).endswith(last)
        session.down(b"")
        assert session.farewell("sorry", EXIT_7) == b""

    def test_who_said_goodbye_is_not_talked_to(self):
        session = websocket()
        session.down(WebSocketWriter(client=False).close())
        assert session.farewell("sorry", EXIT_7) == b""


class TestState:
    def test_of_a_hostile_spdy_session_is_bounded(self):
        session = spdy(terminal=True)
        up, down = SpdyWriter(), SpdyWriter()
        for stream in range(1, 20_001, 2):
            kind = ("error", "resize", "stdout")[stream % 3]
            session.up(up.open(stream, {"streamtype": kind, "x": "y" * 3000}))
            session.up(up.data(stream, b'{"Width":' + b" " * 4000))
            session.down(down.data(stream, b" " * 9000))
            session.down(down.reset(stream))
        session.up(up.control(1, bytes(MAX_TEXT))[:-1])
        session.down(up.control(8, bytes(MAX_TEXT))[:-1])
        assert size_of(session) < 4 * MAX_TEXT

    def test_of_many_error_streams_is_bounded(self):
        session = spdy()
        up, down = SpdyWriter(), SpdyWriter()
        session.up(up.open(1, {"streamtype": "error"}))
        session.down(down.data(1, b" " * (MAX_TEXT + 1)))
        for stream in range(3, 4001, 2):
            session.up(up.open(stream, {"streamtype": "error"}))
            session.down(down.data(stream, b" " * (MAX_TEXT + 1)))
        assert size_of(session) < MAX_TEXT + (1 << 14)

    def test_of_a_hostile_websocket_session_is_bounded(self):
        session = websocket(terminal=True)
        up, down = WebSocketWriter(client=True), WebSocketWriter(client=False)
        for _ in range(1000):
            session.up(up.binary(b"\x04{" + b" " * 4000))
            session.down(down.binary(b"\x03" + b" " * 4000))
        session.up(b"\x02\xff" + (32 << 20).to_bytes(8) + b"mask")
        session.down(b"\x02\x7f" + (32 << 20).to_bytes(8))
        for _ in range(400):
            session.up(bytes(65536))
            session.down(b"\x03" * 65536)
        assert size_of(session) < 2 * MAX_TEXT


class TestFrameHolder:
    def test_a_frame_goes_on_when_it_is_whole(self):
        holder = FrameHolder()
        assert holder.take(b"aaabb", 2) == b"aaa"
        assert holder.take(b"b", 3) == b""
        assert holder.take(b"bcc", 2) == b"bbbb"
        assert holder.take(b"", 0) == b"cc"

    def test_a_frame_that_is_too_long_is_not_waited_for(self):
        holder = FrameHolder()
        assert holder.take(b"a" * 65536, 65536) == b""
        assert holder.take(b"aa", 65538) == b"a" * 65538
        assert holder.take(b"a", 65539) == b"a"
        assert holder.take(b"ab", 1) == b"a"
        assert holder.take(b"b", 0) == b"bb"

    @given(st.data(), st.lists(st.integers(0, 1 << 16), max_size=8))
    def test_what_goes_on_ends_at_a_border(self, data, places):
        steps = data.draw(spdy_conversations())
        session, holder, sent, whole = spdy(), FrameHolder(), b"", b""
        for way, chunk in steps:
            if way == "<":
                session.down(chunk)
                whole += chunk
                sent += holder.take(chunk, session.down_border)
                assert holder.held <= session.down_border
        assert sent + holder.take(b"", 0) == whole


@st.composite
def spdy_conversations(draw):
    """Make the steps of a session, most of them in order."""
    up, down = SpdyWriter(), SpdyWriter()
    kinds = st.sampled_from(["error", "stdin", "stdout", "stderr", "resize", "other"])
    streams = st.sampled_from([1, 3, 5, 7, 9, 257])
    texts = st.sampled_from([b"text", b"", SIZE[:9], SIZE[9:], SIZE, SUCCESS, EXIT_7])
    each = st.one_of(
        st.builds(lambda s, k: (">", up.open(s, {"streamtype": k})), streams, kinds),
        st.builds(lambda s, t: (">", up.data(s, t)), streams, texts),
        st.builds(lambda s: ("<", down.reply(s)), streams),
        st.builds(lambda s, t, last: ("<", down.data(s, t, last)), streams, texts, st.booleans()),
        st.builds(lambda s: ("<", down.reset(s)), streams),
        st.just((">", up.ping(1))),
        st.tuples(st.sampled_from("<>"), st.binary(max_size=3)),
    )
    return [(">", up.open_all("error", "stdin", "stdout", "resize")), *draw(st.lists(each))]


@st.composite
def websocket_conversations(draw, subprotocol):
    """Make the steps of a session, most of them in order."""
    writers = {">": WebSocketWriter(client=True), "<": WebSocketWriter(client=False)}
    texts = [b"text", b"", SIZE, SUCCESS, EXIT_7, b"dGV4dA==", b"eyJXaWR0aCI6ODAsIkhlaWdodCI6MjR9"]
    channel = st.sampled_from(b"01234" if "base64" in subprotocol else b"\0\1\2\3\4\xff")
    steps = []
    for _ in range(draw(st.integers(0, 10))):
        way = draw(st.sampled_from("<>"))
        writer = writers[way]
        match draw(st.integers(0, 9)):
            case 0:
                data = writer.ping()
            case 1:
                data = writer.close(draw(st.sampled_from([1000, 1011])))
            case 2:
                data = draw(st.binary(max_size=2))
            case _:
                text = bytes((draw(channel),)) + draw(st.sampled_from(texts))
                at = draw(st.integers(0, len(text)))
                data = writer.binary(text[:at], last=False) + writer.binary(text[at:])
        steps.append((way, data))
    return steps


@given(spdy_conversations(), st.booleans(), st.lists(st.integers(0, 1 << 16), max_size=9))
def test_any_split_of_spdy_gives_the_same_events(steps, terminal, places):
    expected = play(spdy(terminal=terminal), steps, places=())
    assert play(spdy(terminal=terminal), steps, places) == expected
    assert play(spdy(terminal=terminal), steps) == expected


@given(
    st.data(),
    st.sampled_from(["", "base64.channel.k8s.io", "v4.base64.channel.k8s.io", "v5.channel.k8s.io"]),
    st.booleans(),
    st.lists(st.integers(0, 1 << 16), max_size=9),
)
def test_any_split_of_websocket_gives_the_same_events(data, subprotocol, terminal, places):
    steps = data.draw(websocket_conversations(subprotocol))
    expected = play(websocket(subprotocol, terminal), steps, places=())
    assert play(websocket(subprotocol, terminal), steps, places) == expected
    assert play(websocket(subprotocol, terminal), steps) == expected


@given(st.lists(st.tuples(st.sampled_from("<>"), st.binary()), max_size=9), st.booleans())
def test_no_bytes_make_it_raise(steps, terminal):
    for session in (spdy(terminal=terminal), websocket(terminal=terminal)):
        events = play(session, steps, places=())
        assert not any(isinstance(event, Unreadable) for event in events[:-1])


def test_a_flood_of_small_frames_is_joined():
    session = spdy()
    frames = pack(">IIc", 5, 1, b"x") * 7000
    assert session.down(frames) == [Output(1, b"x" * 7000)]
