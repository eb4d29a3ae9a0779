"""Who a caller is, read from WhoIs answers."""

from __future__ import annotations

import json
from contextlib import suppress
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.policy.grants import CAPABILITY, LEGACY_CAPABILITY
from tailproxy.policy.identity import (
    Caller,
    IdentityError,
    Unsendable,
    identify,
    parse_whois,
)

from .whois import groups, tagged, user

LEGACY = {LEGACY_CAPABILITY: [groups("legacy")]}


@pytest.mark.parametrize(
    ("answer", "name", "expected"),
    [
        pytest.param(user(), "ada@corp.example", [], id="dp_I1"),
        pytest.param(
            user("ada@corp.example", groups("dev", "ops")),
            "ada@corp.example",
            ["dev", "ops"],
            id="dp_I2",
        ),
        pytest.param(
            user("ada@corp.example", groups("b", "a"), groups("a", "c"), groups("b")),
            "ada@corp.example",
            ["b", "a", "c"],
            id="dp_I3",
        ),
        pytest.param(
            user("ada@corp.example", {}, {"impersonate": {}}, groups(), None),
            "ada@corp.example",
            [],
            id="dp_I4",
        ),
        pytest.param(tagged(), "ci-7.corp-cat.ts.net", ["tag:ci", "tag:eu"], id="dp_I5"),
        pytest.param(
            tagged(groups("deployers")), "ci-7.corp-cat.ts.net", ["deployers"], id="dp_I6"
        ),
        pytest.param(
            tagged({"enforceRecorder": False}),
            "ci-7.corp-cat.ts.net",
            ["tag:ci", "tag:eu"],
            id="dp_I7",
        ),
        pytest.param(user(cap_map=LEGACY), "ada@corp.example", ["legacy"], id="dp_I8"),
        pytest.param(
            user(cap_map={CAPABILITY: [groups("new")], **LEGACY}),
            "ada@corp.example",
            ["new"],
            id="dp_I9",
        ),
        pytest.param(
            user(cap_map={CAPABILITY: [], **LEGACY}), "ada@corp.example", ["legacy"], id="dp_I10"
        ),
        pytest.param(
            user("ada@corp.example", {"Impersonate": {"Groups": ["Dev"]}}),
            "ada@corp.example",
            ["Dev"],
            id="dp_I19",
        ),
        pytest.param(
            user("ada@corp.example", groups("a,b")), "ada@corp.example", ["a,b"], id="dp_I24"
        ),
    ],
)
def test_user_and_groups_are_impersonated_one_header_each(answer, name, expected):
    identity = identify(answer)
    assert (identity.user, list(identity.groups)) == (name, expected)
    assert identity.impersonation == (
        *((b"Impersonate-Group", group.encode()) for group in expected),
        (b"Impersonate-User", name.encode()),
    )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(user("ada@corp.example", groups("a"), []), "invalid-grant", id="dp_I11"),
        pytest.param(user(cap_map={LEGACY_CAPABILITY: ["x"]}), "invalid-grant", id="dp_I12"),
        pytest.param(user(""), "no-user", id="dp_I13"),
        pytest.param(
            user("ada@corp.example", {"impersonate": {"groups": "dev"}}),
            "invalid-grant",
            id="dp_I20",
        ),
        pytest.param(user("tagged-devices"), "no-user", id="placeholder_without_tags"),
        pytest.param(tagged(Name=""), "no-user", id="tagged_without_name"),
        pytest.param(tagged(Name="."), "no-user", id="tagged_with_a_bare_dot"),
    ],
)
def test_a_caller_without_a_readable_identity_is_named_and_refused(answer, reason):
    with pytest.raises(IdentityError) as caught:
        identify(answer)
    assert caught.value.reason == reason
    shown = answer["Node"]["Name"].removesuffix(".") or answer["Node"]["StableID"]
    assert caught.value.node == shown
    assert shown in str(caught.value)


def test_an_identity_says_who_and_where():
    person = identify(user())
    assert person.node == "laptop.corp-cat.ts.net"
    assert person.node_id == "nABC123CNTRL"
    assert (person.login, person.tags) == ("ada@corp.example", ())
    assert person.addresses == (ip_address("100.64.0.5"), ip_address("fd7a:115c:a1e0::5"))
    robot = identify(tagged())
    assert (robot.login, robot.tags) == (None, ("tag:ci", "tag:eu"))


def test_a_person_needs_no_node_name():
    assert identify(user(Name="")).user == "ada@corp.example"


@pytest.mark.parametrize(
    "change",
    [
        {"Node": None},
        {"Node": []},
        {"Node": {}, "UserProfile": None},
        {"UserProfile": None},
        {"UserProfile": {"LoginName": 7}},
        {"Node": {"Name": 7}},
        {"Node": {"Name": "n.", "Tags": "tag:ci"}},
        {"Node": {"Name": "n.", "Tags": [1]}},
        {"Node": {"Name": "n.", "Addresses": ["x"]}},
        {"Node": {"Name": "n.", "StableID": None}},
    ],
)
def test_an_answer_of_another_form_is_refused(change):
    with pytest.raises(IdentityError) as caught:
        identify({**user(), **change})
    assert caught.value.reason == "invalid-answer"


