"""What is known of the own node."""

from __future__ import annotations

from ipaddress import ip_address

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, globalLogPublisher
from zope.interface.verify import verifyObject

from tailproxy.interfaces import IReadinessCheck
from tailproxy.tailnet.node import Node, NodeMonitor
from tailproxy.testing import Reply

STATUS = {
    "Version": "1.102.4-t123",
    "TUN": False,
    "BackendState": "Running",
    "TailscaleIPs": ["100.64.0.9", "fd7a:115c:a1e0::9"],
    "Self": {"ID": "nZ1CNTRL", "DNSName": "API-0.corp-cat.ts.net."},
    "CurrentTailnet": {"Name": "corp", "MagicDNSSuffix": "corp-cat.ts.net"},
    "CertDomains": ["api-0.corp-cat.ts.net"],
    "Peer": None,
}
LOGGED_OUT = {
    "Version": "1.102.4",
    "TUN": True,
    "BackendState": "NeedsLogin",
    "TailscaleIPs": None,
    "Self": {"DNSName": ""},
    "CurrentTailnet": None,
    "CertDomains": None,
}
UP = Node(
    state="Running",
    addresses=(ip_address("100.64.0.9"), ip_address("fd7a:115c:a1e0::9")),
    tun=False,
    fqdn="api-0.corp-cat.ts.net",
    cert_domains=("api-0.corp-cat.ts.net",),
    suffix="corp-cat.ts.net",
    version="1.102.4-t123",
    capability=142,
)


class Watched:
    """The nodes that a watcher was told of."""

    def __init__(self):
        self.nodes = []
        self._waiters = []

    def __call__(self, node):
        self.nodes.append(node)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    async def until(self, condition):
        while not condition(self.nodes[-1]):
            waiter = Deferred()
            self._waiters.append(waiter)
            await waiter
            # Go on from the reactor, not from within the monitor.
            await deferLater(reactor, 0)
        return self.nodes[-1]


@pytest.fixture
def monitor(clock, api, daemon):
    daemon.replies["status"] = Reply(STATUS, headers={"Tailscale-Cap": "142"})
    made = NodeMonitor(clock, api)
    made.startService()
    yield made
    made.stopService()


@pytest.fixture
def watched(monitor):
    made = Watched()
    monitor.watch(made)
    return made


@pytest.fixture
def warnings():
    events = []

    def observe(event):
        if event["log_level"] is LogLevel.warn:
            events.append(event["warning"])

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


def test_it_is_a_readiness_check(monitor):
    verifyObject(IReadinessCheck, monitor)
    assert monitor.name == "tailscaled"


class TestReading:
    def test_a_running_node(self):
        assert Node.read(STATUS, 142) == UP
        assert UP.up

    def test_a_node_that_is_not_logged_in(self):
        assert Node.read(LOGGED_OUT, None) == Node(state="NeedsLogin", tun=True, version="1.102.4")

    def test_an_empty_answer_says_nothing(self):
        assert Node.read({}, None) == Node()
        assert Node().tun is None

    @pytest.mark.parametrize(
        "wrong",
        [
            {"TailscaleIPs": ["nonsense"]},
            {"TailscaleIPs": 5},
            {"Self": "x"},
            {"CertDomains": [5]},
            {"CurrentTailnet": {"MagicDNSSuffix": 5}},
        ],
    )
    def test_a_strange_answer_is_an_error(self, wrong):
        with pytest.raises(ValueError):
            Node.read(STATUS | wrong, None)

    @pytest.mark.parametrize(
        ("version", "outdated"),
        [
            ("1.102.0", False),
            ("1.102.4-ERR-BuildInfo", False),
            ("1.103.1", False),
            ("2.0.0", False),
            ("1.100.9", True),
            ("1.98.2-tabc", True),
            ("0.999.0", True),
            ("", False),
            ("dev", False),
        ],
    )
    def test_versions_are_compared_as_numbers(self, version, outdated):
        assert Node(version=version).outdated is outdated


