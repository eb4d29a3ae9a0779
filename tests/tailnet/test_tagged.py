"""Recorders by their tags: found among the peers, and only asked for where a grant needs it."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, gatherResults
from zope.interface.verify import verifyObject

from tailproxy.errors import ResolverUnavailableError, UnknownCallerError
from tailproxy.interfaces import IIdentityResolver
from tailproxy.policy.identity import Caller, identify
from tailproxy.tailnet.tagged import TaggedRecorders, recorders_by_tag
from tailproxy.testing import FakeIdentityResolver, Reply
from tailproxy.wire.addresses import AddressPort
from tests.tailnet.conftest import node_answer

ADA, BOB, EVE = (Caller(identify(node_answer()).addresses[0] + n, 1) for n in range(3))


def grant(**rule):
    return identify(node_answer(caps={"tailscale.com/cap/kubernetes": [rule]}))


def peer(number, *tags, online=True):
    return {
        "ID": f"n{number}",
        "Online": online,
        "Tags": list(tags) or None,
        "TailscaleIPs": [f"100.64.0.{number}", f"fd7a:115c:a1e0::{number}"],
    }


def addresses(*numbers):
    return tuple(
        AddressPort.parse(text)
        for number in numbers
        for text in (f"100.64.0.{number}:80", f"[fd7a:115c:a1e0::{number}]:80")
    )


PEERS = {
    "k1": peer(1, "tag:rec", online=False),
    "k2": peer(2, "tag:rec", "tag:other"),
    "k3": peer(3),
    "k4": peer(4, "tag:rec"),
}


def test_those_online_come_first_with_both_addresses_each():
    assert recorders_by_tag({"Peer": PEERS}) == {
        "tag:rec": addresses(2, 4, 1),
        "tag:other": addresses(2),
    }


@pytest.mark.parametrize("status", [{}, {"Peer": None}, {"Peer": {}}])
def test_without_peers_there_are_none(status):
    assert recorders_by_tag(status) == {}


@pytest.fixture
def inner():
    return FakeIdentityResolver(
        {
            ADA.address: grant(recorder=["tag:rec", "tag:other"], enforceRecorder=True),
            BOB.address: grant(recorder=["tag:rec"], recorderAddrs=["100.64.9.9:8080"]),
        }
    )


@pytest.fixture
def tagged(clock, api, inner, daemon):
    daemon.replies["status"] = Reply({"Peer": PEERS})
    tagged = TaggedRecorders(clock, api, inner)
    verifyObject(IIdentityResolver, tagged)
    return tagged


@pytest_twisted.ensureDeferred
async def test_a_grant_with_a_tag_alone_has_the_recorders_with_that_tag(tagged):
    identity = await tagged.resolve(ADA)
    assert identity.grants.recorder_addresses == addresses(2, 4, 1)
    assert not identity.grants.fail_open
    assert identity.user == "ada@corp.example"


@pytest_twisted.ensureDeferred
async def test_addresses_of_the_control_server_count_and_nothing_is_asked(tagged, daemon):
    identity = await tagged.resolve(BOB)
    assert [str(each) for each in identity.grants.recorder_addresses] == ["100.64.9.9:8080"]
    assert daemon.requests == []


@pytest_twisted.ensureDeferred
async def test_a_tag_that_nobody_has_gives_no_recorder(tagged, daemon):
    daemon.replies["status"] = Reply({"Peer": {}})
    identity = await tagged.resolve(ADA)
    assert identity.grants.recorder_addresses == ()
    assert not identity.grants.fail_open


@pytest_twisted.ensureDeferred
async def test_it_is_asked_once_in_ten_seconds(tagged, daemon, clock):
    first = await tagged.resolve(ADA)
    clock.advance(9)
    assert await tagged.resolve(ADA) is first
    assert len(daemon.requests) == 1
    clock.advance(1)
    daemon.replies["status"] = Reply({"Peer": {"k3": peer(3, "tag:rec")}})
    assert (await tagged.resolve(ADA)).grants.recorder_addresses == addresses(3)
    assert len(daemon.requests) == 2


@pytest_twisted.ensureDeferred
async def test_it_is_asked_once_for_all_who_wait(tagged, daemon):
    found = await gatherResults([tagged.resolve(ADA) for _ in range(5)])
    assert all(each is found[0] for each in found)
    assert len(daemon.requests) == 1


@pytest_twisted.ensureDeferred
async def test_who_does_not_wait_any_more_does_not_disturb_others(tagged):
    gone, waits = tagged.resolve(ADA), tagged.resolve(ADA)
    gone.cancel()
    with pytest.raises(CancelledError):
        await gone
    assert (await waits).grants.recorder_addresses


@pytest_twisted.ensureDeferred
async def test_without_an_answer_nobody_is_let_in_unrecorded(tagged, daemon):
    daemon.replies["status"] = Reply("broken\n", 500)
    with pytest.raises(ResolverUnavailableError, match="who the recorders are"):
        await tagged.resolve(ADA)
    daemon.replies["status"] = Reply({"Peer": PEERS})
    assert (await tagged.resolve(ADA)).grants.recorder_addresses


@pytest_twisted.ensureDeferred
async def test_who_is_unknown_stays_so(tagged):
    with pytest.raises(UnknownCallerError):
        await tagged.resolve(EVE)


@pytest_twisted.ensureDeferred
async def test_what_is_known_now_is_known_with_its_recorders(tagged, inner, clock):
    inner.recall = lambda caller: inner.known.get(caller.address)
    assert tagged.recall(ADA) is None
    assert tagged.recall(BOB) is inner.known[BOB.address]
    assert tagged.recall(EVE) is None
    identity = await tagged.resolve(ADA)
    assert tagged.recall(ADA) is identity
    clock.advance(10)
    assert tagged.recall(ADA) is None
