"""Who is refused for want of a grant is told so, now and then."""

from __future__ import annotations

import re

import pytest
from twisted.internet.task import Clock

from tailproxy.policy.decide import Mode
from tailproxy.proxy.hints import CALLERS, PER_CALLER, PERIOD, Hints
from tests.proxy.plane import ADA, identity

GET = b"GET /api/v1/nodes HTTP/1.1\r\nHost: kube\r\n\r\n"
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
# What the API server's own library reads (RFC 7234, 5.5), with nothing escaped.
WARNING = re.compile(rb'299 - "([ !#-\[\]-~]+)"')


def nobody(node_id: str = "n1", **changes: object):
    return identity(groups=(), node_id=node_id, **changes)


def told(hints: Hints, node_id: str, times: int) -> int:
    return sum(hints.hint(nobody(node_id)) is not None for _ in range(times))


def test_hint_names_user_and_node_and_what_to_ask_for():
    found = WARNING.fullmatch(Hints(Clock()).hint(nobody()) or b"")
    assert found is not None
    text = found[1].decode()
    assert "you are ada@corp.example on the node laptop.corp-cat.ts.net" in text
    assert "bind the user ada@corp.example" in text


def test_who_has_a_group_is_not_told():
    assert Hints(Clock()).hint(identity(groups=("dev",))) is None


def test_each_caller_is_told_a_few_times_an_hour():
    clock = Clock()
    hints = Hints(clock)
    assert told(hints, "a", 100) == PER_CALLER
    assert told(hints, "b", 100) == PER_CALLER
    clock.advance(PERIOD - 1)
    assert told(hints, "a", 100) == 0
    clock.advance(1)
    assert told(hints, "a", 100) == PER_CALLER


def test_memory_is_bounded():
    hints = Hints(Clock())
    for number in range(CALLERS + 500):
        assert hints.hint(nobody(f"n{number}")) is not None
    assert len(hints._told) == CALLERS


@pytest.mark.parametrize(
    "name",
    [
        'a"b\\c',
        "a\r\nSet-Cookie: x=1",
        "=?utf-8?q?=1b[2J?=@corp.example",
        "gr\u00fc\u00df\u202e@corp.example",
        "x" * 5000,
    ],
)
def test_whatever_a_name_holds_the_header_is_one_plain_line(name):
    warning = Hints(Clock()).hint(nobody(user=name, node=name)) or b""
    assert WARNING.fullmatch(warning)
    assert b"=?" not in warning
    assert len(warning) < 1000


async def refused(plane, answer: bytes = FORBIDDEN) -> bytes:
    client = await plane.client()
    client.send(GET)
    server = await plane.server.connection()
    await server.receives(b"\r\n\r\n")
    server.take()
    server.send(answer)
    return await client.receives(b"\r\n\r\nno")


async def test_refusal_of_the_api_server_carries_the_hint(plane):
    plane.resolver.known[ADA] = nobody()
    kept = b'Warning: 299 - "of the API server"\r\n'
    answer = await refused(plane, FORBIDDEN.replace(b"\r\n\r\n", b"\r\n%b\r\n" % kept))
    first, second = re.findall(rb"\n(Warning: [^\r]*)", answer)
    assert first == kept.strip()
    assert WARNING.fullmatch(second.removeprefix(b"Warning: "))
    assert answer.endswith(b"\r\n\r\nno")


async def test_other_answers_carry_none(plane):
    plane.resolver.known[ADA] = nobody()
    assert b"Warning" not in await refused(plane, FORBIDDEN.replace(b"403", b"404"))
    assert b"Warning" not in await refused(plane, FORBIDDEN.replace(b"403 Forbidden", b"200 OK"))


async def test_the_hints_end(plane):
    plane.resolver.known[ADA] = nobody()
    answers = [await refused(plane) for _ in range(PER_CALLER + 2)]
    assert [b"Warning" in answer for answer in answers] == [True] * PER_CALLER + [False] * 2


async def test_who_brings_own_credentials_gets_none(make_plane):
    plane = make_plane(mode=Mode.NOAUTH)
    plane.resolver.known[ADA] = nobody()
    assert b"Warning" not in await refused(plane)