class TestFollowing:
    @pytest_twisted.ensureDeferred
    async def test_nothing_is_known_before_the_bus_is_there(self, monitor, watched, daemon):
        assert watched.nodes == [Node()]
        assert daemon.requests == []
        assert monitor.check().ok is False
        assert "was not asked yet" in monitor.check().detail

    @pytest_twisted.ensureDeferred
    async def test_status_is_asked_for_when_the_bus_is_there(self, monitor, watched, daemon):
        monitor.bus_connected()
        assert await watched.until(lambda node: node.up) == UP
        assert monitor.node == UP
        assert daemon.requests == ["GET /localapi/v0/status?peers=false"]

    @pytest.mark.parametrize(
        "message", [{"SelfChange": {"Name": "x"}}, {"State": 6}, {"NetMap": {"Name": "x"}}]
    )
    @pytest_twisted.ensureDeferred
    async def test_and_whenever_the_own_node_may_have_changed(
        self, monitor, watched, daemon, message
    ):
        monitor.bus_connected()
        await watched.until(lambda node: node.up)
        daemon.replies["status"] = Reply(STATUS | {"TailscaleIPs": ["100.64.0.10"]})
        monitor.bus_message(message)
        node = await watched.until(lambda node: node != UP)
        assert node.addresses == (ip_address("100.64.0.10"),)

    @pytest_twisted.ensureDeferred
    async def test_other_messages_cost_nothing(self, monitor, watched, daemon):
        monitor.bus_connected()
        await watched.until(lambda node: node.up)
        monitor.bus_message({"PeersChanged": [{}], "SelfChange": None})
        assert len(daemon.requests) == 1

    @pytest_twisted.ensureDeferred
    async def test_a_burst_of_messages_asks_once_more(self, monitor, watched, daemon):
        daemon.hanging.add("status")
        monitor.bus_connected()
        await daemon.received(1)
        for _ in range(10):
            monitor.bus_message({"SelfChange": {}})
        daemon.release()
        await daemon.received(2)
        await watched.until(lambda node: node.up)
        assert len(daemon.requests) == 2

    @pytest_twisted.ensureDeferred
    async def test_a_change_during_a_question_is_not_missed(self, monitor, watched, daemon):
        daemon.hanging.add("status")
        monitor.bus_connected()
        await daemon.received(1)
        monitor.bus_message({"SelfChange": {}})
        daemon.release()
        daemon.replies["status"] = Reply(LOGGED_OUT)
        assert not (await watched.until(lambda node: node.state == "NeedsLogin")).up

    @pytest_twisted.ensureDeferred
    async def test_that_it_went_down_is_believed_without_asking(self, monitor, watched, daemon):
        monitor.bus_connected()
        await watched.until(lambda node: node.up)
        daemon.hanging.add("status")
        monitor.bus_message({"State": 2})
        assert monitor.node.state == "NeedsLogin"
        assert not monitor.check().ok

    @pytest_twisted.ensureDeferred
    async def test_when_the_bus_is_lost_nothing_is_known(self, monitor, watched):
        monitor.bus_connected()
        await watched.until(lambda node: node.up)
        monitor.bus_lost("there is no socket /x; start tailscaled")
        assert watched.nodes[-1] == Node()
        assert monitor.check().detail == "there is no socket /x; start tailscaled"

    @pytest_twisted.ensureDeferred
    async def test_a_loss_during_a_question_is_final(self, monitor, watched, daemon):
        daemon.hanging.add("status")
        monitor.bus_connected()
        await daemon.received(1)
        monitor.bus_lost("gone")
        assert monitor.node == Node()
        daemon.hanging.clear()
        monitor.bus_connected()
        assert await watched.until(lambda node: node.up) == UP

    @pytest_twisted.ensureDeferred
    async def test_a_status_that_fails_is_asked_for_again(self, monitor, watched, daemon, clock):
        daemon.replies["status"] = Reply("no\n", 500)
        monitor.bus_connected()
        while "refused status" not in monitor.check().detail:
            await deferLater(reactor, 0)
        daemon.replies["status"] = Reply(STATUS, headers={"Tailscale-Cap": "142"})
        clock.advance(1)
        assert await watched.until(lambda node: node.up) == UP

    @pytest_twisted.ensureDeferred
    async def test_a_status_that_cannot_be_read_is_a_reason(self, monitor, daemon):
        daemon.replies["status"] = Reply({"TailscaleIPs": ["nonsense"]})
        monitor.bus_connected()
        while "nonsense" not in monitor.check().detail:
            await deferLater(reactor, 0)
        assert "status cannot be read" in monitor.check().detail

    @pytest_twisted.ensureDeferred
    async def test_news_do_not_wait_for_the_next_attempt(self, monitor, watched, daemon, clock):
        daemon.replies["status"] = Reply("no\n", 500)
        monitor.bus_connected()
        while "refused status" not in monitor.check().detail:
            await deferLater(reactor, 0)
        daemon.replies["status"] = Reply(STATUS, headers={"Tailscale-Cap": "142"})
        monitor.bus_message({"SelfChange": {}})
        assert await watched.until(lambda node: node.up) == UP
        clock.advance(2)
        assert len(daemon.requests) == 2

    @pytest_twisted.ensureDeferred
    async def test_watchers_hear_of_changes_only(self, monitor, watched):
        monitor.bus_connected()
        await watched.until(lambda node: node.up)
        monitor.bus_message({"Prefs": {"ShieldsUp": False}})
        assert watched.nodes == [Node(), UP]


