"""A recorder that is killed in the middle of uploads has lost nothing that it acknowledged."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater

from tailproxy.recorder.store import Store
from tailproxy.recordings import RecordingQuery, RecordingState
from tests.recorder.place import Sender, event, header

ROOT = Path(__file__).parent.parent.parent
UPLOADS = 4


class Child(ProcessProtocol):
    """The recorder's process."""

    def __init__(self, folder: Path) -> None:
        self.port: Deferred[int] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self._said = b""
        self.errors = b""
        reactor.spawnProcess(
            self,
            sys.executable,
            [sys.executable, "-m", "tests.recorder.child", str(folder)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            path=str(ROOT),
        )

    def outReceived(self, data):
        self._said += data
        if b"\n" in self._said and not self.port.called:
            self.port.callback(int(self._said))

    def errReceived(self, data):
        self.errors += data

    def processEnded(self, reason):
        self.ended.callback(None)


async def one_life(folder: Path, chance: random.Random) -> list[tuple[bytes, int]]:
    """Uploads to a recorder that is killed; what each sent, and how much was acknowledged."""
    child = Child(folder)
    port = await child.port.addTimeout(20, reactor)
    clients = []
    for number in range(UPLOADS):
        client = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), Sender())
        clients.append((client, client.request("POST", "/v2/record"), number))
    sent = dict.fromkeys(range(UPLOADS), b"")
    marks = [f"{chance.random()}" for _ in range(UPLOADS)]
    end = reactor.seconds() + chance.uniform(0.02, 0.6)
    while reactor.seconds() < end:
        client, stream, number = chance.choice(clients)
        lines = b"" if sent[number] else header(command=marks[number])
        lines += event(len(sent[number]) / 1000, "x" * chance.choice((1, 100, 20_000)))
        client.send(stream, lines)
        sent[number] += lines
        await deferLater(reactor, chance.choice((0, 0.001, 0.01)))
    child.transport.signalProcess("KILL")
    await child.ended
    acked = [(sent[number], client.acked(stream)) for client, stream, number in clients]
    for client, _, _ in clients:
        await client.until(lambda client=client: client.lost)
    return acked


@pytest.mark.timeout(900)
@pytest_twisted.ensureDeferred
async def test_what_was_acknowledged_is_there_after_a_kill(tmp_path, nothing_left, request):  # noqa: ARG001 - it checks our end
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    total = 0
    for life in range(200 if request.config.getoption("--soak") else 4):
        folder = tmp_path / str(life)
        uploads = await one_life(folder, chance)
        store = Store(folder)
        store.open()
        states = {each.state for each in store.index.search(RecordingQuery()).recordings}
        store.close()
        assert states <= {RecordingState.INTERRUPTED}
        whole = [path.read_bytes() for path in folder.glob("*/*.cast")]
        assert not list(folder.glob("*/*.part"))
        for sent, acked in uploads:
            total += acked
            mine = [data for data in whole if data and sent.startswith(data)]
            assert len(mine) == (1 if mine or acked else 0)
            assert acked <= len(mine[0]) if mine else acked == 0
            assert not mine or mine[0].endswith(b"\n")
    assert total
