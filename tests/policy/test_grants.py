"""The rules of the Kubernetes capability."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.policy.grants import (
    CAPABILITY,
    LEGACY_CAPABILITY,
    GrantError,
    GrantRule,
    Grants,
    SessionRight,
    read_rules,
)
from tailproxy.wire.addresses import AddressPort
from tests.wire.golden import cases


def rules(*values):
    return read_rules({CAPABILITY: list(values)})


def groups(*names):
    return {"impersonate": {"groups": list(names)}}


@pytest.mark.parametrize(
    ("cap_map", "addresses", "fail_open", "events"),
    [
        pytest.param({}, [], True, False, id="dp_R1"),
        pytest.param(
            {CAPABILITY: [{"recorderAddrs": ["100.70.0.1:80"], "enforceRecorder": True}]},
            ["100.70.0.1:80"],
            False,
            False,
            id="dp_R2",
        ),
        pytest.param(
            {
                CAPABILITY: [
                    {"recorderAddrs": ["100.70.0.1:80"]},
                    {
                        "recorderAddrs": ["[fd7a:115c:a1e0::7]:80", "100.70.0.1:80"],
                        "enableEvents": True,
                    },
                ]
            },
            ["100.70.0.1:80", "[fd7a:115c:a1e0::7]:80", "100.70.0.1:80"],
            True,
            True,
            id="dp_R3",
        ),
        pytest.param(
            {CAPABILITY: [{"recorder": ["tag:rec"], "enforceRecorder": True}]},
            [],
            False,
            False,
            id="dp_R4",
        ),
        pytest.param(
            {LEGACY_CAPABILITY: [{"enforceRecorder": True, "recorderAddrs": ["100.70.0.1:80"]}]},
            [],
            True,
            False,
            id="dp_R5",
        ),
    ],
)
def test_recording_follows_from_all_rules(cap_map, addresses, fail_open, events):
    grants = read_rules(cap_map)
    assert [str(each) for each in grants.recorder_addresses] == addresses
    assert grants.fail_open is fail_open
    assert grants.enable_events is events


def test_dp_R6_a_recorder_is_an_address():
    with pytest.raises(GrantError, match=r"rec\.corp-cat\.ts\.net:80"):
        rules({"recorderAddrs": ["rec.corp-cat.ts.net:80"]})


@pytest.mark.parametrize(
    ("values", "expected"), cases("policy", Path(__file__).parent / "rules.jsonl")
)
def test_golden(values, expected):
    if expected == {"error": True}:
        with pytest.raises(GrantError):
            rules(*values)
        return
    grants = rules(*values)
    each_once = list(dict.fromkeys(str(address) for address in grants.recorder_addresses))
    assert each_once == expected["addrs"]
    assert grants.fail_open is expected["failOpen"]
    assert grants.enable_events is expected["events"]


def test_groups_keep_their_first_place():
    assert rules(groups("b", "a"), groups("a", "c"), groups("b")).groups == ("b", "a", "c")


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"impersonate": None},
        {"impersonate": {}},
        {"impersonate": {"groups": None}},
        {"recorder": None, "recorderAddrs": None, "enforceRecorder": None, "enableEvents": None},
        {"unknown": [1, {"x": 2}], "impersonate": {"users": ["root"]}},
    ],
)
def test_null_is_absent_and_unknown_keys_are_ignored(value):
    assert rules(value) == Grants((GrantRule(),))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"IMPERSONATE": {"GROUPS": ["Dev"]}}, ("Dev",)),
        ({"impersonate": {"groups": ["a"]}, "Impersonate": {"groups": ["b"]}}, ("b",)),
        ({"impersonate": {"groups": ["a"], "Groups": ["b"]}}, ("b",)),
        ({"impersonate": {"groups": ["a"], "Groups": None}}, ()),
        ({"impersonate": {"groups": ["a"]}, "Impersonate": {}}, ("a",)),
        ({"impersonate": {"groups": ["a"]}, "Impersonate": None}, ()),
    ],
)
def test_of_several_spellings_the_last_counts(value, expected):
    assert rules(value).groups == expected


@pytest.mark.parametrize(
    ("value", "fail_open"),
    [
        ({"enforceRecorder": False, "EnforceRecorder": True}, False),
        ({"enforceRecorder": True, "EnforceRecorder": False}, True),
        ({"enforceRecorder": True, "EnforceRecorder": None}, False),
    ],
)
def test_a_null_boolean_changes_nothing(value, fail_open):
    assert rules(value).fail_open is fail_open


@pytest.mark.parametrize(
    "value",
    [
        [],
        "x",
        1,
        True,
        {"impersonate": []},
        {"impersonate": "dev"},
        {"impersonate": {"groups": "dev"}},
        {"impersonate": {"groups": ["dev", 1]}},
        {"impersonate": {"groups": [None]}},
        {"impersonate": {"groups": {}}},
        {"recorder": "tag:rec"},
        {"recorder": [1.5]},
        {"recorderAddrs": "100.70.0.1:80"},
        {"recorderAddrs": ["100.70.0.1"]},
        {"recorderAddrs": [""]},
        {"enforceRecorder": "true"},
        {"enforceRecorder": 1},
        {"enableEvents": 0},
    ],
)
@pytest.mark.parametrize("name", [CAPABILITY, LEGACY_CAPABILITY])
def test_one_unreadable_rule_makes_all_unreadable(value, name):
    with pytest.raises(GrantError) as caught:
        read_rules({name: [groups("a"), value]})
    assert "rule 2" in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("cap_map", [[], "x", 1, {CAPABILITY: {}}, {CAPABILITY: "x"}])
def test_a_map_of_another_form_is_unreadable(cap_map):
    with pytest.raises(GrantError):
        read_rules(cap_map)


def test_the_legacy_name_counts_where_the_present_one_has_no_rule():
    legacy = {LEGACY_CAPABILITY: [groups("legacy")]}
    assert read_rules(legacy).groups == ("legacy",)
    assert read_rules({CAPABILITY: [], **legacy}).groups == ("legacy",)
    assert read_rules({CAPABILITY: None, **legacy}).groups == ("legacy",)
    assert read_rules({CAPABILITY: [None], **legacy}).groups == ()
    assert read_rules({CAPABILITY: [groups("new")], LEGACY_CAPABILITY: ["bad"]}).groups == ("new",)


def test_recorders_are_addresses_with_ports():
    grants = rules({"recorderAddrs": ["[fd7a:115c:a1e0::7]:80"]})
    assert grants.recorder_addresses == (AddressPort.parse("[fd7a:115c:a1e0::7]:80"),)


def test_grants_are_added_in_order():
    both = rules(groups("a")) + rules({"enforceRecorder": True}, groups("b"))
    assert (both.groups, both.fail_open) == (("a", "b"), False)


keys = st.sampled_from(
    ["impersonate", "Groups", "recorder", "recorderAddrs", "enforceRecorder", "enableEvents"]
) | st.text(max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_any_json_is_read_or_refused_and_nothing_else(value):
    for cap_map in (value, {CAPABILITY: value}, {CAPABILITY: [value]}):
        with suppress(GrantError):
            assert isinstance(read_rules(cap_map), Grants)


def test_every_rule_says_where_it_stands():
    grants = rules(groups("a"), {"enforceRecorder": False}, groups("b", "a"))
    assert [str(rule.origin) for rule in grants.rules] == [
        f"rule {number} of {CAPABILITY}" for number in (1, 2, 3)
    ]
    assert [origin.number for origin in grants.origins("a")] == [1, 3]
    assert grants.origins("c") == ()


def test_rules_of_the_older_name_say_so():
    [rule] = read_rules({CAPABILITY: [], LEGACY_CAPABILITY: [groups("a")]}).rules
    assert str(rule.origin) == f"rule 1 of {LEGACY_CAPABILITY}"


def test_rules_that_say_the_same_are_equal_wherever_they_stand():
    first, second = rules(groups("a"), groups("a")).rules
    assert first.origin != second.origin
    assert first == second


def own(**value):
    return rules({"tailproxy": value})


def rights(grants, namespace):
    return {right.value for right in grants.session_rights(namespace)}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["list"], {"list"}),
        (["play"], {"list", "play"}),
        (["kill"], {"list", "kill"}),
        (["play", "kill"], {"list", "play", "kill"}),
        ([], set()),
        (None, set()),
    ],
)
def test_recorded_sessions_are_seen_as_granted(written, expected):
    assert rights(own(sessions=written), "shop") == expected


def test_nothing_of_recorded_sessions_is_seen_without_a_grant():
    grants = rules(groups("dev"), {"tailproxy": None}, {"tailproxy": {}})
    assert rights(grants, "shop") == set()
    assert grants.session_namespaces == frozenset()


def test_namespaces_narrow_the_rule_that_has_them():
    grants = rules(
        {"tailproxy": {"sessions": ["play"], "namespaces": ["shop"]}},
        {"tailproxy": {"Sessions": ["kill"], "Namespaces": ["shop", "bank"]}},
    )
    assert rights(grants, "shop") == {"list", "play", "kill"}
    assert rights(grants, "bank") == {"list", "kill"}
    assert rights(grants, "other") == rights(grants, "") == set()
    assert grants.session_namespaces == {"shop", "bank"}
    assert (grants + own(sessions=["list"])).session_namespaces is None
    assert own(sessions=["list"], namespaces=[]).session_namespaces == frozenset()


def test_the_older_name_grants_no_sessions():
    grants = read_rules({LEGACY_CAPABILITY: [{"tailproxy": {"sessions": ["play"]}}]})
    assert rights(grants, "shop") == set()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], '"tailproxy" is a list instead of an object'),
        ({"session": ["play"]}, '"tailproxy" has the unknown key "session"'),
        ({"sessions": "play"}, '"tailproxy.sessions" is a string instead of a list of strings'),
        ({"sessions": ["watch"]}, "found 'watch', wanted list, play, kill"),
        ({"sessions": ["PLAY"]}, "found 'PLAY', wanted list, play, kill"),
        ({"sessions": ["play"], "namespaces": "shop"}, '"tailproxy.namespaces" is a string'),
        ({"sessions": ["play"], "namespaces": ["shop-*"]}, "'shop-*' is no name of a namespace"),
        ({"sessions": ["play"], "namespaces": [""]}, "'' is no name of a namespace"),
    ],
)
def test_own_object_that_cannot_be_read_refuses(value, message):
    with pytest.raises(GrantError) as raised:
        rules(groups("dev"), {"tailproxy": value})
    assert message in str(raised.value)
    assert "rule 2" in str(raised.value)


def test_rights_are_those_of_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "grants.md").read_text()
    for right in SessionRight:
        assert f"| `{right.value}` |" in text
