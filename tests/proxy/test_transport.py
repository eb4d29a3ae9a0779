"""Connections of our own, against real sockets: what is written arrives, ends are told apart."""

from __future__ import annotations

import socket
import ssl

import pytest
from twisted.internet import reactor
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.threads import deferToThread
from zope.interface import implementer

from tailproxy.proxy.tls import ServerTLS
from tailproxy.proxy.tlstransport import TLSTransport
from tailproxy.proxy.transport import FULL_BYTES, SocketTransport
from tests.proxy.servers import eventually
from tests.proxy.test_listener import Certificates

LARGE = bytes(range(256)) * 80_000


class Kept(Protocol):
    """Keeps what arrives and how it ended."""

    def __init__(self) -> None:
        self.received = b""
        self.reason: Exception | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason) -> None:
        self.reason = reason.value


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Kept):
    """Lives on when the other side sends no more."""

    ended = False

    def readConnectionLost(self) -> None:
        self.ended = True

    def writeConnectionLost(self) -> None: ...


class Producer:
    """Writes until it is told to pause."""

    def __init__(self, transport) -> None:
        self.transport = transport
        self.paused = False
        self.stopped = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self.stopped = True


class Pair:
    """A transport of ours, and a blocking socket at the other end."""

    def __init__(self, protocol: Protocol, tls: Certificates | None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.peer = socket.create_connection(listening.getsockname())
            ours, _ = listening.accept()
        ours.setblocking(False)
        self.peer.settimeout(10)
        self.protocol = protocol
        if tls is None:
            self.transport = SocketTransport(reactor, ours, protocol)
        else:
            connection = ServerTLS(tls.source).accept(ours)
            self.transport = TLSTransport(reactor, ours, protocol, connection)
        self.transport.start()
        self._tls = tls

    async def ready(self) -> Pair:
        """Once the handshake is done, if there is one."""
        if self._tls is not None:
            context = ssl.create_default_context(cadata=self._tls.authority.pem.decode())
            context.check_hostname = False
            self.peer = await deferToThread(context.wrap_socket, self.peer)
            await eventually(lambda: not self.transport._shaking)
        return self

    async def receive(self, size: int) -> bytes:
        """What comes at the other end, so much of it."""

        def read() -> bytes:
            got = bytearray()
            while len(got) < size and (data := self.peer.recv(size - len(got))):
                got += data
            return bytes(got)

        return await deferToThread(read)

    async def lost(self) -> Exception:
        """How it ended for us."""
        await eventually(lambda: self.protocol.reason is not None)
        return self.protocol.reason


@pytest.fixture(params=["plain", "tls"])
def certificates(request, nothing_left):  # noqa: ARG001 - what it checks must come after our end
    return Certificates() if request.param == "tls" else None


@pytest.fixture
def make_pair(certificates):
    pairs = []

    def make(protocol: Protocol | None = None) -> Pair:
        pairs.append(Pair(protocol or Kept(), certificates))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.peer.close()
        pair.transport.abortConnection()


async def test_what_is_written_is_on_its_way_before_the_reactor_comes_round(make_pair):
    pair = await make_pair().ready()
    pair.transport.write(b"now")
    assert pair.transport.buffered == 0
    assert await pair.receive(3) == b"now"


async def test_what_is_written_during_a_handshake_comes_behind_it(make_pair):
    pair = make_pair()
    pair.transport.write(b"early")
    await pair.ready()
    assert await pair.receive(5) == b"early"


async def test_more_than_the_system_takes_arrives_whole_and_in_order(make_pair):
    pair = await make_pair().ready()
    for start in range(0, len(LARGE), 1_000_000):
        pair.transport.write(LARGE[start : start + 1_000_000])
    assert pair.transport.buffered > 0
    assert await pair.receive(len(LARGE)) == LARGE
    await eventually(lambda: pair.transport.buffered == 0)


async def test_large_pieces_are_read_whole_and_in_order(make_pair):
    pair = await make_pair().ready()
    await deferToThread(pair.peer.sendall, LARGE)
    await eventually(lambda: len(pair.protocol.received) == len(LARGE))
    assert pair.protocol.received == LARGE


async def test_nothing_is_delivered_while_it_is_paused(make_pair):
    pair = await make_pair().ready()
    pair.transport.pauseProducing()
    await deferToThread(pair.peer.sendall, b"x" * 1000)
    await deferToThread(lambda: None)
    assert pair.protocol.received == b""
    pair.transport.resumeProducing()
    await eventually(lambda: len(pair.protocol.received) == 1000)


async def test_a_push_producer_waits_for_a_slow_reader(make_pair):
    pair = await make_pair().ready()
    producer = Producer(pair.transport)
    pair.transport.registerProducer(producer, True)
    sent = 0
    while not producer.paused:
        pair.transport.write(LARGE[: FULL_BYTES // 2])
        sent += FULL_BYTES // 2
        assert sent < 64 * 1024 * 1024
    assert FULL_BYTES < pair.transport.buffered <= 2 * FULL_BYTES
    await pair.receive(sent)
    await eventually(lambda: not producer.paused)
    with pytest.raises(RuntimeError):
        pair.transport.registerProducer(producer, True)
    pair.transport.unregisterProducer()


async def test_a_producer_hears_of_the_end(make_pair):
    pair = await make_pair().ready()
    producer = Producer(pair.transport)
    pair.transport.registerProducer(producer, True)
    pair.transport.abortConnection()
    await pair.lost()
    assert producer.stopped
    late = Producer(pair.transport)
    pair.transport.registerProducer(late, True)
    assert late.stopped


async def test_closing_sends_everything_first(make_pair):
    pair = await make_pair().ready()
    pair.transport.write(LARGE)
    pair.transport.loseConnection()
    pair.transport.write(b"too late")
    assert await pair.receive(len(LARGE) + 8) == LARGE
    if isinstance(pair.peer, ssl.SSLSocket):
        pair.peer = await deferToThread(pair.peer.unwrap)
    pair.peer.close()
    assert isinstance(await pair.lost(), ConnectionDone)


async def test_what_comes_after_closing_is_not_delivered(make_pair):
    pair = await make_pair().ready()
    pair.transport.loseConnection()
    await deferToThread(pair.peer.sendall, b"late")
    pair.peer.close()
    await pair.lost()
    assert pair.protocol.received == b""


async def test_an_abort_is_a_reset_at_the_other_end(make_pair):
    pair = await make_pair().ready()
    pair.transport.write(b"lost, perhaps")
    pair.transport.abortConnection()
    assert isinstance(await pair.lost(), ConnectionAborted)
    pair.peer = socket.socket(fileno=pair.peer.detach())
    with pytest.raises(ConnectionResetError):
        await pair.receive(1 << 20)


async def test_a_reset_of_the_other_end_is_a_loss(make_pair):
    pair = await make_pair().ready()
    linger = b"\1\0\0\0\0\0\0\0"
    pair.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    if isinstance(pair.peer, ssl.SSLSocket):
        socket.socket(fileno=pair.peer.detach()).close()
    else:
        pair.peer.close()
    assert isinstance(await pair.lost(), ConnectionLost)
    assert pair.protocol.reason is not None


async def test_a_write_to_a_broken_connection_is_told_later_and_once(make_pair):
    pair = await make_pair().ready()
    pair.transport.pauseProducing()
    linger = b"\1\0\0\0\0\0\0\0"
    pair.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    socket.socket(fileno=pair.peer.detach()).close()
    while pair.transport.connected and not pair.transport._failed:
        pair.transport.write(b"anybody?")
        assert pair.protocol.reason is None  # not from within
        await deferToThread(lambda: None)
    assert isinstance(await pair.lost(), ConnectionLost)


@pytest.mark.parametrize("certificates", ["plain"], indirect=True)
class TestHalfClosedTCP:
    async def test_is_told_to_protocols_that_live_on(self, make_pair):
        pair = await make_pair(HalfCloseable()).ready()
        pair.peer.shutdown(socket.SHUT_WR)
        await eventually(lambda: pair.protocol.ended)
        pair.transport.write(b"still here")
        assert await pair.receive(10) == b"still here"
        pair.transport.loseConnection()
        assert isinstance(await pair.lost(), ConnectionDone)

    async def test_is_the_end_for_the_others(self, make_pair):
        pair = await make_pair().ready()
        pair.peer.shutdown(socket.SHUT_WR)
        assert isinstance(await pair.lost(), ConnectionDone)

    async def test_by_us_goes_on_reading(self, make_pair):
        pair = await make_pair().ready()
        pair.transport.write(LARGE)
        pair.transport.loseWriteConnection()
        assert await pair.receive(len(LARGE) + 1) == LARGE
        pair.peer.sendall(b"answer")
        await eventually(lambda: pair.protocol.received == b"answer")


@pytest.mark.parametrize("certificates", ["tls"], indirect=True)
class TestEndOfTLS:
    async def test_with_a_goodbye_is_in_order_and_answered(self, make_pair):
        pair = await make_pair().ready()
        rest = await deferToThread(pair.peer.unwrap)  # waits for ours
        rest.close()
        assert isinstance(await pair.lost(), ConnectionDone)

    async def test_without_a_goodbye_is_a_loss(self, make_pair):
        pair = await make_pair().ready()
        socket.socket(fileno=pair.peer.detach()).close()
        assert isinstance(await pair.lost(), ConnectionLost)

    async def test_in_the_handshake_is_a_loss(self, make_pair):
        pair = make_pair()
        pair.peer.close()
        assert isinstance(await pair.lost(), ConnectionLost)

    async def test_before_the_handshake_by_us_is_an_abort(self, make_pair):
        pair = make_pair()
        pair.transport.loseConnection()
        assert isinstance(await pair.lost(), ConnectionAborted)
