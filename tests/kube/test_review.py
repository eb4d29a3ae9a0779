"""Asking the API server whether it is there and what we may do."""

import json

import pytest
from twisted.internet.task import Clock
from zope.interface.verify import verifyClass, verifyObject

from tailproxy.errors import UpstreamError
from tailproxy.interfaces import IReadinessCheck, IResponseReceiver
from tailproxy.kube.review import PERIOD, ApiServerReview, _Receiver
from tailproxy.policy.rights import Rights
from tailproxy.testing import FakeUpstream

DOWN = UpstreamError(502, "connect", "connection refused")


ALLOWED = b'{"status": {"allowed": true}}'
DENIED = b'{"status": {"allowed": false}}'

RULES_REVIEW = b"/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"

verifyClass(IResponseReceiver, _Receiver)


def allow(upstream, *, users=True, groups=True, rules=()):
    """Answer a whole round.

    :param rules: what our account may do, if it may not impersonate everybody.
    """
    for allowed in (users, groups):
        upstream.pending.popleft().answer(201, ALLOWED if allowed else DENIED)
    if not (users and groups):
        listed = upstream.pending.popleft()
        assert listed.request.target == RULES_REVIEW
        assert json.loads(listed.body)["kind"] == "SelfSubjectRulesReview"
        listed.answer(201, json.dumps({"status": {"resourceRules": rules or None}}).encode())


def fail(upstream):
    upstream.pending.popleft().fail(DOWN)


def headers(exchange):
    lines = exchange.request.block.removesuffix(b"\r\n\r\n").split(b"\r\n")
    return dict(line.split(b": ", 1) for line in lines)


@pytest.fixture
def upstream() -> FakeUpstream:
    return FakeUpstream()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def review(upstream, clock):
    service = ApiServerReview(upstream, clock, impersonate=True)
    service.startService()
    yield service
    if service.running:
        service.stopService()
    assert clock.getDelayedCalls() == []


def standing(review) -> dict[str, bool]:
    for check in review.checks:
        verifyObject(IReadinessCheck, check)
    return {check.name: check.check().ok for check in review.checks}


def detail(review, name) -> str:
    return next(check.check().detail for check in review.checks if check.name == name)


def test_nothing_is_taken_for_granted_before_the_first_answer(review):
    assert standing(review) == {"apiserver": False, "impersonation": False}
    assert detail(review, "apiserver") == "not asked yet"


def test_rights_to_impersonate_users_and_groups_make_it_ready(review, upstream):
    first = upstream.pending[0]
    assert first.request.method == b"POST"
    assert first.request.target == b"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    assert headers(first)[b"Authorization"] == b"Bearer our-token"
    assert headers(first)[b"Host"] == b"api.example.com"
    assert headers(first)[b"Content-Length"] == b"%d" % len(first.body)
    assert first.complete
    assert json.loads(first.body)["spec"]["resourceAttributes"] == {
        "verb": "impersonate",
        "resource": "users",
    }
    allow(upstream)
    assert standing(review) == {"apiserver": True, "impersonation": True}


@pytest.mark.parametrize(
    ("users", "groups", "named"),
    [(False, True, "users"), (True, False, "groups"), (False, False, "users and groups")],
)
def test_a_missing_right_is_named_with_the_way_to_grant_it(review, upstream, users, groups, named):
    allow(upstream, users=users, groups=groups)
    assert standing(review) == {"apiserver": True, "impersonation": False}
    assert f"impersonate {named};" in detail(review, "impersonation")
    assert "ClusterRole" in detail(review, "impersonation")


@pytest.mark.parametrize(
    ("rights", "says"),
    [
        (Rights(groups=("platform", "tag:ci")), "we may impersonate any user and 2 groups"),
        (Rights(users=("a@b",)), "we may impersonate 1 user and any group"),
        (Rights(constrained=True), "we may impersonate any user and any group, constrained"),
    ],
)
def test_rights_for_some_alone_are_enough_and_are_named(review, upstream, rights, says):
    anybody = not rights.constrained
    allow(
        upstream,
        users=anybody and rights.users is None,
        groups=anybody and rights.groups is None,
        rules=rights.rules(),
    )
    assert standing(review) == {"apiserver": True, "impersonation": True}
    assert detail(review, "impersonation") == says


