"""The way to the proxy, and what is said when it leads nowhere."""

from __future__ import annotations

import socket

import pytest

from tailproxy.client.access import Access
from tailproxy.client.connection import Connection, ConnectionFailed
from tests.client.servers import Played, tunnel
from tests.proxy.servers import Authority


def access(played: Played, **changes: object) -> Access:
    values: dict = {"context": "here", "server": played.url, "ca": played.ca_file.read_text()}
    return Access(**{**values, **changes})


def failure(given: Access) -> str:
    with Connection(given) as connection, pytest.raises(ConnectionFailed) as caught:
        connection.ask("/x")
    return str(caught.value)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_answers_come_over_one_verified_connection(played):
    with Connection(access(played)) as connection:
        first, second = connection.ask("/x"), connection.ask("/y", {"a": 1})
    assert (first.status, first.body["user"]) == (200, "ada@corp.example")
    assert (second.status, "status" in second.body) == (201, True)
    assert played.connections == 1
    assert [each[:3] for each in played.asked] == [("GET", "/x", None), ("POST", "/y", {"a": 1})]
    assert first.seconds > 0


def test_token_is_shown_only_where_it_is_wanted(played):
    with Connection(access(played, token="hush")) as connection:
        connection.ask("/x")
        connection.ask("/x", authorized=True)
    assert [each[3] for each in played.asked] == [None, "Bearer hush"]


def test_a_prefix_of_the_server_stays(played):
    with Connection(access(played, server=f"{played.url}/prefix")) as connection:
        connection.ask("/x")
    assert played.asked[0][1] == "/prefix/x"


@pytest.mark.parametrize(
    "changes", [{"ca": Authority().pem.decode()}, {"server_name": "other.ts.net"}, {"ca": None}]
)
def test_who_cannot_be_verified_gets_no_request(played, changes):
    message = failure(access(played, **changes))
    assert f"{played.url} is not trusted: " in message
    assert f"tailproxy kubeconfig {played.url}" in message
    assert played.asked == []


def test_server_name_of_the_context_counts(tmp_path):
    with Played(tmp_path, "kube.ts.net") as played:
        with Connection(access(played, server_name="kube.ts.net")) as connection:
            assert connection.ask("/x").status == 200
        assert "is not trusted" in failure(access(played))


def test_insecure_is_heeded(played):
    given = access(played, ca=None, insecure=True)
    with Connection(given) as connection:
        assert connection.ask("/x").status == 200


def test_the_way_leads_through_an_http_proxy(played):
    with (
        tunnel() as (port, asked),
        Connection(access(played, proxy=f"http://127.0.0.1:{port}")) as connection,
    ):
        assert connection.ask("/x").status == 200
        assert connection.ask("/x", {}).status == 201
    [line] = asked
    assert line.startswith(b"CONNECT 127.0.0.1:%d HTTP/1." % played.port)


def test_proxy_of_the_environment_counts(played, monkeypatch):
    with tunnel() as (port, asked):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        with Connection(access(played)) as connection:
            connection.ask("/x")
        assert asked
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Connection(access(played)) as connection:
        assert connection.ask("/x").status == 200


def test_proxy_that_does_not_know_the_way_is_named(played):
    with tunnel(b"HTTP/1.1 502 Bad Gateway\r\n\r\n") as (port, _):
        message = failure(access(played, proxy=f"http://127.0.0.1:{port}"))
    assert "through the HTTP proxy of context 'here'" in message
    assert "502" in message


def test_proxy_that_is_not_there_is_named(played):
    message = failure(access(played, proxy=f"http://127.0.0.1:{unused_port()}"))
    assert "through the HTTP proxy of context 'here': Connection refused" in message
    assert "tailscale status" in message


def test_nobody_there_is_said(played):
    message = failure(access(played, server=f"https://127.0.0.1:{unused_port()}"))
    assert "cannot connect to https://127.0.0.1:" in message
    assert "Connection refused; see whether tailscale is up here" in message


def test_name_that_cannot_be_resolved_is_said(played):
    message = failure(access(played, server="https://kube.invalid"))
    assert message.startswith("the name kube.invalid cannot be resolved; ")
    assert "tailscale up" in message


def test_server_that_hangs_up_is_said(played):
    with tunnel(b"") as (port, _):  # it takes what comes and goes
        message = failure(access(played, server=f"https://127.0.0.1:{port}"))
    assert "gave no answer: " in message
    assert "tailproxy doctor" in message


def test_ca_that_is_none_is_named(played):
    with pytest.raises(ConnectionFailed, match="context 'here': its certificate authority"):
        Connection(access(played, ca="no PEM"))
