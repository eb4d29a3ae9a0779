"""Whether a request goes on."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.policy.decide import (
    ClientImpersonation,
    Forward,
    Mode,
    Refusal,
    Rules,
    decide,
)
from tailproxy.wire.head import read_head

from .whois import ada, groups

POD = b"/api/v1/namespaces/d/pods/p"
AS_ROOT = (b"Impersonate-User", b"root")
SPDY = ((b"Connection", b"Upgrade"), (b"Upgrade", b"SPDY/3.1"))
STRIP = Rules(client_impersonation=ClientImpersonation.STRIP)
NOAUTH = Rules(mode=Mode.NOAUTH)

RECORDER = {"recorderAddrs": ["100.70.0.1:80"]}
ENFORCED = {**RECORDER, "enforceRecorder": True}
NOWHERE = {"recorder": ["tag:rec"], "enforceRecorder": True}


def request(method=b"GET", target=b"/api/v1/pods", *headers):
    return read_head(method, target, "1.1", [(b"Host", b"kube"), *headers])


def refusal(identity, head, rules=Rules()):  # noqa: B008 - a frozen value
    decision = decide(identity, head, rules)
    assert isinstance(decision, Refusal)
    assert decision.code == 403
    assert decision.message
    return decision


def test_a_request_without_anything_special_goes_on():
    assert decide(ada(groups("dev")), request(), Rules()) == Forward()


class TestCrossSite:
    @pytest.mark.parametrize(
        ("method", "target", "headers"),
        [
            (b"POST", b"/api/v1/namespaces/d/configmaps", ()),
            (b"GET", POD + b"/exec?command=id", ((b"Sec-Fetch-Mode", b"websocket"),)),
            (b"GET", b"/api/v1/secrets", ()),
        ],
    )
    def test_a_page_of_another_site_cannot_act_as_the_caller(self, method, target, headers):
        head = request(method, target, (b"Sec-Fetch-Site", b"cross-site"), *headers)
        answer = refusal(ada(), head)
        assert answer.reason == "cross-site"
        assert "kubectl" in answer.message

    def test_with_own_credentials_there_is_nothing_to_misuse(self):
        head = request(b"POST", b"/api", (b"Sec-Fetch-Site", b"cross-site"))
        assert decide(ada(), head, NOAUTH) == Forward()


class TestClientImpersonation:
    def test_it_is_refused_and_the_message_says_why_and_what_to_do(self):
        answer = refusal(ada(), request(b"DELETE", b"/api/v1/pods", AS_ROOT))
        assert answer.reason == "client-impersonation"
        for part in ("Impersonate-User", "ada@corp.example", "--as", "grant"):
            assert part in answer.message
        assert "root" not in answer.message

    @pytest.mark.parametrize(
        "name", [b"impersonate-group", b"IMPERSONATE-UID", b"Impersonate-Extra-X"]
    )
    def test_every_header_of_the_family_counts(self, name):
        assert refusal(ada(), request(b"GET", b"/", (name, b""))).reason == "client-impersonation"

    def test_connection_does_not_hide_it(self):
        hidden = request(b"GET", b"/", (b"Connection", b"Impersonate-User"), AS_ROOT)
        assert refusal(ada(), hidden).reason == "client-impersonation"

    def test_it_goes_on_without_it_where_that_is_configured(self):
        assert decide(ada(), request(b"GET", b"/", AS_ROOT), STRIP) == Forward()

    def test_it_is_the_clients_own_business_in_noauth_mode(self):
        assert decide(ada(), request(b"GET", b"/", AS_ROOT), NOAUTH) == Forward()


class TestIdentity:
    @pytest.mark.parametrize(
        "group",
        [pytest.param("a\r\nX-Evil: 1", id="dp_I18"), pytest.param("", id="dp_I25"), " admin"],
    )
    def test_a_group_that_cannot_be_sent_refuses(self, group):
        answer = refusal(ada(groups(group)), request())
        assert answer.reason == "invalid-identity"
        assert "laptop.corp-cat.ts.net" in answer.message
        assert "Evil" not in answer.message

    @pytest.mark.parametrize("user", ["", " ", "a\nb"])
    def test_a_user_that_cannot_be_sent_refuses(self, user):
        assert refusal(attrs.evolve(ada(), user=user), request()).reason == "invalid-identity"
        assert (
            refusal(attrs.evolve(ada(), user=user), request(), STRIP).reason == "invalid-identity"
        )

    def test_nothing_is_sent_in_noauth_mode_so_nothing_is_refused(self):
        assert decide(ada(groups("")), request(), NOAUTH) == Forward()


@pytest.mark.parametrize("rules", [Rules(), NOAUTH], ids=["auth", "noauth"])
class TestRecording:
    def test_dp_R1_without_a_rule_everything_goes_on(self, rules):
        assert decide(ada(), request(), rules) == Forward()
        assert decide(ada(), request(b"POST", POD + b"/exec", *SPDY), rules) == Forward("exec")

    @pytest.mark.parametrize("target", [b"/api/v1/pods", b"/healthz", POD + b"/exec", b"/"])
    def test_dp_R4_a_missing_recorder_refuses_every_request(self, rules, target):
        answer = refusal(ada(NOWHERE), request(b"GET", target), rules)
        assert answer.reason == "recorder-missing"
        assert "recorder" in answer.message

    def test_dp_R2_what_needs_no_recording_goes_on(self, rules):
        assert decide(ada(ENFORCED), request(), rules) == Forward()
        forward = request(b"GET", POD + b"/portforward", *SPDY)
        assert decide(ada(ENFORCED), forward, rules) == Forward("portforward")

    @pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT", b"HEAD"])
    @pytest.mark.parametrize(
        "rest", [b"/exec?command=sh", b"/attach", b"/exec/", b"%2Fexec", b"/x/../attach"]
    )
    @pytest.mark.parametrize("headers", [(), SPDY, ((b"Upgrade", b"WebSocket"),)])
    def test_a_session_that_must_be_recorded_is_to_be(self, rules, method, rest, headers):
        decision = decide(ada(ENFORCED), request(method, POD + rest, *headers), rules)
        assert isinstance(decision, Forward)
        assert (decision.record, decision.enforced) == (True, True)

    def test_enforced_events_are_for_every_request(self, rules):
        enforced = ada({**ENFORCED, "enableEvents": True})
        assert decide(enforced, request(), rules) == Forward(report=True, enforced=True)
        session = decide(enforced, request(b"POST", POD + b"/exec", *SPDY), rules)
        assert session == Forward("exec", record=True, report=True, enforced=True)

    def test_one_rule_enforces_for_all(self, rules):
        identity = ada({"enforceRecorder": True}, RECORDER, groups("dev"))
        session = request(b"POST", POD + b"/exec", *SPDY)
        assert decide(identity, session, rules) == Forward("exec", record=True, enforced=True)

    @pytest.mark.parametrize(
        ("method", "rest", "headers"),
        [
            (b"POST", b"/run/ns/p/c?cmd=id", ()),
            (b"GET", b"/exec/ns/p/c", ()),
            (b"GET", b"/pods", ((b"Connection", b"xUpgradex"),)),
        ],
    )
    def test_a_command_by_way_of_a_node_is_refused_or_seen(self, rules, method, rest, headers):
        head = request(method, b"/api/v1/nodes/n/proxy" + rest, *headers)
        assert refusal(ada(ENFORCED), head, rules).reason == "node-proxy"
        assert decide(ada(), head, rules) == Forward("node-exec")
        seen = decide(ada(RECORDER), head, rules)
        assert isinstance(seen, Forward)
        assert seen.session == "node-exec"
        assert seen.unrecorded

    def test_reading_by_way_of_a_node_goes_on(self, rules):
        head = request(b"GET", b"/api/v1/nodes/n/proxy/stats/summary")
        assert decide(ada(ENFORCED), head, rules) == Forward()

    @pytest.mark.parametrize("kind", [b"exec", b"attach"])
    def test_a_session_beside_a_recorder_is_recorded_if_that_is_possible(self, rules, kind):
        decision = decide(ada(RECORDER), request(b"POST", POD + b"/" + kind, *SPDY), rules)
        assert decision == Forward(kind.decode(), record=True)

    def test_a_proxy_with_a_sink_of_its_own_records_everybody(self, rules):
        session = request(b"POST", POD + b"/exec", *SPDY)
        own = attrs.evolve(rules, record=True)
        assert decide(ada(), session, own) == Forward("exec", record=True)
        closed = attrs.evolve(own, enforce=True)
        assert decide(ada(), session, closed) == Forward("exec", record=True, enforced=True)
        assert decide(ada(), request(), closed) == Forward()
        forward = request(b"GET", POD + b"/portforward", *SPDY)
        assert decide(ada(), forward, closed) == Forward("portforward")
        node = request(b"POST", b"/api/v1/nodes/n/proxy/run/ns/p/c?cmd=id")
        assert refusal(ada(), node, closed).reason == "node-proxy"
        assert decide(ada(), node, own).unrecorded

    def test_a_proxy_may_enforce_what_grants_ask_for(self, rules):
        session = request(b"POST", POD + b"/exec", *SPDY)
        closed = attrs.evolve(rules, enforce=True)
        assert decide(ada(), session, closed) == Forward("exec")
        assert decide(ada(RECORDER), session, closed) == Forward("exec", record=True, enforced=True)

    def test_a_plain_request_beside_a_recorder_goes_on(self, rules):
        assert decide(ada(RECORDER), request(), rules) == Forward()

    def test_st_G101_events_without_a_recorder_are_not_reported(self, rules):
        decision = decide(ada({**RECORDER, "enableEvents": True}), request(), rules)
        assert decision == Forward(report=True)
        assert decide(ada({"enableEvents": True}), request(), rules) == Forward()


class TestFailClosed:
    def test_an_error_inside_is_a_refusal_that_keeps_its_cause(self):
        broken = attrs.evolve(ada(), grants=None)
        answer = refusal(broken, request())
        assert answer.reason == "undecided"
        assert isinstance(answer.cause, AttributeError)
        assert "NoneType" not in answer.message

    def test_an_unknown_mode_is_the_strict_one(self):
        unknown = Rules(mode=None, client_impersonation=None)
        head = request(b"GET", b"/", AS_ROOT)
        assert refusal(ada(), head, unknown).reason == "client-impersonation"

    @given(
        st.sampled_from([None, 7, "x", ada()]),
        st.sampled_from(["names", "keys", "headers", "may_upgrade"]),
        st.sampled_from([None, 7, (), [()], [(b"Connection", 7)], "/x", b"\nimpersonate-user"]),
    )
    def test_nonsense_among_the_fields_is_decided_without_an_error(self, identity, name, nonsense):
        fields = attrs.evolve(request().fields, **{name: nonsense})
        head = attrs.evolve(request(), fields=fields)
        assert isinstance(decide(identity, head, Rules()), (Forward, Refusal))

    @pytest.mark.parametrize("name", ["method", "fields", "info"])
    @pytest.mark.parametrize("nonsense", [None, 7, "/x"])
    def test_nonsense_is_decided_without_an_error(self, name, nonsense):
        head = attrs.evolve(request(), **{name: nonsense})
        assert isinstance(decide(ada(), head, Rules()), (Forward, Refusal))


def test_a_request_knows_what_it_means():
    head = request(b"GET", b"/api/v1/namespaces/d/pods?watch=1")
    assert (head.info.verb, head.info.resource, head.info.namespace) == ("watch", "pods", "d")
    assert head.info is head.info