@pytest.mark.usefixtures("review")
def test_it_is_asked_again_after_a_while(upstream, clock):
    allow(upstream)
    clock.advance(PERIOD - 1)
    assert not upstream.pending
    clock.advance(1)
    assert len(upstream.pending) == 1


def test_one_failure_is_a_blip_and_two_are_not(review, upstream, clock):
    allow(upstream)
    clock.advance(PERIOD)
    fail(upstream)
    assert standing(review) == {"apiserver": True, "impersonation": True}
    clock.advance(1)
    fail(upstream)
    assert standing(review) == {"apiserver": False, "impersonation": False}
    assert "connection refused" in detail(review, "apiserver")


def test_failures_that_do_not_follow_one_another_are_blips(review, upstream, clock):
    allow(upstream)
    for _ in range(2):
        clock.advance(PERIOD)
        fail(upstream)
        clock.advance(1)
        allow(upstream)
    assert standing(review) == {"apiserver": True, "impersonation": True}


def test_recovery_shows_within_two_seconds(review, upstream, clock):
    fail(upstream)
    assert standing(review)["apiserver"] is False
    clock.advance(1)
    allow(upstream)
    assert standing(review) == {"apiserver": True, "impersonation": True}


def test_a_credential_that_is_missing_is_the_reason(review, upstream, clock):
    fail(upstream)
    upstream.token = UpstreamError(503, "no-credential", "no token: gone")
    clock.advance(1)
    assert not upstream.pending
    assert "no token: gone" in detail(review, "apiserver")


@pytest.mark.parametrize(
    ("code", "body", "part"),
    [
        (401, b"{}", "does not accept our credential"),
        (403, b"{}", "with 403"),
        (201, b"nonsense", "cannot be read"),
        (201, b'{"status": {}}', "cannot be read"),
        (201, b"[]", "cannot be read"),
    ],
)
def test_an_answer_that_says_nothing_is_a_failure(review, upstream, code, body, part):
    upstream.pending.popleft().answer(code, body)
    assert standing(review)["apiserver"] is False
    assert part in detail(review, "apiserver")


@pytest.mark.parametrize(
    "body", [b'{"status": {}}', b'{"status": {"resourceRules": 1}}', b'{"status": []}']
)
def test_rules_that_cannot_be_read_are_a_failure(review, upstream, body):
    for _ in range(2):
        upstream.pending.popleft().answer(201, DENIED)
    upstream.pending.popleft().answer(201, body)
    assert standing(review) == {"apiserver": False, "impersonation": False}
    assert "SelfSubjectRulesReview cannot be read" in detail(review, "apiserver")


def test_rights_are_only_those_that_are_allowed_in_so_many_words(review, upstream):
    for _ in range(2):
        upstream.pending.popleft().answer(201, b'{"status": {"allowed": "yes"}}')
    upstream.pending.popleft().answer(201, b'{"status": {"resourceRules": []}}')
    assert standing(review)["impersonation"] is False


def test_no_answer_for_five_seconds_is_a_failure(review, upstream, clock):
    clock.advance(5)
    assert upstream.pending[0].aborted
    assert "no answer within 5 s" in detail(review, "apiserver")


def test_stopping_ends_the_question_under_way(review, upstream):
    review.stopService()
    assert upstream.pending[0].aborted


def test_in_noauth_mode_any_answer_will_do(upstream, clock):
    review = ApiServerReview(upstream, clock, impersonate=False)
    review.startService()
    exchange = upstream.pending.popleft()
    assert exchange.request.method == b"GET"
    assert b"Authorization" not in headers(exchange)
    exchange.answer(401)
    assert standing(review) == {"apiserver": True}
    review.stopService()
