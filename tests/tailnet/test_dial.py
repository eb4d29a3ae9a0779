"""Connections that tailscaled makes: a played daemon on a real socket."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.protocol import Factory, Protocol
from zope.interface.verify import verifyObject

from tailproxy.interfaces import ITailnetDialer
from tailproxy.tailnet.dial import DialError, TailscaledDialer
from tailproxy.wire.addresses import AddressPort

RECORDER = AddressPort.parse("100.99.99.99:80")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: ts-dial\r\n\r\n"


class Daemon(Protocol):
    """Answers the first request with what the test says, and echoes what comes then."""

    def connectionMade(self):
        self.factory.connections.append(self)
        self.received = b""

    def dataReceived(self, data):
        answered = b"\r\n\r\n" in self.received
        self.received += data
        if answered:
            self.transport.write(data.upper())
        elif b"\r\n\r\n" in self.received:
            self.transport.write(self.factory.answer)
            if self.factory.hang_up:
                self.transport.loseConnection()

    def connectionLost(self, reason):
        self.factory.gone.callback(None)


class Client(Protocol):
    """The protocol on the connection."""

    def __init__(self, wanted):
        self.wanted = wanted
        self.received = b""
        self.complete = Deferred()
        self.lost = Deferred()

    def dataReceived(self, data):
        self.received += data
        if len(self.received) == self.wanted:
            self.complete.callback(self.received)

    def connectionLost(self, reason):
        self.lost.callback(None)


@pytest.fixture
def daemon(tmp_path):
    factory = Factory.forProtocol(Daemon)
    factory.answer, factory.hang_up = SWITCHED, False
    factory.connections, factory.gone = [], Deferred()
    factory.path = str(tmp_path / "tailscaled.sock")
    port = reactor.listenUNIX(factory.path, factory)
    yield factory
    for connection in factory.connections:
        connection.transport.abortConnection()
    pytest_twisted.blockon(port.stopListening())


@pytest.fixture
def dialer(daemon):
    dialer = TailscaledDialer(reactor, daemon.path)
    verifyObject(ITailnetDialer, dialer)
    return dialer


async def failure(dialer, address=RECORDER):
    with pytest.raises(DialError) as caught:
        await connectProtocol(dialer.endpoint(address), Client(0))
    return str(caught.value)


@pytest_twisted.ensureDeferred
async def test_a_connection_is_one_to_the_node(daemon, dialer):
    client = await connectProtocol(dialer.endpoint(RECORDER), Client(5))
    client.transport.write(b"hello")
    assert await client.complete == b"HELLO"
    assert daemon.connections[0].received.split(b"\r\n") == [
        b"POST /localapi/v0/dial HTTP/1.1",
        b"Host: local-tailscaled.sock",
        b"Connection: upgrade",
        b"Upgrade: ts-dial",
        b"Content-Length: 0",
        b"Dial-Host: 100.99.99.99",
        b"Dial-Port: 80",
        b"Dial-Network: tcp",
        b"",
        b"hello",
    ]
    client.transport.loseConnection()
    await client.lost
    await daemon.gone


@pytest_twisted.ensureDeferred
async def test_an_ipv6_address_stands_without_brackets(daemon, dialer):
    address = AddressPort.parse("[fd7a:115c:a1e0::7]:8080")
    await connectProtocol(dialer.endpoint(address), Client(0))
    assert b"Dial-Host: fd7a:115c:a1e0::7\r\nDial-Port: 8080\r\n" in daemon.connections[0].received


@pytest_twisted.ensureDeferred
async def test_bytes_right_behind_the_answer_are_not_lost(daemon, dialer):
    daemon.answer = SWITCHED + b"early"
    client = await connectProtocol(dialer.endpoint(RECORDER), Client(5))
    assert await client.complete == b"early"


@pytest_twisted.ensureDeferred
async def test_the_other_side_going_is_told(daemon, dialer):
    daemon.hang_up = True
    client = await connectProtocol(dialer.endpoint(RECORDER), Client(0))
    await client.lost


@pytest_twisted.ensureDeferred
async def test_a_node_that_refuses_is_an_error_in_tailscaleds_words(daemon, dialer):
    text = b"dial failure: connection was refused\n"
    daemon.answer = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
    assert await failure(dialer) == (
        "tailscaled answers 502 to dial: dial failure: connection was refused"
    )
    await daemon.gone


@pytest_twisted.ensureDeferred
async def test_a_missing_right_says_whose(daemon, dialer):
    daemon.answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    assert "no reason given; see that uid" in await failure(dialer)


@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_none_is_an_error(daemon, dialer):
    daemon.answer = b"220 smtp.example.com\r\n"
    assert "malformed" in await failure(dialer)


@pytest_twisted.ensureDeferred
async def test_an_endless_answer_is_an_error(daemon, dialer):
    daemon.answer = b"HTTP/1.1 502 Bad Gateway\r\n\r\n" + b"x" * (100 << 10)
    assert "too long" in await failure(dialer)


@pytest_twisted.ensureDeferred
async def test_no_answer_is_an_error(daemon, dialer):
    daemon.answer, daemon.hang_up = b"", True
    assert "without an answer" in await failure(dialer)


@pytest_twisted.ensureDeferred
async def test_no_daemon_is_an_error_that_names_the_socket(tmp_path):
    path = str(tmp_path / "nobody.sock")
    message = await failure(TailscaledDialer(reactor, path))
    assert message.startswith(f"no connection to tailscaled at {path}: ")


@pytest_twisted.ensureDeferred
async def test_who_does_not_wait_gives_the_connection_up(daemon, dialer):
    daemon.answer = b""
    connecting = connectProtocol(dialer.endpoint(RECORDER), Client(0))
    while not daemon.connections:
        turn = Deferred()
        reactor.callLater(0, turn.callback, None)
        await turn
    connecting.cancel()
    with pytest.raises(CancelledError):
        await connecting
    await daemon.gone


class TestDialSelf:
    """Addresses that tailscaled leaves to the system."""

    SELF = b"HTTP/1.1 200 OK\r\nDial-Self: true\r\nDial-Addr: x\r\nContent-Length: 0\r\n\r\n"

    @pytest_twisted.ensureDeferred
    async def test_one_of_the_tailnet_is_connected_to(self, daemon, dialer):
        daemon.answer = self.SELF
        connected = []

        class Reactor:
            """Notes where TCP would go."""

            def __getattr__(self, name):
                return getattr(reactor, name)

            def connectTCP(self, host, port, factory, **_):
                connected.append((host, port))
                return reactor.connectUNIX(daemon.path, factory)

        dialer = TailscaledDialer(Reactor(), daemon.path)
        client = await connectProtocol(dialer.endpoint(RECORDER), Client(0))
        assert connected == [("100.99.99.99", 80)]
        client.transport.loseConnection()
        await client.lost

    @pytest_twisted.ensureDeferred
    async def test_another_one_is_refused(self, daemon, dialer):
        daemon.answer = self.SELF
        address = AddressPort.parse("192.0.2.7:80")
        message = await failure(dialer, address)
        assert message == "192.0.2.7 is not an address of the tailnet"
