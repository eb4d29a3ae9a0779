"""The resolver for development."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyObject

from tailproxy.errors import UnknownCallerError
from tailproxy.interfaces import IIdentityResolver
from tailproxy.policy.identity import Caller, IdentityError
from tailproxy.tailnet.static import StaticCaller, StaticResolver

HERE = ip_address("127.0.0.1")


def outcome(deferred: Deferred):
    results = []
    deferred.addBoth(results.append)
    return results[0]


def test_it_is_an_identity_resolver():
    verifyObject(IIdentityResolver, StaticResolver({}))


def test_the_table_says_who_calls():
    resolver = StaticResolver(
        {HERE: StaticCaller("ada@corp.example", ("dev", "ops"), "laptop.example")}
    )
    identity = outcome(resolver.resolve(Caller(HERE, 1)))
    assert (identity.user, identity.groups) == ("ada@corp.example", ("dev", "ops"))
    assert (identity.node, identity.addresses) == ("laptop.example", (HERE,))


def test_a_tagged_node_is_called_by_its_name_and_has_its_tags_for_groups():
    resolver = StaticResolver({HERE: StaticCaller("", (), "ci.example", ("tag:ci",))})
    identity = outcome(resolver.resolve(Caller(HERE, 1)))
    assert (identity.user, identity.groups) == ("ci.example", ("tag:ci",))


def test_who_is_not_in_the_table_is_unknown():
    resolver = StaticResolver({HERE: StaticCaller("ada@corp.example")})
    failure = outcome(resolver.resolve(Caller(ip_address("127.0.0.2"), 1)))
    assert failure.check(UnknownCallerError)


def test_an_entry_without_a_user_is_refused_at_once():
    with pytest.raises(IdentityError):
        StaticResolver({HERE: StaticCaller("")})
