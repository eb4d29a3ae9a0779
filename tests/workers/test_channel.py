"""The control channel, over real sockets."""

from __future__ import annotations

import errno
import os
import resource
import socket
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.interfaces import IReadWriteDescriptor
from zope.interface.verify import verifyObject

from tailproxy.workers.channel import Channel
from tailproxy.workers.messages import Connection, Leave, Load, Ready, encode
from tests.proxy.servers import eventually


class Owner:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, socket.socket | None]] = []
        self.lost: list[str] = []
        self.emptied = 0

    def message_received(self, message, connection):
        self.heard.append((message, connection))

    def channel_emptied(self):
        self.emptied += 1

    def channel_lost(self, reason):
        self.lost.append(reason)

    @property
    def messages(self) -> list[object]:
        return [message for message, _ in self.heard]


class End:
    """One end of a channel, and who it belongs to."""

    def __init__(self, sock: socket.socket) -> None:
        self.owner = Owner()
        self.channel = Channel(reactor, sock, self.owner)


@pytest.fixture
def ends():
    made = [End(sock) for sock in socket.socketpair()]
    yield made
    for end in made:
        end.channel.close()
        for _, connection in end.owner.heard:
            if connection is not None:
                connection.close()


@pytest.fixture
def line():
    """Make connected pairs, one end to be sent away and one to watch it by."""
    made = []

    def make() -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair()
        made.extend(pair)
        return pair

    yield make
    for each in made:
        each.close()


def test_it_is_what_the_reactor_takes(ends):
    assert verifyObject(IReadWriteDescriptor, ends[0].channel)


@pytest_twisted.ensureDeferred
async def test_messages_go_both_ways_in_order(ends):
    one, other = ends
    sent = [Load(number, 1) for number in range(100)]
    for message in sent:
        one.channel.send(message)
    other.channel.send(Leave())
    await eventually(lambda: len(other.owner.heard) == 100 and one.owner.heard)
    assert other.owner.messages == sent
    assert one.owner.messages == [Leave()]


@pytest_twisted.ensureDeferred
async def test_a_connection_arrives_as_it_was_with_its_listener(ends, line):
    one, other = ends
    given, watched = line()
    one.channel.send(Connection("serve"), given)
    assert given.fileno() == -1  # ours is closed
    await eventually(lambda: other.owner.heard)
    ((message, got),) = other.owner.heard
    assert message == Connection("serve")
    watched.sendall(b"through")
    assert got.recv(10) == b"through"
    assert got.getblocking() is False
    assert os.get_inheritable(got.fileno()) is False


@pytest_twisted.ensureDeferred
async def test_connections_and_messages_do_not_mix_up(ends, line):
    one, other = ends
    watched = []
    for number in range(300):
        if number % 3:
            one.channel.send(Load(number, 0))
            continue
        given, watch = line()
        watched.append(watch)
        one.channel.send(Connection(f"listener-{number}"), given)
        watch.sendall(str(number).encode())
    await eventually(lambda: len(other.owner.heard) == 300)
    for message, connection in other.owner.heard:
        if isinstance(message, Connection):
            assert message.listener == f"listener-{connection.recv(10).decode()}"
        else:
            assert connection is None


@pytest_twisted.ensureDeferred
async def test_what_does_not_fit_waits_and_nothing_is_lost(line):
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    one = End(ours)
    pairs = [line() for _ in range(200)]
    for number, (given, _) in enumerate(pairs):
        one.channel.send(Connection(str(number)), given)
    waiting = one.channel.waiting
    assert 0 < waiting < 200
    # What has not been sent is still open here.
    assert [given.fileno() == -1 for given, _ in pairs].count(True) == 200 - waiting
    assert one.owner.emptied < 200
    other = End(theirs)
    await eventually(lambda: len(other.owner.heard) == 200)
    assert one.channel.waiting == 0
    assert [message.listener for message in other.owner.messages] == [*map(str, range(200))]
    for connection in [connection for _, connection in other.owner.heard]:
        connection.close()
    one.channel.close()
    other.channel.close()


