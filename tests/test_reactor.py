"""The reactor: events reach their sockets, one that fails costs nobody else anything."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from twisted.internet.error import ConnectionLost
from twisted.logger import globalLogPublisher

from tailproxy.reactor import ProxyReactor


class Readable:
    """One end of a pair of sockets."""

    def __init__(self, does=lambda: None) -> None:
        self.socket, self.peer = socket.socketpair()
        self.reads = self.writes = 0
        self.lost = None
        self._does = does

    def fileno(self) -> int:
        return self.socket.fileno()

    def logPrefix(self) -> str:
        return "readable"

    def doRead(self):
        self.reads += 1
        self.socket.recv(100)
        return self._does()

    def doWrite(self) -> None:
        self.writes += 1

    def connectionLost(self, reason) -> None:
        self.lost = reason.value

    def close(self) -> None:
        self.socket.close()
        self.peer.close()


@pytest.fixture
def loop():
    loop = ProxyReactor()
    yield loop
    loop.removeAll()
    loop.waker.connectionLost(None)
    loop._poller.close()


@pytest.fixture
def make(loop):
    made = []

    def one(does=lambda: None) -> Readable:
        made.append(Readable(does))
        loop.addReader(made[-1])
        return made[-1]

    yield one
    for each in made:
        if each.fileno() != -1:
            loop.removeReader(each)
            loop.removeWriter(each)
        each.close()


@pytest.fixture
def failures():
    """What was logged as a failure."""
    seen = []

    def observe(event) -> None:
        if "log_failure" in event:
            seen.append(event["log_failure"].type)

    globalLogPublisher.addObserver(observe)
    yield seen
    globalLogPublisher.removeObserver(observe)


def boom() -> None:
    raise RuntimeError("boom")


def test_every_socket_that_has_something_is_read_in_one_turn(loop, make):
    sockets = [make() for _ in range(20)]
    for each in sockets[::2]:
        each.peer.send(b"x")
    loop.doIteration(0)
    assert [each.reads for each in sockets] == [1, 0] * 10


def test_nothing_is_read_without_a_reason(loop, make):
    one = make()
    loop.doIteration(0)
    assert one.reads == 0


def test_a_read_that_raises_costs_one_connection(loop, make, failures):
    bad, good = make(boom), make()
    bad.peer.send(b"x")
    good.peer.send(b"x")
    loop.doIteration(0)
    assert isinstance(bad.lost, RuntimeError)
    assert (good.reads, good.lost) == (1, None)
    assert loop.getReaders().count(bad) == 0
    assert failures == [RuntimeError]


def test_what_a_read_returns_ends_the_connection(loop, make):
    one = make(ConnectionLost)
    one.peer.send(b"x")
    loop.doIteration(0)
    assert isinstance(one.lost, ConnectionLost)
    assert one not in loop.getReaders()


def test_one_that_was_removed_in_the_same_turn_is_left_alone(loop, make):
    others = []
    first = make(lambda: [loop.removeReader(each) for each in others] and None)
    second = make(lambda: loop.removeReader(first))
    others.append(second)
    first.peer.send(b"x")
    second.peer.send(b"x")
    loop.doIteration(0)
    assert first.reads + second.reads == 1


def test_writers_and_ends_go_twisteds_way(loop, make):
    writer, ended = make(), make()
    loop.addWriter(writer)
    ended.peer.close()
    loop.doIteration(0)
    assert writer.writes == 1
    assert ended.lost is not None or ended.reads == 1


SCRIPT = """
import sys
sys.argv = ["twistd"]
{before}
from tailproxy.reactor import install
install()
from twisted.internet import reactor
print(type(reactor).__name__)
"""


@pytest.mark.parametrize(
    ("before", "found"),
    [
        ("", "ProxyReactor"),
        (
            "from twisted.internet import selectreactor; selectreactor.install()",
            "SelectReactor",
        ),
    ],
)
def test_it_is_installed_unless_another_one_was_chosen(before, found):
    script = SCRIPT.format(before=before)
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == found
