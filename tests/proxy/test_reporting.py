"""Requests of which a recorder is told."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tailproxy.interfaces import IRequestEvents, SinkError
from tailproxy.proxy.reporting import Reporting
from tailproxy.wire.events import BODY_BYTES, RecordedBody
from tests.proxy.servers import eventually

GET = b"GET /api/v1/pods HTTP/1.1\r\nHost: kube\r\n\r\n"
PUT = (
    b"PUT /api/v1/namespaces/d/configmaps/c HTTP/1.1\r\nHost: kube\r\nContent-Length: %d\r\n%b\r\n"
)
SECRET = (
    b"PUT /api/v1/namespaces/d/secrets/s HTTP/1.1\r\nHost: kube\r\nContent-Length: 4\r\n\r\nhush"
)


@implementer(IRequestEvents)
class Events:
    """Recorders in the test's hands."""

    def __init__(self) -> None:
        self.told: list[RecordedBody] = []
        self.answers: list[Deferred[str]] = []
        self.given_up = 0

    def report(self, identity, head, body):
        assert identity.user == "ada@corp.example"
        assert head.target.startswith(b"/api/v1/")
        self.told.append(body)

        def cancel(_: Deferred[str]) -> None:
            self.given_up += 1

        answer: Deferred[str] = Deferred(cancel)
        self.answers.append(answer)
        return answer


class Root:
    """Has the reverse proxy go on with requests of which a recorder is told."""

    def __init__(self, plane, events, *, enforced) -> None:
        self.plane = plane
        self.proxy = plane.site.root
        self.events = events
        self.enforced = enforced
        self.handed_on = 0

    def render(self, request):
        def found(identity) -> None:
            request.identity = identity
            Reporting(request, identity, self.plane.metrics, go_on, enforced=self.enforced).start(
                self.events
            )

        def go_on() -> None:
            self.handed_on += 1
            self.plane.resolver.asked.pop()  # who is behind asks again
            self.proxy.render(request)

        self.plane.resolver.resolve(request.caller).addCallback(found)


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def enforced(plane, events) -> Root:
    root = plane.site.root = Root(plane, events, enforced=True)
    return root


@pytest.fixture
def beside(plane, events) -> Root:
    root = plane.site.root = Root(plane, events, enforced=False)
    return root


async def answer(plane, client, body: bytes = b"") -> None:
    """Have the API server answer once it has the body."""
    server = await plane.server.connection()
    await server.receives(b"\r\n\r\n" + body)
    server.take()
    server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await client.receives(b"ok")


