"""Who is calling: what is asked, what is kept, and for how long."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from zope.interface.verify import verifyObject

from tailproxy.errors import (
    ResolverUnavailableError,
    UnknownCallerError,
    UnusableIdentityError,
)
from tailproxy.interfaces import IIdentityResolver
from tailproxy.policy.identity import Caller
from tailproxy.tailnet.localapi import LocalAPIError
from tailproxy.tailnet.resolver import KEPT_AT_MOST, LIFETIME, PATIENCE, TailscaledResolver
from tailproxy.testing import Reply
from tests.tailnet.conftest import granting, node_answer

LAPTOP = Caller(ip_address("100.64.0.5"), 50123)
QUESTION = "GET /localapi/v0/whois?addr=100.64.0.5"


@pytest.fixture
def resolver(clock, api, metrics):
    made = TailscaledResolver(clock, api, metrics)
    made.bus_connected()
    made.bus_message({"State": 6})
    return made


@pytest.fixture
def laptop(daemon):
    """The laptop is known."""
    daemon.whois["100.64.0.5"] = node_answer(caps=granting("dev"))


@pytest.fixture
def logged():
    events = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def count(metrics, result):
    return metrics.registry.get_sample_value("tailproxy_whois_total", {"result": result}) or 0


def hits(metrics):
    return metrics.registry.get_sample_value("tailproxy_whois_cache_hits_total")


def test_it_is_an_identity_resolver(metrics):
    verifyObject(IIdentityResolver, TailscaledResolver(Clock(), None, metrics))


class TestAnswers:
    @pytest_twisted.ensureDeferred
    async def test_a_known_caller_is_identified(self, resolver, daemon, laptop, metrics):
        identity = await resolver.resolve(LAPTOP)
        assert (identity.user, identity.groups) == ("ada@corp.example", ("dev",))
        assert identity.node == "laptop.corp-cat.ts.net"
        assert daemon.requests == [QUESTION]
        assert count(metrics, "ok") == 1

    @pytest_twisted.ensureDeferred
    async def test_dp_i21_an_unknown_one_is_a_401(self, resolver, metrics):
        with pytest.raises(UnknownCallerError, match=r"100\.64\.0\.5") as caught:
            await resolver.resolve(LAPTOP)
        assert caught.value.code == 401
        assert count(metrics, "unknown") == 1

    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(node_answer(user=""), id="dp_i13"),
            pytest.param(
                node_answer(caps={"tailscale.com/cap/kubernetes": [{"impersonate": 1}]}),
                id="unreadable rule",
            ),
            pytest.param([], id="no object"),
        ],
    )
    @pytest_twisted.ensureDeferred
    async def test_an_unusable_answer_is_a_403(self, resolver, daemon, metrics, answer):
        daemon.whois["100.64.0.5"] = answer
        with pytest.raises(UnusableIdentityError) as caught:
            await resolver.resolve(LAPTOP)
        assert caught.value.code == 403
        assert ".;" not in caught.value.message
        assert count(metrics, "unusable") == 1

    @pytest.mark.parametrize("code", [400, 403, 500, 503])
    @pytest_twisted.ensureDeferred
    async def test_a_refusal_of_tailscaled_is_a_503(self, resolver, daemon, metrics, code):
        daemon.replies["whois"] = Reply("whatever\n", code)
        with pytest.raises(ResolverUnavailableError, match=f"status {code}") as caught:
            await resolver.resolve(LAPTOP)
        assert caught.value.code == 503
        assert count(metrics, "error") == 1


class TestQuestions:
    @pytest.mark.parametrize(
        "address",
        [
            "10.0.0.1",
            "127.0.0.1",
            "127.0.0.2",
            "::1",
            "0.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "100.115.92.7",
            "fd7a:115c:a1e1::1",
            "2001:db8::1",
        ],
    )
    @pytest_twisted.ensureDeferred
    async def test_dp_w30_nothing_beyond_the_tailnet_is_asked_for(
        self, resolver, daemon, metrics, address
    ):
        with pytest.raises(UnknownCallerError):
            await resolver.resolve(Caller(ip_address(address), 50123))
        assert daemon.requests == []
        assert count(metrics, "unknown") == 0

    @pytest_twisted.ensureDeferred
    async def test_a_forwarded_connection_is_asked_for_by_its_port(self, resolver, daemon):
        daemon.whois["127.0.0.1:40000"] = node_answer()
        caller = Caller(ip_address("127.0.0.1"), 40000, local=True)
        assert (await resolver.resolve(caller)).user == "ada@corp.example"
        assert daemon.requests == ["GET /localapi/v0/whois?addr=127.0.0.1%3A40000&proto=tcp"]

    @pytest.mark.parametrize("address", ["127.0.0.2", "::1", "100.64.0.5", "192.0.2.1"])
    @pytest_twisted.ensureDeferred
    async def test_a_connection_that_tailscaled_cannot_have_forwarded_is_not_asked_for(
        self, resolver, daemon, address
    ):
        with pytest.raises(UnknownCallerError):
            await resolver.resolve(Caller(ip_address(address), 40000, local=True))
        assert daemon.requests == []

    @pytest_twisted.ensureDeferred
    async def test_the_grants_of_a_service_follow_those_of_the_node(
        self, resolver, daemon, metrics
    ):
        daemon.whois["100.64.0.5"] = node_answer(caps=granting("node"))
        daemon.whois["100.64.0.5 svc:kube"] = node_answer(caps=granting("service"))
        caller = Caller(ip_address("100.64.0.5"), 50123, service="svc:kube")
        assert (await resolver.resolve(caller)).groups == ("node", "service")
        assert sorted(daemon.requests) == [QUESTION, f"{QUESTION}&svc_name=svc%3Akube"]
        assert count(metrics, "ok") == 1

    @pytest.mark.parametrize("missing", ["100.64.0.5", "100.64.0.5 svc:kube"])
    @pytest_twisted.ensureDeferred
    async def test_one_answer_without_the_other_is_no_identity(self, resolver, daemon, missing):
        daemon.whois["100.64.0.5"] = daemon.whois["100.64.0.5 svc:kube"] = node_answer()
        del daemon.whois[missing]
        caller = Caller(ip_address("100.64.0.5"), 50123, service="svc:kube")
        with pytest.raises(UnknownCallerError):
            await resolver.resolve(caller)


class TestKeeping:
    @pytest_twisted.ensureDeferred
    async def test_an_answer_serves_every_connection_of_the_address(
        self, resolver, daemon, laptop, metrics
    ):
        first = await resolver.resolve(LAPTOP)
        assert await resolver.resolve(Caller(LAPTOP.address, 50999)) is first
        assert daemon.requests == [QUESTION]
        assert hits(metrics) == 1

    @pytest_twisted.ensureDeferred
    async def test_an_answer_serves_for_a_second_and_no_longer(
        self, resolver, daemon, laptop, clock
    ):
        await resolver.resolve(LAPTOP)
        clock.advance(LIFETIME - 0.01)
        await resolver.resolve(LAPTOP)
        assert len(daemon.requests) == 1
        clock.advance(0.02)
        daemon.whois["100.64.0.5"] = node_answer(caps=granting("ops"))
        assert (await resolver.resolve(LAPTOP)).groups == ("ops",)
        assert len(daemon.requests) == 2
        assert LIFETIME <= 1

    @pytest_twisted.ensureDeferred
    async def test_the_second_begins_with_the_question(self, resolver, daemon, laptop, clock):
        daemon.hanging.add("whois")
        pending = resolver.resolve(LAPTOP)
        await daemon.received(1)
        clock.advance(0.9)
        daemon.release()
        await pending
        clock.advance(0.2)
        await resolver.resolve(LAPTOP)
        assert len(daemon.requests) == 2

    @pytest_twisted.ensureDeferred
    async def test_an_answer_for_the_node_does_not_serve_for_a_service(
        self, resolver, daemon, laptop
    ):
        daemon.whois["100.64.0.5 svc:kube"] = node_answer()
        await resolver.resolve(LAPTOP)
        await resolver.resolve(Caller(LAPTOP.address, 50123, service="svc:kube"))
        await resolver.resolve(Caller(ip_address("100.64.0.5"), 50123))
        assert len(daemon.requests) == 3

    @pytest_twisted.ensureDeferred
    async def test_an_answer_for_a_forwarded_connection_serves_that_one_alone(
        self, resolver, daemon
    ):
        daemon.whois["127.0.0.1:40000"] = node_answer()
        before = Caller(ip_address("127.0.0.1"), 40000, local=True)
        await resolver.resolve(before)
        await resolver.resolve(before)
        assert len(daemon.requests) == 1
        daemon.whois["127.0.0.1:40000"] = node_answer(user="bob@corp.example")
        after = Caller(ip_address("127.0.0.1"), 40000, local=True)
        assert (await resolver.resolve(after)).user == "bob@corp.example"

    @pytest_twisted.ensureDeferred
    async def test_that_nobody_was_there_is_not_kept(self, resolver, daemon):
        with pytest.raises(UnknownCallerError):
            await resolver.resolve(LAPTOP)
        daemon.whois["100.64.0.5"] = node_answer()
        assert (await resolver.resolve(LAPTOP)).user == "ada@corp.example"

    @pytest_twisted.ensureDeferred
    async def test_an_unusable_answer_is_not_kept(self, resolver, daemon):
        daemon.whois["100.64.0.5"] = node_answer(user="")
        with pytest.raises(UnusableIdentityError):
            await resolver.resolve(LAPTOP)
        daemon.whois["100.64.0.5"] = node_answer()
        assert (await resolver.resolve(LAPTOP)).user == "ada@corp.example"

    @pytest_twisted.ensureDeferred
    async def test_an_error_is_not_kept(self, resolver, daemon, laptop):
        daemon.replies["whois"] = Reply("no\n", 500)
        with pytest.raises(ResolverUnavailableError):
            await resolver.resolve(LAPTOP)
        del daemon.replies["whois"]
        assert (await resolver.resolve(LAPTOP)).user == "ada@corp.example"


class Answers:
    """In place of a LocalAPI: questions that a test answers by hand."""

    socket_path = "/nowhere"

    def __init__(self):
        self.asked = []

    def whois(self, addr, proto=None, svc_name=None, *, timeout=None):
        self.asked.append((addr, answer := Deferred()))
        return answer


def whois(**node):
    return json.dumps(node_answer(**node)).encode()


def test_answers_kept_are_bounded_in_number(metrics):
    clock, answers = Clock(), Answers()
    resolver = TailscaledResolver(clock, answers, metrics)
    resolver.bus_connected()
    callers = [Caller(ip_address(0x64400000 + n), 1) for n in range(KEPT_AT_MOST + 1)]
    for caller in callers:
        resolver.resolve(caller)
        answers.asked[-1][1].callback(whois(StableID=str(caller.address)))
    asked = len(answers.asked)
    resolver.resolve(callers[-1])
    resolver.resolve(callers[1])
    assert len(answers.asked) == asked
    resolver.resolve(callers[0])
    assert len(answers.asked) == asked + 1


def test_answers_that_no_longer_serve_take_no_room(metrics):
    clock, answers = Clock(), Answers()
    resolver = TailscaledResolver(clock, answers, metrics)
    resolver.bus_connected()
    for n in range(10):
        resolver.resolve(Caller(ip_address(0x64400000 + n), 1))
        answers.asked[-1][1].callback(whois())
        clock.advance(LIFETIME / 2)
    assert len(resolver._kept) == 2


class TestSingleFlight:
    @pytest_twisted.ensureDeferred
    async def test_several_requests_share_one_question(self, resolver, daemon, laptop, metrics):
        daemon.hanging.add("whois")
        pending = [resolver.resolve(Caller(LAPTOP.address, port)) for port in range(1, 51)]
        await daemon.received(1)
        daemon.release()
        identities = [await each for each in pending]
        assert {id(each) for each in identities} == {id(identities[0])}
        assert daemon.requests == [QUESTION]
        assert count(metrics, "ok") == 1

    @pytest_twisted.ensureDeferred
    async def test_several_requests_share_one_failure(self, resolver, daemon):
        daemon.hanging.add("whois")
        pending = [resolver.resolve(LAPTOP) for _ in range(5)]
        await daemon.received(1)
        daemon.release()
        for each in pending:
            with pytest.raises(UnknownCallerError):
                await each
        assert daemon.requests == [QUESTION]

    @pytest_twisted.ensureDeferred
    async def test_one_who_leaves_takes_nothing_from_the_others(self, resolver, daemon, laptop):
        daemon.hanging.add("whois")
        leaves, stays = resolver.resolve(LAPTOP), resolver.resolve(LAPTOP)
        await daemon.received(1)
        leaves.cancel()
        with pytest.raises(CancelledError):
            await leaves
        daemon.release()
        assert (await stays).user == "ada@corp.example"

    @pytest_twisted.ensureDeferred
    async def test_a_question_that_nobody_waits_for_is_given_up(
        self, resolver, daemon, laptop, metrics
    ):
        daemon.hanging.add("whois")
        leaves = resolver.resolve(LAPTOP)
        await daemon.received(1)
        leaves.cancel()
        with pytest.raises(CancelledError):
            await leaves
        daemon.hanging.clear()
        await resolver.resolve(LAPTOP)
        assert len(daemon.requests) == 2
        assert count(metrics, "error") == 0


FORGETTING = [
    ("SelfChange", {"Name": "proxy."}),
    ("NetMap", {"Peers": []}),
    ("PeersChanged", [{"ID": 7}]),
    ("PeersRemoved", [7]),
    ("PeerChangedPatch", [{"NodeID": 7}]),
    ("UserProfiles", {"77": {}}),
    ("State", 6),
    ("State", 0),
]


class TestForgetting:
    @pytest.mark.parametrize(("field", "value"), FORGETTING)
    @pytest_twisted.ensureDeferred
    async def test_a_message_that_may_concern_callers_ends_what_is_kept(
        self, resolver, daemon, laptop, field, value
    ):
        await resolver.resolve(LAPTOP)
        resolver.bus_message({"Version": "1.102.4", field: value})
        daemon.whois["100.64.0.5"] = node_answer(user="bob@corp.example")
        assert (await resolver.resolve(LAPTOP)).user == "bob@corp.example"

    @pytest.mark.parametrize(
        "message",
        [{}, {"Version": "1"}, {"Prefs": {}}, {"Health": {}}, {"State": None, "NetMap": None}],
    )
    @pytest_twisted.ensureDeferred
    async def test_other_messages_do_not(self, resolver, daemon, laptop, message):
        await resolver.resolve(LAPTOP)
        resolver.bus_message(message)
        await resolver.resolve(LAPTOP)
        assert len(daemon.requests) == 1

    @pytest.mark.parametrize("event", ["connected", "message", "lost"])
    @pytest_twisted.ensureDeferred
    async def test_an_answer_on_its_way_is_given_but_not_kept(
        self, resolver, daemon, laptop, event
    ):
        daemon.hanging.add("whois")
        pending = resolver.resolve(LAPTOP)
        await daemon.received(1)
        if event == "connected":
            resolver.bus_connected()
        elif event == "message":
            resolver.bus_message({"PeersChanged": []})
        else:
            resolver.bus_lost("gone")
        daemon.release()
        assert (await pending).user == "ada@corp.example"
        await resolver.resolve(LAPTOP)
        assert len(daemon.requests) == 2

    @pytest_twisted.ensureDeferred
    async def test_nobody_joins_a_question_from_before(self, resolver, daemon, laptop):
        daemon.hanging.add("whois")
        before = resolver.resolve(LAPTOP)
        await daemon.received(1)
        resolver.bus_message({"SelfChange": {}})
        after = resolver.resolve(LAPTOP)
        await daemon.received(2)
        daemon.release()
        await before
        await after
        await resolver.resolve(LAPTOP)
        assert len(daemon.requests) == 2

    @pytest_twisted.ensureDeferred
    async def test_nothing_is_kept_while_the_bus_is_away(self, resolver, daemon, laptop):
        resolver.bus_lost("gone")
        await resolver.resolve(LAPTOP)
        await resolver.resolve(LAPTOP)
        assert len(daemon.requests) == 2
        resolver.bus_connected()
        await resolver.resolve(LAPTOP)
        await resolver.resolve(LAPTOP)
        assert len(daemon.requests) == 3


class TestOutages:
    @pytest_twisted.ensureDeferred
    async def test_a_stopped_daemon_is_a_503_at_once_and_its_return_is_noticed(
        self, resolver, daemon, laptop, clock, logged
    ):
        await resolver.resolve(LAPTOP)
        await daemon.stop()
        resolver.bus_lost("gone")
        for _ in range(3):
            with pytest.raises(ResolverUnavailableError, match="does not answer"):
                await resolver.resolve(LAPTOP)
        assert clock.seconds() == 0
        warnings = [event for event in logged if event["log_level"] is LogLevel.warn]
        assert len(warnings) == 1
        assert "there is no socket" in warnings[0]["reason"]
        daemon.restart()
        assert (await resolver.resolve(LAPTOP)).user == "ada@corp.example"

    @pytest.mark.parametrize("state", [None, 0, 2, 5])
    @pytest_twisted.ensureDeferred
    async def test_a_daemon_without_a_map_knows_nobody_which_is_a_503(
        self, resolver, daemon, metrics, state
    ):
        resolver.bus_lost("restarted")
        if state is not None:
            resolver.bus_connected()
            resolver.bus_message({"State": state})
        with pytest.raises(ResolverUnavailableError, match="not connected to the tailnet"):
            await resolver.resolve(LAPTOP)
        assert (count(metrics, "unknown"), count(metrics, "error")) == (0, 1)
        resolver.bus_connected()
        resolver.bus_message({"State": 6, "Prefs": {}})
        with pytest.raises(UnknownCallerError):
            await resolver.resolve(LAPTOP)

    @pytest_twisted.ensureDeferred
    async def test_a_hanging_daemon_is_a_503_within_two_seconds(
        self, resolver, daemon, laptop, clock, metrics
    ):
        daemon.hanging.add("whois")
        callers = [Caller(ip_address(0x64400000 + n), 1) for n in range(30)]
        pending = [resolver.resolve(caller) for caller in callers]
        await daemon.received(8)
        clock.advance(PATIENCE + 0.01)
        for each in pending:
            with pytest.raises(ResolverUnavailableError, match="does not answer"):
                await each
        assert count(metrics, "error") == 30
        assert PATIENCE < 2

    @pytest_twisted.ensureDeferred
    async def test_it_waits_no_longer_for_two_questions_than_for_one(
        self, resolver, daemon, laptop, clock
    ):
        daemon.hanging.add("whois")
        pending = resolver.resolve(Caller(LAPTOP.address, 1, service="svc:kube"))
        await daemon.received(2)
        clock.advance(PATIENCE + 0.01)
        with pytest.raises(ResolverUnavailableError):
            await pending

    def test_the_other_question_is_given_up_when_one_failed(self, metrics):
        answers = Answers()
        resolver = TailscaledResolver(Clock(), answers, metrics)
        resolver.bus_message({"State": 6})
        pending = resolver.resolve(Caller(LAPTOP.address, 1, service="svc:kube"))
        failures = []
        pending.addErrback(failures.append)
        (_, first), (_, second) = answers.asked
        ended = []
        second.addErrback(ended.append)
        first.errback(LocalAPIError(404, "no match"))
        assert failures[0].check(UnknownCallerError)
        assert second.called


class TestLog:
    @pytest_twisted.ensureDeferred
    async def test_an_identity_is_logged_when_it_is_new_or_another(
        self, resolver, daemon, laptop, logged
    ):
        async def lines():
            resolver.bus_message({"State": 6})
            await resolver.resolve(LAPTOP)
            return [
                (event["node"], event["user"], event["groups"])
                for event in logged
                if event.get("log_namespace", "").endswith("TailscaledResolver")
            ]

        dev = ("laptop.corp-cat.ts.net", "ada@corp.example", "dev")
        assert await lines() == [dev]
        assert await lines() == [dev]
        daemon.whois["100.64.0.5"] = node_answer()
        assert await lines() == [dev, (dev[0], dev[1], "none")]