@pytest_twisted.ensureDeferred
async def test_a_message_larger_than_every_buffer_arrives(ends):
    one, other = ends
    message = Connection("x" * 3_000_000)
    one.channel.send(message)
    one.channel.send(Ready())
    await eventually(lambda: len(other.owner.heard) == 2)
    assert other.owner.messages == [message, Ready()]


@pytest_twisted.ensureDeferred
async def test_what_was_not_sent_to_one_that_died_can_be_taken_back(line):
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    one = End(ours)
    pairs = [line() for _ in range(100)]
    for number, (given, _) in enumerate(pairs):
        one.channel.send(Connection(str(number)), given)
    waiting = one.channel.waiting
    theirs.close()
    await eventually(lambda: one.owner.lost)
    unsent = one.channel.take_unsent()
    assert [name for name, _ in unsent] == [*map(str, range(100))][-waiting:]
    assert all(sock.fileno() != -1 for _, sock in unsent)
    assert one.channel.take_unsent() == []
    assert len(one.owner.lost) == 1


@pytest_twisted.ensureDeferred
async def test_last_words_are_heard_before_the_end(ends):
    one, other = ends
    one.channel.send(Leave())
    one.channel.close()
    await eventually(lambda: other.owner.lost)
    assert other.owner.messages == [Leave()]
    assert other.owner.lost == ["closed"]
    assert one.owner.lost == []


@pytest_twisted.ensureDeferred
async def test_one_that_talks_nonsense_is_given_up():
    ours, theirs = socket.socketpair()
    end = End(ours)
    theirs.sendall(b"\xff" * 8)
    await eventually(lambda: end.owner.lost)
    assert "bytes" in end.owner.lost[0]
    theirs.close()


@pytest_twisted.ensureDeferred
async def test_too_many_descriptors_on_their_way_are_tried_again(ends, line, monkeypatch):
    one, other = ends
    given, _ = line()
    real, attempts = socket.send_fds, []

    def crowded(*arguments):
        attempts.append(arguments)
        if len(attempts) < 3:
            raise OSError(errno.ETOOMANYREFS, "Too many references")
        return real(*arguments)

    monkeypatch.setattr(socket, "send_fds", crowded)
    one.channel.send(Connection("serve"), given)
    assert one.channel.waiting == 1
    await eventually(lambda: other.owner.heard)
    assert len(attempts) == 3
    assert other.owner.heard[0][1] is not None


def plug_gaps() -> list[int]:
    """Open descriptors until every number below the highest is taken."""
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    plugs = [os.open(os.devnull, os.O_RDONLY)]
    while plugs[-1] <= highest:
        plugs.append(os.open(os.devnull, os.O_RDONLY))
    return plugs


@pytest_twisted.ensureDeferred
async def test_a_connection_without_room_for_it_is_missed_and_the_next_is_not_taken_for_it(
    ends, line
):
    one, other = ends
    pairs = [line() for _ in range(3)]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    one.channel.send(Connection("none"), pairs[0][0])
    plugs = plug_gaps()
    # No descriptor beyond those that are open can be had.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(plugs) + 1, before[1]))
    try:
        other.channel.doRead()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for plug in plugs:
            os.close(plug)
    assert other.owner.heard == [(Connection("none"), None)]
    one.channel.send(Connection("some"), pairs[1][0])
    await eventually(lambda: len(other.owner.heard) == 2)
    message, connection = other.owner.heard[1]
    assert message == Connection("some")
    pairs[1][1].sendall(b"the second")
    assert connection.recv(20) == b"the second"


@pytest_twisted.ensureDeferred
async def test_a_closed_channel_closes_what_it_had_not_given_to_its_owner(line):
    ours, theirs = socket.socketpair()
    end = End(ours)
    given, watched = line()
    data = encode(Connection("serve"))
    socket.send_fds(theirs, [data[:5]], [given.fileno()])
    given.close()
    await eventually(lambda: end.channel._descriptors)
    end.channel.close()
    assert watched.recv(1) == b""
    theirs.close()