class TestEnforced:
    async def test_recorder_has_the_event_before_the_request_goes_on(self, plane, events, enforced):
        client = await plane.client()
        client.send(GET)
        await eventually(lambda: events.told)
        assert events.told == [RecordedBody()]
        assert (enforced.handed_on, plane.server.connections) == (0, [])
        events.answers[0].callback("100.64.0.9:80")
        await answer(plane, client)
        [record] = await plane.answered()
        assert (record.recorded, record.decision) == ("100.64.0.9:80", "forward")

    async def test_without_a_recorder_it_is_refused_and_the_api_server_never_hears_of_it(
        self, plane, events, enforced
    ):
        client = await plane.client()
        client.send(GET)
        await eventually(lambda: events.told)
        events.answers[0].errback(SinkError("the recorder takes no events", "100.64.0.9:80 does"))
        told = await client.receives(b'"code": 403')
        assert b"a recorder must be told about this request, and cannot be: the recorder" in told
        assert b"100.64.0.9" not in told
        assert (enforced.handed_on, plane.server.connections) == (0, [])
        [record] = await plane.answered()
        assert (record.decision, record.denied) == ("refuse", "event-unrecorded")

    async def test_body_is_in_the_event_and_goes_on_whole(self, plane, events, enforced):
        client = await plane.client()
        client.send(PUT % (6, b""))
        client.send(b"abc")
        await eventually(lambda: plane.site.connections)
        assert events.told == []
        client.send(b"def")
        await eventually(lambda: events.told)
        assert (events.told[0].kept, events.told[0].length) == (b"abcdef", 6)
        assert enforced.handed_on == 0
        events.answers[0].callback("there")
        await answer(plane, client, b"abcdef")

    async def test_of_a_large_body_the_beginning_is_waited_for_alone(self, plane, events, enforced):
        size = 4 * BODY_BYTES
        client = await plane.client()
        client.send(PUT % (size, b"") + b"x" * (2 * BODY_BYTES))
        await eventually(lambda: events.told)
        [body] = events.told
        assert (len(body.kept), body.length, body.truncated) == (BODY_BYTES, size, True)
        events.answers[0].callback("there")
        client.send(b"x" * (2 * BODY_BYTES - 1) + b"!")
        await answer(plane, client, b"x" * (size - 1) + b"!")

    async def test_client_that_waits_for_a_100_gets_it(self, plane, events, enforced):
        client = await plane.client()
        client.send(PUT % (3, b"Expect: 100-continue\r\n"))
        await client.receives(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(b"abc")
        await eventually(lambda: events.told)
        events.answers[0].callback("there")
        await answer(plane, client, b"abc")
        assert enforced.handed_on == 1

    async def test_nothing_of_a_secret_is_told(self, plane, events, enforced):
        client = await plane.client()
        client.send(SECRET)
        await eventually(lambda: events.told)
        assert (events.told[0].redacted, events.told[0].kept) == (True, b"")
        events.answers[0].callback("there")
        await answer(plane, client, b"hush")
        assert enforced.handed_on == 1

    async def test_client_that_goes_meanwhile_gives_it_up(self, plane, events, enforced):
        client = await plane.client()
        client.send(GET)
        await eventually(lambda: events.told)
        client.transport.abortConnection()
        await eventually(lambda: events.given_up == 1)
        [record] = await plane.answered()
        assert (record.status, record.decision) == (499, "none")
        assert enforced.handed_on == 0

    async def test_error_of_our_own_is_no_pass(self, plane, events, enforced, expect_logged):
        client = await plane.client()
        client.send(GET)
        await eventually(lambda: events.told)
        events.answers[0].errback(ZeroDivisionError())
        await client.receives(b'"code": 500')
        assert enforced.handed_on == 0
        expect_logged(ZeroDivisionError)


class TestBeside:
    async def test_request_does_not_wait(self, plane, events, beside):
        client = await plane.client()
        client.send(GET)
        await answer(plane, client)
        assert (beside.handed_on, events.told) == (1, [RecordedBody()])
        events.answers[0].callback("there")

    async def test_failure_is_counted_and_nothing_else(self, plane, events, beside):
        client = await plane.client()
        client.send(GET)
        await eventually(lambda: events.told)
        events.answers[0].errback(SinkError("the recorder is away"))
        await answer(plane, client)
        [record] = await plane.answered()
        assert record.reason == "no recorder was told: the recorder is away"
        assert plane.metric("tailproxy_unrecorded_total") == 1
        assert beside.handed_on == 1

    async def test_event_follows_the_body(self, plane, events, beside):
        client = await plane.client()
        client.send(PUT % (6, b"") + b"abc")
        server = await plane.server.connection()
        await server.receives(b"abc")
        assert events.told == []
        client.send(b"def")
        await answer(plane, client, b"abcdef")
        assert [body.kept for body in events.told] == [b"abcdef"]
        assert events.told[0].sha256 is not None
        assert beside.handed_on == 1

    async def test_answer_before_the_end_of_the_body_does_not_lose_the_event(
        self, plane, events, beside
    ):
        client = await plane.client()
        client.send(PUT % (6, b"") + b"abc")
        server = await plane.server.connection()
        await server.receives(b"abc")
        server.send(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
        await client.receives(b"no")
        await eventually(lambda: events.told)
        [body] = events.told
        assert (body.kept, body.length, body.truncated) == (b"abc", 6, True)
        assert beside.handed_on == 1
