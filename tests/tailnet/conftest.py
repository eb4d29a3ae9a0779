"""A fake tailscaled behind a real socket, and time that only tests move."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import Clock

from tailproxy.metrics import Metrics
from tailproxy.tailnet.localapi import LocalAPI
from tailproxy.testing import FakeLocalAPI


class ClockedReactor(Clock):
    """Real unix sockets, but time stands still until a test lets it pass."""

    def connectUNIX(self, address, factory, timeout=30, checkPID=0):
        return reactor.connectUNIX(address, factory, timeout=timeout, checkPID=checkPID)


@pytest.fixture
def clock():
    return ClockedReactor()


@pytest.fixture
def daemon(tmp_path):
    """A tailscaled that runs."""
    fake = FakeLocalAPI()
    fake.start(reactor, str(tmp_path / "tailscaled.sock"))
    yield fake
    pytest_twisted.blockon(fake.stop())


@pytest.fixture
def api(clock, daemon):
    client = LocalAPI(clock, daemon.path)
    yield client
    pytest_twisted.blockon(client.close())


@pytest.fixture
def metrics():
    return Metrics("test")


def node_answer(user="ada@corp.example", name="laptop.corp-cat.ts.net.", caps=None, **node):
    """What WhoIs answers about a user's node."""
    return {
        "Node": {
            "ID": 7,
            "StableID": "nABC",
            "Name": name,
            "Addresses": ["100.64.0.5/32", "fd7a:115c:a1e0::5/128"],
            **node,
        },
        "UserProfile": {"ID": 77, "LoginName": user, "DisplayName": "Ada"},
        "CapMap": caps,
    }


def granting(*groups):
    """A capability map with a rule that impersonates groups."""
    return {"tailscale.com/cap/kubernetes": [{"impersonate": {"groups": list(groups)}}]}
