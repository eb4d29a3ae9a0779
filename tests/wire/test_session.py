"""Which tap follows which session."""

from __future__ import annotations

import pytest

from tailproxy.wire import portforward, remotecommand
from tailproxy.wire.session import Unreadable, forward_tap, tap


@pytest.mark.parametrize("subprotocol", ["", *(f"v{n}.channel.k8s.io" for n in (2, 3, 4))])
@pytest.mark.parametrize("protocol", ["SPDY/3.1", "spdy/3.1"])
def test_spdy_in_any_spelling(protocol, subprotocol):
    assert isinstance(tap(protocol, subprotocol, terminal=False), remotecommand.SpdyTap)


@pytest.mark.parametrize("subprotocol", sorted(remotecommand.WEBSOCKET_SUBPROTOCOLS))
@pytest.mark.parametrize("protocol", ["websocket", "WebSocket"])
def test_websocket_in_any_spelling(protocol, subprotocol):
    assert isinstance(tap(protocol, subprotocol, terminal=False), remotecommand.WebSocketTap)


@pytest.mark.parametrize(
    ("protocol", "subprotocol", "kind"),
    [
        ("SPDY/3.1", "portforward.k8s.io", portforward.SpdyForwardTap),
        ("websocket", "SPDY/3.1+portforward.k8s.io", portforward.TunnelTap),
        ("websocket", "", portforward.ChannelForwardTap),
        ("websocket", "v4.channel.k8s.io", portforward.ChannelForwardTap),
        ("websocket", "v4.base64.channel.k8s.io", portforward.ChannelForwardTap),
    ],
)
def test_port_forwards(protocol, subprotocol, kind):
    assert isinstance(forward_tap(protocol, subprotocol), kind)


@pytest.mark.parametrize(
    ("session", "shown"),
    [
        (tap("h2c", "", terminal=True), "'h2c' with ''"),
        (
            tap("SPDY/3.1", "v9.channel.k8s.io", terminal=True),
            "'SPDY/3.1' with 'v9.channel.k8s.io'",
        ),
        (tap("websocket", "x" * 9000, terminal=True), f"'websocket' with '{'x' * 64}'"),
        (forward_tap("SPDY/3.1", "v4.channel.k8s.io"), "'SPDY/3.1' with 'v4.channel.k8s.io'"),
    ],
)
def test_what_nobody_knows_cannot_be_read(session, shown):
    assert session.down(b"x") == (Unreadable(f"an unknown protocol: {shown}"),)
    assert session.down(b"x") == session.up(b"x") == session.end() == ()
    assert session.farewell("sorry", b"{}") == b""
    assert session.down_border == 0
