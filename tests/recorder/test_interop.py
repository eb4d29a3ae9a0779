"""Our proxy and our recorder understand each other, in both versions of the protocol."""

from __future__ import annotations

import json

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from zope.interface import implementer

from tailproxy.interfaces import IUploadWatcher, SinkError
from tailproxy.metrics import Metrics
from tailproxy.policy.grants import GrantRule, Grants
from tailproxy.record.events import RequestEvents
from tailproxy.record.http1 import Http1Upload
from tailproxy.record.recorders import Recorders
from tailproxy.recordings import RecordingQuery, RecordingState
from tailproxy.testing import FakeDialer
from tailproxy.wire.addresses import AddressPort
from tailproxy.wire.cast import CastHeader, CastWriter, read_cast
from tailproxy.wire.events import RecordedBody
from tailproxy.wire.head import read_head
from tests.proxy.plane import identity
from tests.proxy.servers import eventually
from tests.recorder.place import LAPTOP, PROXY

ADDRESS = AddressPort.parse("100.99.99.99:80")
HEADER = CastHeader(
    timestamp=1760000000,
    src_node="laptop.corp-cat.ts.net",
    src_node_id="n1",
    src_node_user="ada@corp.example",
    namespace="shop",
    pod="web-0",
    command="sh",
    tailproxy={"command": ["sh"]},
)

run = pytest_twisted.ensureDeferred


@implementer(IUploadWatcher)
class Watcher:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.errors: list[SinkError] = []

    def upload_drained(self) -> None:
        pass

    def upload_failed(self, error: SinkError) -> None:
        self.errors.append(error)


def dialer(place, source: str = PROXY) -> FakeDialer:
    there = TCP4ClientEndpoint(reactor, "127.0.0.1", place.port, bindAddress=(source, 0))
    return FakeDialer({ADDRESS: there})


def sink(place, source: str = PROXY):
    return Recorders(reactor, dialer(place, source), 1 << 20).sink([ADDRESS])


def session() -> list[bytes]:
    writer = CastWriter(HEADER, terminal=True)
    return [
        writer.begin(),
        writer.resize(0.1, 120, 40),
        *(writer.output(0.2 + n / 100, 1, f"line {n} grüße\r\n".encode()) for n in range(200)),
        writer.resize(5.0, 80, 24),
        writer.end(6.0),
        writer.marker(6.0, "exit 3"),
    ]


async def upload(place, version: str):
    if version == "2":
        return await sink(place).open("s-1")
    made = await TCP4ClientEndpoint(
        reactor, "127.0.0.1", place.port, bindAddress=(PROXY, 0)
    ).connect(_Factory())
    await made.start(expect=True)
    return made


class _Factory:
    """Makes an upload of the first version."""

    noisy = False

    def doStart(self) -> None:
        pass

    doStop = doStart

    def buildProtocol(self, _address):
        return Http1Upload(reactor, str(ADDRESS), 1 << 20)


@pytest.mark.parametrize("version", ["1", "2"])
@run
async def test_what_a_proxy_records_is_kept(place, version):
    sent = await upload(place, version)
    watcher = Watcher()
    sent.watch(watcher)
    for lines in session():
        if lines:
            sent.write(lines)
    await sent.finish()
    assert place.only() == b"".join(session())
    (found,) = (await place.library.search(RecordingQuery())).recordings
    assert found.state is RecordingState.COMPLETE
    assert (found.user, found.pod, found.exit_code) == ("ada@corp.example", "web-0", 3)
    assert (found.width, found.height, found.duration) == (120, 40, 6.0)
    assert watcher.errors == []
    header, events = read_cast(place.only().splitlines(keepends=True))
    assert header == attrs.evolve(HEADER, width=120, height=40)
    assert [each.code for each in events] == ["o"] * 200 + ["r", "m"]


@run
async def test_a_session_that_does_not_begin_leaves_nothing(place):
    sent = await sink(place).open("s-1")
    sent.abandon()
    await eventually(lambda: not place.value("tailproxy_recorder_uploads_active"))
    assert not list(place.folder.glob("2*"))


@run
async def test_who_ends_a_recording_ends_the_upload_with_a_reason(place):
    sent = await sink(place).open("s-1")
    watcher = Watcher()
    sent.watch(watcher)
    for lines in session()[:-1]:
        sent.write(lines)
    query = RecordingQuery(state=RecordingState.LIVE)
    found = []

    async def look() -> bool:
        found[:] = (await place.library.search(query)).recordings
        return bool(found)

    while not await look():
        pass
    await place.library.end(found[0].id, "ended by bob@corp.example")
    await eventually(lambda: watcher.errors)
    assert "ended by bob@corp.example" in watcher.errors[0].detail


@run
async def test_a_proxy_that_is_not_named_is_refused(place):
    with pytest.raises(SinkError, match="403"):
        await sink(place, LAPTOP).open("s-1")


@run
async def test_a_full_disk_is_said_before_a_session_begins(make_place):
    place = make_place(FreeBytes=2**59)
    with pytest.raises(SinkError, match="507"):
        await sink(place).open("s-1")


@run
async def test_events_of_requests_are_taken(place):
    events = RequestEvents(reactor, dialer(place), Metrics("0"))
    events.startService()
    ada = identity(grants=Grants((GrantRule(recorder_addresses=(ADDRESS,), enable_events=True),)))
    head = read_head(b"GET", b"/api/v1/namespaces/shop/pods?limit=5", "1.1", [(b"Host", b"k")])
    assert await events.report(ada, head, RecordedBody()) == str(ADDRESS)
    (path,) = (place.folder / "events").iterdir()
    (kept,) = map(json.loads, path.read_text().splitlines())
    assert kept["kubernetes"]["Namespace"] == "shop"
    assert kept["source"]["node"] == "laptop.corp-cat.ts.net"
    await events.stopService()
