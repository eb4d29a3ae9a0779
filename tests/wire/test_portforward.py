"""What a port-forward carries, in all three ways."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.portforward import MAX_CONNECTIONS, MAX_REQUEST_ID
from tailproxy.wire.session import Forwarded, Forwarding, Unreadable, forward_tap

from .conversation import play, size_of
from .encoders import SpdyWriter, WebSocketWriter

SPDY = ("SPDY/3.1", "portforward.k8s.io")
TUNNEL = ("websocket", "SPDY/3.1+portforward.k8s.io")


def pair(writer, stream, port, request_id):
    """Open the two streams of a connection."""
    headers = {"port": port, "requestid": request_id}
    return writer.open(stream, {"streamtype": "error", **headers}) + writer.open(
        stream + 2, {"streamtype": "data", **headers}
    )


def in_tunnel(steps, size=4):
    """Put the steps of a SPDY session into small messages, empty ones between them."""
    writers = {">": WebSocketWriter(client=True), "<": WebSocketWriter(client=False)}
    return [
        (
            way,
            b"".join(
                writers[way].binary(data[at : at + size]) + writers[way].binary(b"")
                for at in range(0, len(data), size)
            ),
        )
        for way, data in steps
    ]


def both(steps):
    """Play the steps over SPDY and through the tunnel, which must give the same."""
    events = play(forward_tap(*SPDY), steps)
    assert play(forward_tap(*TUNNEL), in_tunnel(steps)) == events
    assert play(forward_tap(*TUNNEL), in_tunnel(steps), places=()) == events
    return events


class TestSpdy:
    def test_two_connections_at_once(self):
        up, down = SpdyWriter(), SpdyWriter()
        steps = [
            (">", pair(up, 1, "8080", "0") + up.data(1, last=True)),
            ("<", down.reply(1) + down.reply(3)),
            (">", up.data(3, b"GET / HTTP/1.1\r\n\r\n")),
            (">", pair(up, 5, "9090", "1") + up.data(5, last=True)),
            ("<", down.data(3, b"HTTP/1.1 204\r\n\r\n") + down.data(7, b"x", last=True)),
            (">", up.data(7, b"yz", last=True) + up.data(7, b"too late")),
            ("<", down.data(3, b"!", last=True) + down.data(1, last=True)),
            (">", up.reset(3)),
        ]
        assert both(steps) == [
            Forwarding(8080, "0"),
            Forwarding(9090, "1"),
            Forwarded(9090, "1", 2, 1, ""),
            Forwarded(8080, "0", 18, 17, ""),
        ]

    def test_an_error_is_told(self):
        up, down = SpdyWriter(), SpdyWriter()
        steps = [
            (">", pair(up, 1, "81", "0")),
            ("<", down.data(1, b"connection ") + down.data(1, b"refused\n", last=True)),
            ("<", down.reset(1) + down.reset(3)),
        ]
        assert both(steps) == [Forwarding(81, "0"), Forwarded(81, "0", 0, 0, "connection refused")]

    def test_old_clients_send_no_request_id(self):
        up = SpdyWriter()
        steps = [
            (">", up.open(1, {"streamtype": "error", "port": "80"})),
            (">", up.open(3, {"streamtype": "data", "port": "80"}) + up.data(3, b"x")),
            ("<", SpdyWriter().data(1, b"oh")),
        ]
        assert both(steps) == [Forwarding(80, "1"), Forwarded(80, "1", 1, 0, "oh")]

    def test_a_request_id_may_be_used_again(self):
        up = SpdyWriter()
        steps = [
            (">", pair(up, 1, "80", "0") + up.reset(3) + pair(up, 5, "81", "0") + up.reset(7)),
        ]
        assert both(steps) == [
            Forwarding(80, "0"),
            Forwarded(80, "0", 0, 0, ""),
            Forwarding(81, "0"),
            Forwarded(81, "0", 0, 0, ""),
        ]

    def test_streams_too_many_of_a_connection_are_no_connection(self):
        up = SpdyWriter()
        steps = [
            (">", pair(up, 1, "80", "0") + pair(up, 5, "81", "0") + pair(up, 1, "82", "1")),
            (">", up.data(7, b"x") + up.open(9, {"streamtype": "other", "requestid": "0"})),
        ]
        assert both(steps) == [Forwarding(80, "0"), Forwarded(80, "0", 0, 0, "")]

    @pytest.mark.parametrize(
        ("text", "port"),
        [
            ("80", 80),
            ("65535", 65535),
            ("00080", 80),
            ("0" * 9000 + "80", 80),
            ("80\x0081", 80),
            ("65536", 0),
            ("1" * 9000, 0),
            ("-1", 0),
            ("+80", 0),
            ("8_0", 0),
            ("\xb2", 0),
            ("", 0),
        ],
    )
    def test_a_port_is_read_as_the_api_server_does(self, text, port):
        first, _ = play(forward_tap(*SPDY), [(">", pair(SpdyWriter(), 1, text, "0"))])
        assert first == Forwarding(port, "0")

    def test_a_data_stream_that_opens_half_closed(self):
        up = SpdyWriter()
        steps = [
            (">", up.open(3, {"streamtype": "data", "port": "80", "requestid": "a"}, flags=1)),
            ("<", SpdyWriter().data(3, b"abc", last=True)),
            (">", up.ping(1)),
        ]
        session = forward_tap(*SPDY)
        assert play(session, steps) == [Forwarding(80, "a"), Forwarded(80, "a", 0, 3, "")]
        assert size_of(session._ledger) < 2000

    def test_a_reset_of_the_error_stream_alone_ends_what_has_no_data_stream(self):
        up = SpdyWriter()
        opened = up.open(1, {"streamtype": "error", "requestid": "0"}) + up.reset(1)
        session = forward_tap(*SPDY)
        assert session.up(opened) == []
        assert not session._ledger._connections
        session.up(pair(up, 3, "80", "0"))
        assert session.down(SpdyWriter().reset(3)) == []
        assert session.end() == [Forwarded(80, "0", 0, 0, "")]
        assert session.end() == []

    def test_what_cannot_be_read_is_said_once_and_last(self):
        up = SpdyWriter()
        steps = [
            (">", pair(up, 1, "80", "0") + up.control(12, b"") + up.ping(1)),
            ("<", up.control(12, b"")),
        ]
        assert both(steps) == [
            Forwarding(80, "0"),
            Unreadable("SPDY: a control frame of unknown type 12"),
        ]

    def test_a_request_id_has_a_length(self):
        up = SpdyWriter()
        steps = [(">", pair(up, 1, "80", "1" * 64) + pair(up, 5, "81", "1" * 65) + up.ping(1))]
        assert both(steps) == [
            Forwarding(80, "1" * MAX_REQUEST_ID),
            Unreadable("a request id of 65 characters"),
        ]

    def test_state_is_bounded(self):
        up, session = SpdyWriter(), forward_tap(*SPDY)
        for number in range(MAX_CONNECTIONS):
            assert len(session.up(pair(up, 4 * number + 1, "80", f"{number:064}"))) == 1
            session.down(SpdyWriter().data(4 * number + 1, b"x" * 5000))
        (event,) = session.up(up.open(0x7FFFFFFF, {"streamtype": "data"}))
        assert event == Unreadable(f"more than {MAX_CONNECTIONS} connections at once")
        assert session.up(pair(up, 1, "80", "x")) == session.end() == ()
        assert size_of(session) < 4096 * MAX_CONNECTIONS


class TestTunnel:
    @pytest.mark.parametrize("way", [">", "<"])
    def test_what_is_no_websocket_cannot_be_read(self, way):
        (event,) = play(forward_tap(*TUNNEL), [(way, b"\xff"), (way, b"\xff")])
        assert isinstance(event, Unreadable)

    def test_pings_and_the_end_between_messages(self):
        up, down = WebSocketWriter(client=True), WebSocketWriter(client=False)
        inner = pair(SpdyWriter(), 1, "80", "0")
        steps = [
            (">", up.binary(inner[:20], last=False) + up.ping(b"x") + up.binary(inner[20:])),
            ("<", down.pong(b"x") + down.close()),
        ]
        assert play(forward_tap(*TUNNEL), steps) == [
            Forwarding(80, "0"),
            Forwarded(80, "0", 0, 0, ""),
        ]


@pytest.mark.parametrize("subprotocol", ["", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"])
class TestChannels:
    def send(self, writer, subprotocol, channel, data):
        if "base64" in subprotocol:
            return writer.text(f"{channel}{b64encode(data).decode()}")
        return writer.binary(bytes((channel,)) + data)

    def test_two_ports(self, subprotocol):
        up, down = WebSocketWriter(client=True), WebSocketWriter(client=False)
        steps = [
            ("<", self.send(down, subprotocol, 0, (8080).to_bytes(2, "little"))),
            ("<", self.send(down, subprotocol, 1, (8080).to_bytes(2, "little"))),
            ("<", self.send(down, subprotocol, 2, (9090).to_bytes(2, "little"))),
            ("<", self.send(down, subprotocol, 3, (9090).to_bytes(2, "little"))),
            (">", self.send(up, subprotocol, 0, b"hello") + up.ping()),
            ("<", self.send(down, subprotocol, 0, b"hi") + down.binary(b"")),
            ("<", self.send(down, subprotocol, 3, b"connection refused\n")),
            (">", self.send(up, subprotocol, 2, b"x") + up.binary(b"")),
            ("<", down.close()),
        ]
        assert play(forward_tap("websocket", subprotocol), steps) == [
            Forwarding(8080, "0"),
            Forwarding(9090, "1"),
            Forwarded(8080, "0", 5, 2, ""),
            Forwarded(9090, "1", 1, 0, "connection refused"),
        ]

    @pytest.mark.parametrize("way", [">", "<"])
    def test_what_cannot_be_read_is_said_once_and_last(self, subprotocol, way):
        steps = [(way, b"\xff\xff"), (way, b"\xff"), (">", b"\xff"), ("<", b"\xff")]
        (event,) = play(forward_tap("websocket", subprotocol), steps)
        assert isinstance(event, Unreadable)


class TestFarewell:
    def test_spdy_ends_with_goaway(self):
        session = forward_tap(*SPDY)
        session.up(pair(SpdyWriter(), 1, "80", "0"))
        assert session.farewell("sorry", b"{}") == SpdyWriter().goaway(3, 2)
        session.down(SpdyWriter().data(3, b"x")[:-1])
        assert (session.down_border, session.farewell("sorry", b"{}")) == (8, b"")
        assert session.farewell("sorry", b"{}", held=8) == SpdyWriter().goaway(3, 2)

    @pytest.mark.parametrize("protocol", [TUNNEL, ("websocket", "v4.channel.k8s.io")])
    def test_websocket_ends_with_a_close_frame(self, protocol):
        close = WebSocketWriter(client=False).close(1011)
        message = WebSocketWriter(client=False).binary(bytes(2), last=False)
        session = forward_tap(*protocol)
        assert session.farewell("sorry", b"{}") == close
        session.down(message[:-1])
        assert (session.down_border, session.farewell("sorry", b"{}")) == (3, b"")
        assert session.farewell("sorry", b"{}", held=3) == close
        session.down(message[-1:])
        assert session.farewell("sorry", b"{}") == b"\x80\x00" + close

    @pytest.mark.parametrize("protocol", [SPDY, TUNNEL, ("websocket", "")])
    def test_a_session_that_cannot_be_read_gets_none(self, protocol):
        session = forward_tap(*protocol)
        session.up(b"\xff" * 99)
        assert session.farewell("sorry", b"{}") == b""

    def test_who_said_goodbye_is_not_talked_to(self):
        session = forward_tap("websocket", "")
        session.down(WebSocketWriter(client=False).close())
        assert session.farewell("sorry", b"{}") == b""


@st.composite
def conversations(draw):
    """Make the steps of a session over SPDY, most of them in order."""
    up, down = SpdyWriter(), SpdyWriter()
    streams = st.sampled_from([1, 3, 5, 7, 9, 11])
    headers = st.fixed_dictionaries(
        {
            "streamtype": st.sampled_from(["error", "data", "other"]),
            "port": st.sampled_from(["80", "81", "x"]),
        },
        optional={"requestid": st.sampled_from(["0", "1"])},
    )
    each = st.one_of(
        st.tuples(streams, headers).map(lambda pair: (">", up.open(*pair))),
        st.builds(
            lambda way, *args: (way, up.data(*args)),
            st.sampled_from("<>"),
            streams,
            st.binary(max_size=20),
            st.booleans(),
        ),
        st.builds(lambda way, s: (way, up.reset(s)), st.sampled_from("<>"), streams),
        st.builds(lambda s: ("<", down.reply(s)), streams),
        st.tuples(st.sampled_from("<>"), st.binary(max_size=2)),
    )
    return [(">", pair(up, 1, "80", "0")), *draw(st.lists(each))]


@given(conversations(), st.lists(st.integers(0, 1 << 16), max_size=9))
def test_any_split_gives_the_same_events(steps, places):
    expected = play(forward_tap(*SPDY), steps, places=())
    assert play(forward_tap(*SPDY), steps, places) == expected
    assert play(forward_tap(*SPDY), steps) == expected
    tunnel = in_tunnel(steps)
    assert play(forward_tap(*TUNNEL), tunnel, places) == expected