class TestReadiness:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"BackendState": "NeedsLogin"}, "tailscale up"),
            ({"BackendState": "NeedsMachineAuth"}, "approved"),
            ({"BackendState": "Stopped"}, "tailscale up"),
            ({"BackendState": "Starting"}, "still starting"),
            ({"BackendState": "NoState"}, "still starting"),
            ({"BackendState": "InUseOtherUser"}, "another user"),
            ({"TailscaleIPs": None}, "no address"),
        ],
    )
    @pytest_twisted.ensureDeferred
    async def test_why_not_is_said_with_the_next_step(self, monitor, watched, daemon, change, said):
        daemon.replies["status"] = Reply(STATUS | change)
        monitor.bus_connected()
        await watched.until(lambda node: node.state)
        assert not monitor.check().ok
        assert said in monitor.check().detail

    @pytest_twisted.ensureDeferred
    async def test_a_node_on_the_tailnet_is_ready(self, monitor, watched):
        monitor.bus_connected()
        await watched.until(lambda node: node.up)
        assert monitor.check().ok
        assert monitor.check().detail == "api-0.corp-cat.ts.net is on the tailnet"

    @pytest_twisted.ensureDeferred
    async def test_shields_up_is_warned_of_once(self, monitor, watched, warnings):
        monitor.bus_connected()
        monitor.bus_message({"Prefs": {"ShieldsUp": True}})
        node = await watched.until(lambda node: node.up)
        assert node == attrs.evolve(UP, shields_up=True)
        assert "shields-up=false" in monitor.check().detail
        assert len(warnings) == 1

    @pytest_twisted.ensureDeferred
    async def test_an_old_tailscaled_is_warned_of_once(self, monitor, watched, daemon, warnings):
        daemon.replies["status"] = Reply(STATUS | {"Version": "1.98.1"})
        monitor.bus_connected()
        await watched.until(lambda node: node.up)
        monitor.bus_message({"Prefs": {"ShieldsUp": False}})
        assert warnings == [
            "tailscaled 1.98.1 is older than 1.102, which tailproxy needs; update it"
        ]
        assert monitor.check().ok
