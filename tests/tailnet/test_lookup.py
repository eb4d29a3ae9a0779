"""One look at tailscaled for people who ask about a node."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
import pytest_twisted

from tailproxy.policy.identity import Caller, IdentityError
from tailproxy.tailnet.localapi import LocalAPIError
from tailproxy.tailnet.lookup import UnknownNodeError, identity_at, node_address
from tailproxy.testing import Reply
from tests.tailnet.conftest import granting, node_answer


def node(fqdn: str, address: str, host: str = "") -> dict:
    return {"DNSName": f"{fqdn}.", "HostName": host, "TailscaleIPs": [address]}


STATUS = {
    "Self": node("kube.corp-cat.ts.net", "100.64.0.1", "Proxy Host"),
    "Peer": {
        "a": node("laptop.corp-cat.ts.net", "100.64.0.2", "Ada's Laptop"),
        "b": node("laptop.other.ts.net", "100.64.0.3"),
        "c": node("ci-7.corp-cat.ts.net", "100.64.0.4"),
        "d": {"DNSName": "asleep.corp-cat.ts.net.", "TailscaleIPs": None},
    },
}


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("ci-7", "100.64.0.4"),
        ("CI-7.Corp-Cat.TS.net.", "100.64.0.4"),
        ("laptop.other.ts.net", "100.64.0.3"),
        ("ada's laptop", "100.64.0.2"),
        ("proxy host", "100.64.0.1"),
    ],
)
async def test_a_node_is_found_by_any_of_its_names(api, daemon, name, address):
    daemon.replies["status"] = Reply(STATUS)
    assert await node_address(api, name) == ip_address(address)
    assert daemon.requests == ["GET /localapi/v0/status?peers=true"]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("laptop", "name one in full: laptop.corp-cat.ts.net, laptop.other.ts.net"),
        ("nobody", "none of the 5 nodes that the proxy's node knows has the name nobody"),
        ("asleep", "none of the 5 nodes"),
        ("", "none of the 5 nodes"),
    ],
)
async def test_a_name_that_is_nobodys_or_several_is_said(api, daemon, name, message):
    daemon.replies["status"] = Reply(STATUS)
    with pytest.raises(UnknownNodeError) as caught:
        await node_address(api, name)
    assert message in str(caught.value)


@pytest_twisted.ensureDeferred
async def test_an_identity_has_the_rules_of_node_and_service(api, daemon):
    daemon.whois["100.64.0.5"] = node_answer(caps=granting("dev"))
    daemon.whois["100.64.0.5 svc:kube"] = node_answer(caps=granting("ops"))
    caller = Caller(ip_address("100.64.0.5"), 0)
    assert (await identity_at(api, caller)).groups == ("dev",)
    called = Caller(ip_address("100.64.0.5"), 0, "svc:kube")
    found = await identity_at(api, called)
    assert found.groups == ("dev", "ops")
    assert [rule.origin.service for rule in found.grants.rules] == [False, True]


@pytest_twisted.ensureDeferred
async def test_an_address_that_is_nobodys_is_said(api):
    with pytest.raises(UnknownNodeError, match=r"no node has the address 100\.64\.0\.9"):
        await identity_at(api, Caller(ip_address("100.64.0.9"), 0))


@pytest_twisted.ensureDeferred
async def test_a_hopeless_question_is_not_asked(api, daemon):
    with pytest.raises(UnknownNodeError, match="is not an address of a tailnet"):
        await identity_at(api, Caller(ip_address("192.0.2.1"), 0))
    assert daemon.requests == []


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_read_is_an_error_as_for_requests(api, daemon):
    daemon.whois["100.64.0.5"] = node_answer(user="")
    with pytest.raises(IdentityError, match="no login name"):
        await identity_at(api, Caller(ip_address("100.64.0.5"), 0))
    daemon.replies["whois"] = Reply("no", 500)
    with pytest.raises(LocalAPIError, match="refused whois with 500"):
        await identity_at(api, Caller(ip_address("100.64.0.5"), 0))
