"""Who the proxy says I am."""

from __future__ import annotations

import pytest

from tailproxy.client.access import read_access
from tailproxy.client.connection import ConnectionFailed
from tailproxy.client.whoami import REPEATS, REVIEWS, WHOAMI, who_am_i
from tests.client.servers import ADA, RULES, refusal


@pytest.fixture
def access(played, tmp_path):
    return read_access([played.kubeconfig(tmp_path / "config")], None)


def test_proxy_and_cluster_are_asked_over_one_connection(played, access):
    found = who_am_i(access, "apps")
    assert (found.caller, found.status, found.refused, found.complete) == (ADA, RULES, "", True)
    assert [each.verbs for each in found.permissions] == [("get", "list")]
    assert played.connections == 1
    *before, (method, path, body, token) = played.asked
    assert before == [("GET", WHOAMI, None, None)] * (REPEATS + 1)
    assert (method, path, token) == ("POST", REVIEWS, "Bearer hush")
    assert body["spec"] == {"namespace": "apps"}
    assert found.latency.first > found.latency.proxy > 0 < found.latency.cluster


def test_programs_get_all_of_it(access):
    found = who_am_i(access, "apps").as_json()
    assert found["caller"] == ADA
    assert found["rules"] == RULES
    assert (found["context"], found["namespace"], found["rulesRefused"]) == ("here", "apps", None)
    assert set(found["latencySeconds"]) == {"first", "proxy", "cluster"}


def test_a_review_that_is_refused_leaves_the_rest(played, access):
    played.review = refusal(401, "Unauthorized")
    found = who_am_i(access, "default")
    assert (found.status, found.refused, found.permissions) == (None, "Unauthorized", ())
    assert found.caller == ADA


def test_rules_that_cannot_be_listed_are_incomplete(played, access):
    played.review = (201, {"status": {**RULES, "incomplete": True}})
    assert not who_am_i(access, "default").complete


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            refusal(401, "tailproxy: no node of this tailnet has the address 100.64.0.9"),
            "refuses you (401): tailproxy: no node of this tailnet has the address 100.64.0.9",
        ),
        (
            refusal(503, "tailproxy: cannot ask tailscaled who is calling: it does not answer"),
            "refuses you (503): tailproxy: cannot ask tailscaled",
        ),
        (refusal(403, 'forbidden: User "x" cannot get path'), "is no tailproxy: it answers"),
        (refusal(401, "Unauthorized"), "is no tailproxy: it answers"),
        ((200, b"<html>"), "is no tailproxy: it answers"),
        ((200, []), "is no tailproxy: it answers"),
        ((200, {"hello": 1}), "is no tailproxy: it answers"),
    ],
)
def test_who_is_no_proxy_or_refuses_is_named(played, access, answer, expected):
    played.whoami = answer
    with pytest.raises(ConnectionFailed) as caught:
        who_am_i(access, "default")
    assert str(caught.value).startswith(f"{played.url} {expected}")
    assert len(played.asked) == 1
