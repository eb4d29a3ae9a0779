"""The `serve` port is for tailscaled's user and for root."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from tailproxy.proxy.peer import SocketOwners, TailscaledOnly

ADDRESSES = ["127.0.0.2", "::1"]


@pytest.fixture
def owners():
    owners = SocketOwners()
    yield owners
    owners.close()


@pytest.fixture(params=ADDRESSES)
def pair(request):
    """Both ends of a connection on loopback: the client's and ours."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family) as listening:
        listening.bind((request.param, 0))
        listening.listen()
        client = socket.create_connection(listening.getsockname()[:2])
        ours, _ = listening.accept()
    yield client, ours
    client.close()
    ours.close()


@pytest.fixture
def daemon(tmp_path):
    """Where the daemon's socket is; the file is there."""
    path = tmp_path / "tailscaled.sock"
    path.touch()
    return path


@pytest.fixture
def doorkeeper(daemon):
    doorkeeper = TailscaledOnly(daemon)
    yield doorkeeper
    doorkeeper.close()


def test_kernel_names_the_owner_of_the_other_end(owners, pair):
    client, _ = pair
    for _ in range(3):
        found = owners.owner(client.getsockname()[:2], client.getpeername()[:2])
        assert found == os.getuid()


def test_connection_that_does_not_exist_has_no_owner(owners, pair):
    client, _ = pair
    here, there = client.getsockname()[:2], client.getpeername()[:2]
    assert owners.owner((here[0], 1), there) is None


def test_user_of_the_daemons_socket_is_admitted(pair, doorkeeper):
    assert doorkeeper.admits(pair[1])


def test_other_users_are_refused(pair, doorkeeper, monkeypatch):
    somebody = os.getuid() + 1000
    monkeypatch.setattr(SocketOwners, "owner", lambda *_: somebody)
    assert not doorkeeper.admits(pair[1])


def test_connection_whose_owner_is_unknown_is_refused(pair, doorkeeper):
    client, ours = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert not doorkeeper.admits(ours)


def test_user_is_remembered_while_the_daemon_is_away(pair, daemon, doorkeeper, monkeypatch):
    daemon.unlink()
    monkeypatch.setattr(SocketOwners, "owner", lambda *_: os.getuid() + 1000)
    assert doorkeeper.admits(pair[1]), "nobody gets further before it is there"
    daemon.touch()
    assert not doorkeeper.admits(pair[1])
    daemon.unlink()
    assert not doorkeeper.admits(pair[1])
