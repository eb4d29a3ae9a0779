"""What somebody may do, in few lines."""

from __future__ import annotations

import pytest

from tailproxy.client.rules import condense


def rule(verbs: str, resources: str, group: str = "", names: str = "") -> dict:
    return {
        "verbs": verbs.split(),
        "apiGroups": [group],
        "resources": resources.split(),
        "resourceNames": names.split() or None,
    }


def shown(*rules: dict) -> list[tuple[str, str]]:
    return [(" ".join(each.verbs), ", ".join(each.things)) for each in condense(rules)]


def test_things_with_the_same_verbs_stand_together():
    assert shown(
        rule("watch list get", "pods"),
        rule("get list watch", "deployments", "apps"),
        rule("create", "pods/exec"),
    ) == [("get list watch", "deployments.apps, pods"), ("create", "pods/exec")]


def test_verbs_of_several_rules_add_up():
    assert shown(rule("list", "pods"), rule("get", "pods"), rule("use", "pods")) == [
        ("get list use", "pods")
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (rule("* get", "*", "*"), ("*", "everything")),
        (rule("get", "*", "apps"), ("get", "everything in apps")),
        (rule("get", "*"), ("get", "everything in the core group")),
        (rule("get", "*/scale", "apps"), ("get", "*.apps/scale")),
        (rule("get", "secrets", names="a b"), ("get", "secrets a, secrets b")),
        (rule("get", "deployments/scale", "apps"), ("get", "deployments.apps/scale")),
    ],
)
def test_things_are_named_as_kubectl_names_them(given, expected):
    assert shown(given) == [expected]


def test_what_tells_nothing_is_left_out():
    assert (
        shown(
            rule("create", "selfsubjectrulesreviews", "authorization.k8s.io"),
            rule("create", "selfsubjectreviews", "authentication.k8s.io"),
            rule("get", "deployments", "extensions"),
        )
        == []
    )
    assert shown(rule("get list", "pods"), rule("get", "pods/status")) == [("get list", "pods")]


def test_what_allows_more_than_the_thing_itself_stays():
    assert shown(rule("get", "pods"), rule("get update", "pods/status")) == [
        ("get update", "pods/status"),
        ("get", "pods"),
    ]


def test_what_allows_most_comes_first():
    assert [
        verbs
        for verbs, _ in shown(
            rule("get", "a"), rule("get list", "b"), rule("*", "c"), rule("create", "d")
        )
    ] == ["*", "get list", "create", "get"]