class TestServices:
    def test_the_rules_of_the_service_follow_those_of_the_node(self):
        service = user("ada@corp.example", groups("b", "a"), {"enforceRecorder": True})
        identity = identify(user("ada@corp.example", groups("a")), service)
        assert identity.groups == ("a", "b")
        assert not identity.grants.fail_open

    def test_the_legacy_name_is_looked_for_in_each_map_by_itself(self):
        identity = identify(user("ada@corp.example", groups("new")), user(cap_map=LEGACY))
        assert identity.groups == ("new", "legacy")

    def test_an_unreadable_rule_in_either_refuses(self):
        good, bad = user("ada@corp.example", groups("a")), user("ada@corp.example", "x")
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(IdentityError) as caught:
                identify(*pair)
            assert caught.value.reason == "invalid-grant"

    def test_a_service_may_grant_a_group_instead_of_the_tags(self):
        assert identify(tagged(), tagged(groups("deployers"))).groups == ("deployers",)

    @pytest.mark.parametrize("change", [{"StableID": "nOTHER"}, {"Name": "other.corp-cat.ts.net."}])
    def test_both_answers_are_about_one_node(self, change):
        with pytest.raises(IdentityError) as caught:
            identify(user(), user(**change))
        assert caught.value.reason == "invalid-answer"


class TestSendable:
    def test_dp_I17_a_name_is_sent_as_utf_8(self):
        identity = identify(user("zo\u00eb@corp.example"))
        assert identity.impersonation == ((b"Impersonate-User", b"zo\xc3\xab@corp.example"),)

    @pytest.mark.parametrize(
        "group",
        [
            pytest.param("a\r\nX-Evil: 1", id="dp_I18"),
            pytest.param("", id="dp_I25"),
            " ",
            " admin",
            "admin ",
            "\u00a0",
            "a\tb",
            "a\x00b",
            "a\x7fb",
            "a\u0085b",
            "a\ud800b",
        ],
    )
    def test_what_would_arrive_as_another_name_is_not_sent(self, group):
        for answer in (user("ada@corp.example", groups("ok", group)), tagged(Tags=[group])):
            with pytest.raises(Unsendable) as caught:
                _ = identify(answer).impersonation
            assert "group" in str(caught.value)

    def test_a_blank_user_is_not_sent(self):
        with pytest.raises(Unsendable, match="user"):
            _ = identify(user(" ")).impersonation

    def test_headers_are_built_once(self):
        identity = identify(user())
        assert identity.impersonation is identity.impersonation


class TestAddress:
    def test_a_caller_on_the_tailnet_has_its_own(self):
        caller = Caller(ip_address("fd7a:115c:a1e0::5"), 5000)
        assert identify(user()).forwarded_for(caller) == b"fd7a:115c:a1e0::5"

    def test_a_mapped_address_is_what_it_stands_for(self):
        caller = Caller(ip_address("::ffff:100.64.0.5"), 5000)
        assert identify(user()).forwarded_for(caller) == b"100.64.0.5"
        assert caller.shown == str(caller.address)

    def test_a_local_caller_has_its_nodes(self):
        caller = Caller(ip_address("127.0.0.1"), 5000, local=True)
        assert identify(user()).forwarded_for(caller) == b"100.64.0.5"
        assert identify(user(Addresses=None)).forwarded_for(caller) == b"127.0.0.1"


class TestParsing:
    def test_a_body_is_decoded(self):
        assert parse_whois(json.dumps(user()).encode()) == user()

    def test_a_repeated_key_counts_where_it_stands_last(self):
        body = b'{"CapMap": {"a": {"x": 1, "X": 2, "x": 3}}}'
        assert list(parse_whois(body)["CapMap"]["a"].items()) == [("X", 2), ("x", 3)]

    @pytest.mark.parametrize(
        "body", [b"", b"x", b"[]", b"null", b'{"a": NaN}', b'{"a": 1} z', b"\xff", b"[" * 100_000]
    )
    def test_another_body_is_refused(self, body):
        with pytest.raises(IdentityError) as caught:
            parse_whois(body)
        assert caught.value.reason == "invalid-answer"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["Name", "Tags", "LoginName", CAPABILITY]), inner)
    ),
    max_leaves=8,
)


@given(json_values, json_values, json_values)
def test_any_answer_is_read_or_refused_and_nothing_else(node, profile, cap_map):
    with suppress(IdentityError):
        assert identify({"Node": node, "UserProfile": profile, "CapMap": cap_map}).user


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param([user()], [], id="nothing"),
        pytest.param(
            [tagged()],
            [("tag:ci", "a tag of the node"), ("tag:eu", "a tag of the node")],
            id="tags",
        ),
        pytest.param(
            [user("ada@corp.example", {}, groups("a"), groups("b", "a"))],
            [
                ("a", f"rule 2 of {CAPABILITY} and rule 3 of {CAPABILITY}"),
                ("b", f"rule 3 of {CAPABILITY}"),
            ],
            id="grants",
        ),
        pytest.param(
            [user(), user("ada@corp.example", groups("a"))],
            [("a", f"rule 1 of {CAPABILITY}, granted on the Service")],
            id="service",
        ),
        pytest.param(
            [user(cap_map=LEGACY)], [("legacy", f"rule 1 of {LEGACY_CAPABILITY}")], id="legacy"
        ),
        pytest.param(
            [tagged(groups("tag:ci"))], [("tag:ci", f"rule 1 of {CAPABILITY}")], id="like-a-tag"
        ),
    ],
)
def test_every_group_has_a_reason(answers, expected):
    identity = identify(*answers)
    assert [(reason.group, str(reason)) for reason in identity.reasons] == expected
    assert [group for group, _ in expected] == list(identity.groups)
