"""Recordings over real sockets, to a recorder in another thread."""

from __future__ import annotations

import json
import random
from contextlib import contextmanager

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint

from tailproxy.interfaces import SinkError
from tailproxy.record.recorders import Recorders
from tailproxy.testing import FakeDialer
from tests.record.recorder import Manners, Recorder
from tests.record.wires import A


class Drained:
    """A watcher that writes only while there is room."""

    def __init__(self, upload):
        self.upload = upload
        self.room = Deferred()
        self.failed = Deferred()
        upload.watch(self)

    def upload_drained(self):
        room, self.room = self.room, Deferred()
        room.callback(None)

    def upload_failed(self, error):
        self.failed.callback(error)

    async def write(self, data):
        if self.upload.full:
            await self.room
        self.upload.write(data)


@contextmanager
def recording(manners, limit=1 << 20):
    with Recorder(manners) as recorder:
        real = TCP4ClientEndpoint(reactor, "127.0.0.1", recorder.port)
        yield recorder, Recorders(reactor, FakeDialer({A: real}), limit)


@pytest.mark.parametrize("version", [2, 1])
@pytest_twisted.ensureDeferred
async def test_eight_recordings_at_once_arrive_whole_and_in_order(version):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    lines = [json.dumps([n, "o", "x" * dice.randrange(3000)]).encode() + b"\n" for n in range(2000)]
    with recording(Manners((version,)), limit=64 << 10) as (recorder, recorders):

        async def record(number):
            upload = await recorders.sink([A]).open(f"s-{number}")
            watcher = Drained(upload)
            await watcher.write(b'{"number":%d}\n' % number)
            for line in lines:
                await watcher.write(line)
                assert upload.backlog < (64 << 10) + 4000
            await upload.finish()

        await gatherResults([Deferred.fromCoroutine(record(number)) for number in range(8)])
        assert sorted(each.lines[0]["number"] for each in recorder.recordings) == list(range(8))
        for each in recorder.recordings:
            assert each.whole
            assert bytes(each.data).partition(b"\n")[2] == b"".join(lines)


@pytest.mark.parametrize("version", [2, 1])
@pytest_twisted.ensureDeferred
async def test_a_recorder_that_dies_is_noticed_at_once(version):
    with recording(Manners((version,))) as (recorder, recorders):
        upload = await recorders.sink([A]).open("s-1")
        watcher = Drained(upload)
        upload.write(b"{}\n")
        recorder.cut()
        error = await watcher.failed
        assert error.reason == "the recorder has closed the connection"
        with pytest.raises(SinkError):
            await upload.finish()


@pytest_twisted.ensureDeferred
async def test_proxies_of_the_environment_are_not_used(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with recording(Manners()) as (recorder, recorders):
        upload = await recorders.sink([A]).open("s-1")
        upload.write(b"{}\n")
        await upload.finish()
        assert recorder.recordings[0].whole
