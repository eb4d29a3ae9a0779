"""The fakes that stand for what this package gives to others keep the same promises."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address

from zope.interface.verify import verifyObject

from tailproxy.errors import UnknownCallerError, UnusableIdentityError
from tailproxy.interfaces import ICertificateSource, IIdentityResolver, KeyPair
from tailproxy.policy.identity import Caller, identify
from tailproxy.testing import FakeCertificateSource, FakeIdentityResolver
from tests.tailnet.conftest import node_answer

HERE, THERE, NOWHERE = (ip_address(f"100.64.0.{n}") for n in (1, 2, 3))


def outcome(deferred):
    results = []
    deferred.addBoth(results.append)
    return results[0]


def test_the_resolver_knows_whom_it_is_told_of():
    identity = identify(node_answer())
    resolver = FakeIdentityResolver({HERE: identity, THERE: UnusableIdentityError("broken")})
    verifyObject(IIdentityResolver, resolver)
    callers = [Caller(address, 1) for address in (HERE, THERE, NOWHERE)]
    found = [outcome(resolver.resolve(caller)) for caller in callers]
    assert found[0] is identity
    assert found[1].check(UnusableIdentityError)
    assert found[2].check(UnknownCallerError)
    assert resolver.asked == callers


def test_the_certificates_are_those_it_is_given():
    one, other = (KeyPair(name, name, datetime.now(UTC)) for name in (b"one", b"other"))
    source = FakeCertificateSource(one, {"other.example": other})
    verifyObject(ICertificateSource, source)
    assert source.pair(None) is one
    assert source.pair("other.example") is other
    assert source.pair("elsewhere.example") is one
    assert source.asked == [None, "other.example", "elsewhere.example"]
