"""Sources of certificates that take over from each other."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from twisted.application.service import Service
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tailproxy.interfaces import CheckResult, ICertificateSource, IReadinessCheck, KeyPair
from tailproxy.tailnet.succession import Succession


@implementer(ICertificateSource)
class Source(Service):
    """Has a certificate when the test says so."""

    def __init__(self, name: str, *, ready: bool = True) -> None:
        self.label = name
        self.ready = ready

    def pair(self, server_name):
        made = KeyPair(self.label.encode(), b"", datetime(2030, 1, 1, tzinfo=UTC))
        return made if self.ready else None

    def check(self):
        return CheckResult(ok=self.ready, detail=self.label)


def shown(succession: Succession) -> str | None:
    pair = succession.pair("kube.example")
    return None if pair is None else pair.chain.decode()


@pytest.fixture
def first():
    return Source("first")


@pytest.fixture
def succession(first):
    succession = Succession(first)
    succession.startService()
    return succession


def test_it_is_what_it_says(succession):
    assert verifyObject(ICertificateSource, succession)
    assert verifyObject(IReadinessCheck, succession)


def test_the_first_one_is_run_and_shown(succession, first):
    assert first.running
    assert shown(succession) == "first"
    assert succession.check() == CheckResult(ok=True, detail="first")


def test_one_that_has_a_certificate_takes_over_at_once(succession, first):
    second = Source("second")
    succession.adopt(second)
    assert shown(succession) == "second"
    assert (first.running, second.running) == (0, 1)


def test_one_that_has_none_yet_leaves_the_one_before_in_place(succession, first):
    second = Source("second", ready=False)
    succession.adopt(second)
    assert shown(succession) == "first"
    assert (first.running, second.running) == (1, 1)
    assert succession.check() == CheckResult(ok=True, detail="first; the new one: second")
    second.ready = True
    assert shown(succession) == "second"
    assert not first.running


def test_when_neither_is_good_the_newest_says_why(succession, first):
    succession.adopt(Source("second", ready=False))
    first.ready = False
    assert succession.check() == CheckResult(ok=False, detail="second")


def test_one_that_never_had_any_is_passed_over(succession, first):
    second, third = Source("second", ready=False), Source("third", ready=False)
    succession.adopt(second)
    succession.adopt(third)
    assert shown(succession) == "first"
    assert (first.running, second.running, third.running) == (1, 0, 1)


def test_the_same_one_again_changes_nothing(succession, first):
    succession.adopt(first)
    assert first.running
    assert shown(succession) == "first"


def test_without_listeners_that_need_one_there_is_none(succession, first):
    succession.adopt(None)
    assert shown(succession) is None
    assert not first.running
    succession.adopt(first)
    assert shown(succession) == "first"
