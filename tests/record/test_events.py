"""Request events on their way to recorders."""

from __future__ import annotations

import json
from ipaddress import ip_address

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.protocols.policies import WrappingFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface.verify import verifyObject

from tailproxy.interfaces import IRequestEvents, SinkError
from tailproxy.metrics import Metrics
from tailproxy.policy.grants import GrantRule, Grants
from tailproxy.record import events
from tailproxy.record.events import (
    ALL_SECONDS,
    ANSWER_SECONDS,
    DEAD_SECONDS,
    DIAL_SECONDS,
    KNOWN_SECONDS,
    RequestEvents,
)
from tailproxy.testing import FakeDialer
from tailproxy.wire.addresses import AddressPort
from tailproxy.wire.events import Peer, RecordedBody
from tailproxy.wire.head import read_head
from tests.policy.whois import ada
from tests.proxy.servers import eventually

HEAD = read_head(b"GET", b"/api/v1/pods", "1.1", [(b"Host", b"kube")])
A, B = (AddressPort(ip_address(f"100.64.0.{number}"), 80) for number in (1, 2))


class Recorder(Resource):
    """Takes events.

    :ivar knows: status of the answer to HEAD.
    :ivar code: status of the answer to POST.
    :ivar silent: methods that it does not answer.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.knows = 200
        self.code = 200
        self.silent: set[bytes] = set()
        self.asked: list[bytes] = []
        self.events: list[dict] = []
        self.clients: set[int] = set()
        self._connections = WrappingFactory(Site(self))
        self.port = reactor.listenTCP(0, self._connections, interface="127.0.0.1")

    def render(self, request):
        assert request.uri == b"/v2/event"
        self.asked.append(request.method)
        self.clients.add(request.getClientAddress().port)
        if request.method in self.silent:
            request.notifyFinish().addErrback(lambda _: None)
            return NOT_DONE_YET
        request.setResponseCode(self.knows if request.method == b"HEAD" else self.code)
        if request.method == b"POST":
            assert request.getHeader("content-type") == "application/json"
            if self.code == 200:
                self.events.append(json.load(request.content))
        return b""

    def hang_up(self) -> None:
        """Close what is open."""
        for connection in list(self._connections.protocols):
            connection.transport.abortConnection()

    @property
    def endpoint(self) -> TCP4ClientEndpoint:
        return TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)


class World:
    """Two recorders, the object under test, and time that the test moves."""

    def __init__(self) -> None:
        self.a, self.b = Recorder(), Recorder()
        self.clock = Clock()
        self.metrics = Metrics("test")
        self.dialer = FakeDialer({A: self.a.endpoint, B: self.b.endpoint})
        self.events = RequestEvents(
            self.clock,
            self.dialer,
            self.metrics,
            lambda: Peer("kube.tail1.ts.net", "n9"),
            lambda: 1760000000.5,
        )

    def report(self, *addresses, fail_open=False, body=None) -> Deferred[str]:
        rule = GrantRule(
            recorder_addresses=addresses or (A,),
            enforce_recorder=not fail_open,
            enable_events=True,
        )
        identity = attrs.evolve(ada(), grants=Grants((rule,)))
        return self.events.report(identity, HEAD, body or RecordedBody())

    async def error(self, *addresses, **more) -> SinkError:
        with pytest.raises(SinkError) as caught:
            await self.report(*addresses, **more)
        return caught.value

    def counted(self, result: str) -> float:
        name = "tailproxy_request_events_total"
        return self.metrics.registry.get_sample_value(name, {"result": result}) or 0.0

    async def end(self) -> None:
        await self.events.stopService()
        for recorder in (self.a, self.b):
            await maybeDeferred(recorder.port.stopListening)


@pytest.fixture
def world():
    made = World()
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.end()))


async def test_event_is_taken_and_says_who_and_where(world):
    verifyObject(IRequestEvents, world.events)
    assert await world.report(body=RecordedBody(b"{}", 2)) == "100.64.0.1:80"
    [event] = world.a.events
    assert event["source"] == {
        "node": "laptop.corp-cat.ts.net",
        "nodeID": "nABC123CNTRL",
        "nodeUserID": 77,
        "nodeUser": "ada@corp.example",
    }
    assert event["destination"] == {"node": "kube.tail1.ts.net", "nodeID": "n9"}
    assert event["timestamp"] == 1760000000
    assert event["request"]["body"] == "e30="
    assert world.counted("recorded") == 1


async def test_recorder_is_asked_once_in_five_minutes_over_one_connection(world):
    for _ in range(3):
        await world.report()
    assert world.a.asked == [b"HEAD", b"POST", b"POST", b"POST"]
    assert len(world.a.clients) == 1
    world.clock.advance(KNOWN_SECONDS)
    await world.report()
    assert world.a.asked[4:] == [b"HEAD", b"POST"]


async def test_many_at_once_ask_once(world):
    for taken in [world.report() for _ in range(20)]:
        await taken
    assert world.a.asked.count(b"HEAD") == 1
    assert len(world.a.events) == 20
    assert len(world.a.clients) <= 5


async def test_next_recorder_takes_what_the_first_does_not(world):
    world.a.code = 500
    assert await world.report(A, B) == "100.64.0.2:80"
    assert await world.report(A, B) == "100.64.0.2:80"
    # The first is known to be dead, so it was not asked again.
    assert world.a.asked == [b"HEAD", b"POST"]
    world.a.code = 200
    world.clock.advance(DEAD_SECONDS)
    assert await world.report(A, B) == "100.64.0.1:80"


@pytest.mark.parametrize("fail_open", [True, False])
async def test_recorder_that_knows_no_events_has_not_taken_one(world, fail_open):
    world.a.knows = 404
    error = await world.error(A, fail_open=fail_open)
    assert error.reason == "the recorder takes no events"
    assert error.detail == "100.64.0.1:80 takes no events"
    assert world.a.asked == [b"HEAD"]
    assert world.counted("failed") == 1


@pytest.mark.parametrize("fail_open", [True, False])
async def test_one_that_knows_none_and_one_that_fails_are_no_recorder(world, fail_open):
    world.a.knows = 404
    world.b.code = 503
    error = await world.error(A, B, fail_open=fail_open)
    assert error.reason == "no recorder takes events now"
    assert error.detail == ("100.64.0.1:80 takes no events; 100.64.0.2:80 answers 503 to an event")


async def test_dead_recorder_delays_no_request_that_may_go_on_without(world):
    await world.b.port.stopListening()
    await world.error(B, fail_open=True)
    dialled = len(world.dialer.dialled)
    error = await world.error(B, fail_open=True)
    assert error.reason == "no recorder takes events now"
    assert len(world.dialer.dialled) == dialled
    # A request that must not is not refused before it was tried.
    error = await world.error(B)
    assert error.reason == "the recorder cannot be reached"
    assert len(world.dialer.dialled) > dialled


async def test_log_tells_once_that_a_recorder_takes_no_events(world):
    world.a.code = 500
    with capturedLogs() as logged:
        for _ in range(5):
            await world.error()
    told = [formatEvent(event) for event in logged if "recorder" in event["log_format"]]
    assert told == ["a recorder takes no request events: 100.64.0.1:80 answers 500 to an event"]


async def test_kept_connection_that_was_closed_meanwhile_loses_no_event(world):
    await world.report()
    world.a.hang_up()
    assert await world.report() == "100.64.0.1:80"
    assert len(world.a.events) == 2
    assert len(world.a.clients) == 2


@pytest.mark.parametrize("method", [b"HEAD", b"POST"])
async def test_recorder_that_hangs_is_waited_for_no_longer_than_stated(world, method):
    world.a.silent = {method}
    taken = world.report(A, B)
    await eventually(lambda: method in world.a.asked)
    world.clock.advance(ANSWER_SECONDS * 0.99)
    assert not taken.called
    world.clock.advance(ANSWER_SECONDS * 0.02)
    assert await taken == "100.64.0.2:80"
    assert world.a.events == []


async def test_recorder_that_cannot_be_dialled_is_waited_for_no_longer_than_stated(world):
    class Nowhere:
        def connect(self, factory):
            return Deferred()

    world.dialer.endpoints[A] = Nowhere()
    taken = world.report(A, B)
    world.clock.advance(DIAL_SECONDS)
    assert await taken == "100.64.0.2:80"


async def test_all_together_take_no_longer_than_stated(world):
    class Nowhere:
        def connect(self, factory):
            return Deferred()

    addresses = [AddressPort(ip_address(f"100.64.1.{number}"), 80) for number in range(20)]
    world.dialer.endpoints.update(dict.fromkeys(addresses, Nowhere()))
    taken = world.report(*addresses)
    world.clock.pump([1.0] * (int(ALL_SECONDS) - 1))
    assert not taken.called
    world.clock.advance(1)
    with pytest.raises(SinkError, match="no recorder has taken the event within 30 s"):
        await taken


async def test_what_waits_has_a_limit_for_requests_that_may_go_on_without(world, monkeypatch):
    monkeypatch.setattr(events, "WAITING_AT_MOST", 3)
    world.a.silent = {b"POST"}
    waiting = [world.report(fail_open=True) for _ in range(3)]
    assert (await world.error(fail_open=True)).reason == "too many events wait"
    assert world.counted("dropped") == 1
    for taken in waiting:
        taken.addErrback(lambda failure: failure.trap(SinkError))
    enforced = world.report()
    assert not enforced.called
    enforced.addErrback(lambda failure: failure.trap(SinkError))
    await eventually(lambda: world.a.asked.count(b"POST") == 4)
    world.clock.advance(ALL_SECONDS)
