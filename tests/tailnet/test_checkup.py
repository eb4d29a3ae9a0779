"""Whether name and serve are as tailproxy needs them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tailproxy.listener_options import Endpoint
from tailproxy.tailnet.checkup import name_of, serves
from tailproxy.tailnet.node import Node

FQDN = "kube.corp-cat.ts.net"
OURS = Endpoint(ip_address("127.0.0.2"), 8443)
GOOD = {"TCPForward": "127.0.0.2:8443", "TerminateTLS": FQDN, "ProxyProtocol": 2}
COMMAND = "tailscale serve --bg --tls-terminated-tcp=443 --proxy-protocol=2 tcp://127.0.0.2:8443"


def without(key: str) -> dict:
    return {name: value for name, value in GOOD.items() if name != key}


@pytest.mark.parametrize(
    "config",
    [
        {"TCP": {"443": GOOD}},
        {"TCP": {"443": GOOD, "8443": {"HTTPS": True}, "1": None}},
        {"TCP": None, "Foreground": {"session": {"TCP": {"443": GOOD}}}},
    ],
)
def test_a_port_that_leads_to_the_listener_is_good(config):
    found = serves(config, OURS, None)
    assert found.ok
    assert found.detail == "port 443 of the node leads to 127.0.0.2:8443, PROXY v2"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "serve sends nothing of the node to 127.0.0.2:8443"),
        ({"TCP": {"443": {**GOOD, "TCPForward": "127.0.0.1:8443"}}}, "serve sends nothing"),
        ({"Services": {"svc:kube": {"TCP": {"443": GOOD}}}}, "serve sends nothing"),
        ({"TCP": {"443": without("ProxyProtocol")}}, "without a PROXY v2 header"),
        ({"TCP": {"443": {**GOOD, "ProxyProtocol": 1}}}, "without a PROXY v2 header"),
        ({"TCP": {"443": without("TerminateTLS")}}, "with TLS as it comes"),
        ({"TCP": {"443": GOOD, "444": without("ProxyProtocol")}}, "port 444 of the node"),
    ],
)
def test_what_is_wrong_is_said_with_the_command_that_mends_it(config, reason):
    found = serves(config, OURS, None)
    assert not found.ok
    assert reason in found.detail
    assert f"`{COMMAND}`" in found.detail


def test_a_service_has_ports_of_its_own():
    config = {"Services": {"svc:kube": {"TCP": {"443": GOOD}}}}
    assert serves(config, OURS, "svc:kube").ok
    other = serves(config, OURS, "svc:other")
    assert not other.ok
    assert "tailscale serve --service=svc:other --bg" in other.detail


@pytest.mark.parametrize(
    ("node", "certified", "detail"),
    [
        (Node(), False, "turn MagicDNS on"),
        (Node(fqdn=FQDN), True, "turn HTTPS certificates on"),
        (Node(fqdn=FQDN), False, None),
        (Node(fqdn=FQDN, cert_domains=(FQDN,)), True, None),
    ],
)
def test_the_name_must_be_there_and_certified_where_that_counts(node, certified, detail):
    found = name_of(node, certified=certified)
    assert found.ok is (detail is None)
    assert (detail or FQDN) in found.detail
