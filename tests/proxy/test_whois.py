"""Rule 1: no identity, no request; no decision, no request; an error is a refusal."""

from __future__ import annotations

import json

import pytest
from twisted.internet.defer import Deferred, fail

from tailproxy.errors import ResolverUnavailableError, UnusableIdentityError
from tailproxy.policy import headers
from tailproxy.proxy import reverse
from tailproxy.proxy.request import Body
from tests.proxy.plane import ADA, STRANGER, Plane, identity
from tests.proxy.servers import eventually

GET = b"GET /x HTTP/1.1\r\nHost: kube\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: kube\r\nContent-Length: 3\r\n\r\nabc"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def boom(*_: object, **__: object) -> object:
    raise RuntimeError("boom")


def break_resolver(plane: Plane, _: object) -> None:
    plane.resolver.resolve = boom


def break_resolver_later(plane: Plane, _: object) -> None:
    plane.resolver.resolve = lambda _: fail(RuntimeError("boom"))


def break_decision(_: Plane, monkeypatch) -> None:
    monkeypatch.setattr(reverse, "decide", boom)


def break_headers(_: Plane, monkeypatch) -> None:
    monkeypatch.setattr(reverse, "outgoing_block", boom)


def break_last_check(_: Plane, monkeypatch) -> None:
    monkeypatch.setattr(headers, "proven_block", boom)


def break_bearer(plane: Plane, _: object) -> None:
    plane.upstream.bearer = boom


def break_send(plane: Plane, _: object) -> None:
    plane.upstream.send = boom


def break_tls(plane: Plane, _: object) -> None:
    plane.access.broken = RuntimeError("boom")


def break_root(plane: Plane, _: object) -> None:
    plane.site.root.render = boom


BREAKS = [
    break_resolver,
    break_resolver_later,
    break_decision,
    break_headers,
    break_last_check,
    break_bearer,
    break_send,
    break_tls,
    break_root,
]


@pytest.mark.parametrize("request_", [GET, POST], ids=["get", "post"])
@pytest.mark.parametrize("what", BREAKS, ids=lambda f: f.__name__)
async def test_error_anywhere_is_a_refusal_with_a_status(
    plane, monkeypatch, expect_logged, what, request_
):
    what(plane, monkeypatch)
    client = await plane.client()
    for count in (1, 2):  # the connection stays in order, too
        client.send(request_)
        answer = await client.receives(b"}")
        assert answer.startswith(b"HTTP/1.1 500 ")
        status = json.loads(client.take().split(b"\r\n\r\n", 1)[1])
        assert (status["kind"], status["code"], status["reason"]) == (
            "Status",
            500,
            "InternalError",
        )
        assert "boom" not in status["message"]
        assert len(plane.audit.records) == count
    assert all(wire.received == b"" for wire in plane.server.connections)
    assert {(r.status, r.denied) for r in plane.audit.records} == {(500, "internal")}
    expect_logged(RuntimeError)


async def test_error_behind_the_send_ends_what_was_begun(plane, monkeypatch, expect_logged):
    client = await plane.client()
    client.send(GET)
    server = await plane.server.connection()
    await server.receives(b"\r\n\r\n")
    server.send(OK)
    await client.receives(b"ok")
    client.take()
    monkeypatch.setattr(Body, "deliver_to", boom)
    client.send(POST)
    assert (await client.receives(b"}")).startswith(b"HTTP/1.1 500 ")
    await server.ends(1.0)
    client.take()
    client.send(GET)
    again = await plane.server.connection(1)
    await again.receives(b"GET /x")
    again.send(OK)
    assert await client.receives(b"ok") == OK
    expect_logged(RuntimeError)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnusableIdentityError("node x has no user"), 403),
        (ResolverUnavailableError("no socket"), 503),
    ],
)
async def test_resolvers_errors_are_answers(plane, error, code):
    plane.resolver.resolve = lambda _: fail(error)
    client = await plane.client()
    client.send(GET)
    answer = await client.receives(b"}")
    assert answer.startswith(b"HTTP/1.1 %d " % code)
    assert b"Retry-After" not in answer
    assert plane.server.connections == []
    assert [(r.status, r.denied) for r in plane.audit.records] == [(code, error.label)]


async def test_identity_is_asked_for_every_request_of_a_connection(plane):
    client = await plane.client()
    for user in ("ada@corp.example", "eve@corp.example"):
        plane.resolver.known[ADA] = identity(user)
        client.send(GET)
        server = await plane.server.connection()
        assert b"Impersonate-User: %b\r\n" % user.encode() in await server.receives(b"\r\n\r\n")
        server.take()
        server.send(OK)
        await client.receives(b"ok")
        client.take()


async def test_identity_without_a_name_is_never_forwarded(plane):
    plane.resolver.known[ADA] = identity("")
    client = await plane.client()
    client.send(GET)
    assert (await client.receives(b"}")).startswith(b"HTTP/1.1 403 ")
    assert plane.server.connections == []


async def test_discovery_is_refused_in_plain_text(plane):
    client = await plane.client(STRANGER)
    client.send(b"GET /api HTTP/1.1\r\nHost: kube\r\n\r\n")
    answer = await client.receives(b"tailnet\n")
    assert b"\r\nContent-Type: text/plain; charset=utf-8\r\n" in answer
    assert b"tailproxy: no node of this tailnet has the address 100.64.99.99" in answer


async def test_refusal_of_a_head_has_no_body_and_leaves_the_connection_usable(plane):
    client = await plane.client(STRANGER)
    for _ in range(2):
        client.send(GET.replace(b"GET", b"HEAD"))
        assert (await client.ends_with(b"\r\n\r\n")).startswith(b"HTTP/1.1 401 ")
        client.take()


async def test_answers_that_come_late_find_their_own_request(plane):
    plane.resolver.hold = Deferred()
    one, two = await plane.client(), await plane.client()
    one.send(GET.replace(b"/x", b"/one"))
    two.send(GET.replace(b"/x", b"/two"))
    await eventually(lambda: len(plane.resolver.asked) == 2)
    plane.resolver.hold.callback(None)
    for number in (0, 1):
        server = await plane.server.connection(number)
        head = await server.receives(b"\r\n\r\n")
        server.send(OK.replace(b"ok", b"!1" if b"/one" in head else b"!2"))
    await one.receives(b"!1")
    await two.receives(b"!2")
