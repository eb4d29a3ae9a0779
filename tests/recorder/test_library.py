"""Recordings are looked at while they are made, and afterwards."""

from __future__ import annotations

import pyrage
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tailproxy.interfaces import IRecordingFollower, IRecordings
from tailproxy.recorder.library import Library
from tailproxy.recordings import RecordingQuery
from tests.proxy.servers import eventually
from tests.recorder.place import event, header

run = pytest_twisted.ensureDeferred


@implementer(IRecordingFollower)
class Follower:
    """Keeps what it is handed."""

    def __init__(self) -> None:
        self.lines = b""

    def recorded(self, lines: bytes) -> None:
        assert lines.endswith(b"\n")
        self.lines += lines


async def live(place, lines):
    client = await place.dial()
    stream = client.request("POST", "/v2/record")
    client.send(stream, lines)
    await client.until(lambda: client.acked(stream) == len(lines))
    (found,) = (await place.library.search(RecordingQuery())).recordings
    return client, stream, found


@run
async def test_a_live_one_is_followed_to_its_end(place):
    lines = header() + event(1, "one")
    client, stream, found = await live(place, lines)
    verifyObject(IRecordings, place.library)
    follower, late = Follower(), Follower()
    following = place.library.follow(found.id, 0, follower)
    await eventually(lambda: follower.lines == lines)
    more = event(2, "two")
    client.send(stream, more)
    await eventually(lambda: follower.lines == lines + more)
    place.library.follow(found.id, len(lines), late)
    client.send(stream, event(3, "three"), end=True)
    await following
    assert follower.lines == lines + more + event(3, "three")
    await eventually(lambda: late.lines == more + event(3, "three"))
    client.transport.loseConnection()


@run
async def test_one_that_is_complete_is_followed_too(place):
    client = await place.dial()
    lines = header() + event(1, "x" * 1000) * 1000
    await client.upload(lines)
    (found,) = (await place.library.search(RecordingQuery())).recordings
    follower = Follower()
    await place.library.follow(found.id, 0, follower)
    assert follower.lines == lines
    client.transport.loseConnection()


@run
async def test_following_can_be_given_up(place):
    client, _, found = await live(place, header())
    follower = Follower()
    following = place.library.follow(found.id, 0, follower)
    await eventually(lambda: follower.lines)
    following.cancel()
    try:
        await following
    except CancelledError:
        pass
    else:
        raise AssertionError("it went on")
    client.transport.loseConnection()


@run
async def test_one_that_is_encrypted_is_read_as_it_is_and_not_followed(make_place):
    key = pyrage.x25519.Identity.generate()
    place = make_place(Encrypt=[str(key.to_public())])
    client = await place.dial()
    lines = header() + event(1, "x" * 1000) * 1000
    assert (await client.upload(lines))[-1] == {"ack": len(lines)}
    (found,) = (await place.library.search(RecordingQuery())).recordings
    data = b""
    while piece := await place.library.read(found.id, len(data)):
        data += piece
    assert len(data) == found.size
    assert pyrage.decrypt(data, [key]) == lines
    follower = Follower()
    await place.library.follow(found.id, 0, follower)
    assert follower.lines == b""
    client.transport.loseConnection()


@run
async def test_of_a_live_one_whole_lines_are_read(place):
    client, stream, found = await live(place, header())
    (part,) = place.folder.glob("*/*.part")
    with part.open("ab") as file:
        file.write(b"[1,")
    assert await place.library.read(found.id, 0) == header()
    assert await place.library.read(found.id, len(header())) == b""
    part.write_bytes(header())
    client.send(stream, b"", end=True)
    await client.answered(stream)
    client.transport.loseConnection()


@run
async def test_before_there_is_anything_there_is_nothing(tmp_path, nothing_left):  # noqa: ARG001 - it checks our end
    library = Library(reactor, tmp_path / "later")
    library.startService()
    assert (await library.search(RecordingQuery())).recordings == ()
    assert await library.find("x") is None
    assert await library.read("x", 0) == b""
    assert not await library.end("x", "y")
    await library.follow("x", 0, Follower())
    await library.stopService()
