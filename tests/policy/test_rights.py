"""Rights to impersonate, as rules of RBAC and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.policy.grants import CAPABILITY, GrantError
from tailproxy.policy.rights import VERBS, Rights, groups_of_policy, held, manifests

NAMES = st.none() | st.lists(st.sampled_from("abcd"), min_size=1, unique=True).map(tuple)
RIGHTS = st.builds(
    Rights,
    users=NAMES,
    groups=NAMES,
    constrained=st.booleans(),
    verbs=st.just(VERBS),
)
UNRELATED = [
    {"verbs": ["create"], "apiGroups": ["authorization.k8s.io"], "resources": ["*"]},
    {"verbs": ["get"], "apiGroups": [""], "resources": ["users", "groups"]},
    {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["serviceaccounts"]},
    {"verbs": ["impersonate"], "apiGroups": ["example.com"], "resources": ["users", "groups"]},
]


def test_any_user_and_any_group_are_one_rule():
    assert Rights().rules() == [
        {"apiGroups": [""], "resources": ["users", "groups"], "verbs": ["impersonate"]}
    ]


def test_names_are_told_apart_by_resource():
    assert Rights(groups=("platform", "tag:ci")).rules() == [
        {"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]},
        {
            "apiGroups": [""],
            "resources": ["groups"],
            "verbs": ["impersonate"],
            "resourceNames": ["platform", "tag:ci"],
        },
    ]


def test_constrained_rights_name_what_may_be_done():
    identity, resources, paths = Rights(constrained=True, verbs=("get", "list")).rules()
    assert identity == {
        "apiGroups": ["authentication.k8s.io"],
        "resources": ["users", "groups"],
        "verbs": ["impersonate:user-info"],
    }
    assert resources == {
        "apiGroups": ["*"],
        "resources": ["*"],
        "verbs": ["impersonate-on:user-info:get", "impersonate-on:user-info:list"],
    }
    assert paths == {"nonResourceURLs": ["*"], "verbs": ["impersonate-on:user-info:get"]}


def test_constrained_rights_to_everything_include_every_method():
    *_, paths = Rights(constrained=True).rules()
    assert "impersonate-on:user-info:post" in paths["verbs"]


def test_verbs_without_a_method_give_no_paths():
    rules = Rights(constrained=True, verbs=("list",)).rules()
    assert not any("nonResourceURLs" in rule for rule in rules)


@given(RIGHTS)
def test_what_was_given_is_held(rights):
    assert held([*UNRELATED, *rights.rules()]) == rights


@pytest.mark.parametrize("missing", ["users", "groups"])
@pytest.mark.parametrize("constrained", [False, True])
def test_users_without_groups_or_groups_without_users_lead_nowhere(missing, constrained):
    rules = [
        rule
        for rule in Rights(users=("a",), groups=("b",), constrained=constrained).rules()
        if rule.get("resources") != [missing]
    ]
    assert held(rules) is None
    assert held([*UNRELATED, *rules]) is None


def test_users_one_way_and_groups_the_other_lead_nowhere():
    users, _ = Rights(users=("a",), groups=("b",)).rules()
    _, groups, *rest = Rights(users=("a",), groups=("b",), constrained=True).rules()
    assert held([users, groups, *rest]) is None


def test_constrained_rights_to_do_nothing_lead_nowhere():
    identity, *_ = Rights(constrained=True).rules()
    assert held([identity]) is None


def test_an_administrator_may_impersonate_anybody():
    assert held([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]) == Rights()


@pytest.mark.parametrize(
    ("rights", "says"),
    [
        (Rights(), "any user and any group"),
        (Rights(("a",), ("x", "y")), "1 user and 2 groups"),
        (Rights(constrained=True), "any user and any group, constrained"),
    ],
)
def test_rights_are_told_in_words(rights, says):
    assert str(rights) == says


def test_the_manifest_binds_the_role_to_the_account():
    account, role, binding = manifests(Rights(), "ns", "name")
    assert account["metadata"] == {"name": "name", "namespace": "ns"}
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "name", "namespace": "ns"}]


class TestPolicy:
    def test_groups_are_those_of_grants_and_the_tags(self):
        def grant(*groups):
            rule = {"impersonate": {"groups": list(groups)}}
            return {"src": ["*"], "app": {CAPABILITY: [rule]}}

        policy = {
            "tagOwners": {"tag:ci": [], "tag:kube-proxy": []},
            "grants": [
                {"src": ["*"], "ip": ["tcp:443"]},
                grant("platform", "oncall"),
                grant("oncall", "dev"),
            ],
        }
        assert groups_of_policy(policy) == ("platform", "oncall", "dev", "tag:ci", "tag:kube-proxy")

    @pytest.mark.parametrize("policy", [{}, {"grants": None}, {"grants": [{"app": None}]}])
    def test_there_may_be_none(self, policy):
        assert groups_of_policy(policy) == ()

    @pytest.mark.parametrize(
        "policy", [[], None, {"grants": {}}, {"grants": [1]}, {"tagOwners": ["tag:a"]}]
    )
    def test_what_is_no_policy_is_refused(self, policy):
        with pytest.raises(ValueError, match=r"no object|is not"):
            groups_of_policy(policy)

    def test_a_rule_that_cannot_be_read_is_refused(self):
        with pytest.raises(GrantError, match="rule 1"):
            groups_of_policy({"grants": [{"app": {CAPABILITY: [{"impersonate": 1}]}}]})
