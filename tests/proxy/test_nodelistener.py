"""Listening on addresses that come and go."""

from ipaddress import ip_address

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from tailproxy.proxy.doors import FactoryDoor
from tailproxy.proxy.nodelistener import NodeListener
from tests.proxy.servers import Wire, dial

ONE, TWO = ip_address("127.0.0.3"), ip_address("127.0.0.4")


class ClockedReactor(Clock):
    """Real ports; time stands still until a test lets it pass. Some addresses are not there yet."""

    def __init__(self) -> None:
        super().__init__()
        self.missing: set[str] = set()

    def listenTCP(self, port, factory, backlog=50, interface=""):
        if interface in self.missing:
            raise CannotListenError(interface, port, OSError(99, "not there"))
        return reactor.listenTCP(port, factory, backlog, interface)


@pytest.fixture
def clock() -> ClockedReactor:
    return ClockedReactor()


@pytest.fixture
def listener(clock):
    factory = Factory.forProtocol(Wire)
    factory.noisy = False
    listener = NodeListener(clock, "tailnet", 0, FactoryDoor(reactor, factory))
    yield listener
    pytest_twisted.blockon(Deferred.fromCoroutine(stopped(listener)))
    assert clock.getDelayedCalls() == []


async def stopped(listener) -> None:
    if listener.running:
        await listener.stopService()


def hosts(listener) -> list[str]:
    return [address.host for address in listener.bound]


def start(listener) -> None:
    listener.privilegedStartService()
    listener.startService()


def test_before_the_node_has_an_address_nothing_is_open(listener):
    start(listener)
    assert listener.bound == []


def test_addresses_known_before_the_start_are_bound_at_the_start(listener):
    listener.follow([ONE, TWO])
    assert listener.bound == []
    start(listener)
    assert hosts(listener) == ["127.0.0.3", "127.0.0.4"]


@pytest_twisted.ensureDeferred
async def test_it_moves_with_the_node(listener):
    start(listener)
    listener.follow([ONE])
    assert hosts(listener) == ["127.0.0.3"]
    port = listener.bound[0].port
    client = await dial(port, "127.0.0.3")
    listener.follow([TWO])
    assert hosts(listener) == ["127.0.0.4"]
    assert not client.lost, "connections that are open stay open"
    client.transport.loseConnection()
    await client.ends()


def test_while_tailscaled_is_away_it_stays_where_it_is(listener):
    start(listener)
    listener.follow([ONE])
    port = listener.bound[0].port
    listener.follow([])
    listener.follow([ONE])
    assert listener.bound[0].port == port


def test_an_address_that_is_not_there_yet_is_tried_again(listener, clock):
    clock.missing = {"127.0.0.4"}
    start(listener)
    listener.follow([ONE, TWO])
    assert hosts(listener) == ["127.0.0.3"]
    clock.missing = set()
    clock.advance(1)
    assert hosts(listener) == ["127.0.0.3", "127.0.0.4"]


@pytest_twisted.ensureDeferred
async def test_after_the_drain_began_nothing_is_opened(listener, clock):
    clock.missing = {"127.0.0.3"}
    start(listener)
    listener.follow([ONE])
    await listener.stop_accepting()
    clock.missing = set()
    clock.advance(5)
    listener.follow([ONE, TWO])
    assert listener.bound == []
