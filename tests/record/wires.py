"""A tailnet in memory: connections to test recorders, where bytes move when a test says so."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from tailproxy.interfaces import ITailnetDialer, IUploadWatcher
from tailproxy.wire.addresses import AddressPort
from tests.record.recorder import Manners, Seen, Side

A, B, C = (AddressPort.parse(f"100.64.0.{n}:80") for n in (1, 2, 3))
A6 = AddressPort.parse("[fd7a:115c:a1e0::1]:80")

HEADER = b'{"version":2,"width":80,"height":24}\n'


class Wire(StringTransport):
    """The client's end of a connection."""

    def __init__(self, protocol, side):
        super().__init__()
        self.protocol = protocol
        self.side = side
        self.lost = False
        self.stuck = False
        self.aborted = False

    def write(self, data):
        super().write(data)
        if self.stuck and self.producer is not None:
            self.producer.pauseProducing()

    def abortConnection(self):
        self.disconnecting = self.aborted = True

    def flow(self):
        """Move bytes both ways; return whether there were any."""
        if self.lost:
            return False
        sent = b"" if self.stuck else self.value()
        if sent:
            self.clear()
        answer = self.side.receive(sent) if sent and not self.aborted else b""
        return self._hear(answer) or bool(sent)

    def beat(self):
        """Have the recorder send its heartbeat."""
        self._hear(self.side.tick())

    def unstick(self):
        """Have room again."""
        self.stuck = False
        self.flow()
        self.producer.resumeProducing()

    def _hear(self, answer):
        if answer and not self.disconnecting:
            self.protocol.dataReceived(answer)
        if self.disconnecting or self.side.closing:
            self.lost = True
            self.protocol.connectionLost(Failure(ConnectionDone()))
        return bool(answer)


@implementer(ITailnetDialer)
class Tailnet:
    """Recorders by address, each with its manners; others refuse connections.

    :ivar unreachable: addresses where connecting takes for ever.
    :ivar dialled: in order, every connection that was begun.
    :ivar given_up: those that were cancelled.
    :ivar wires: the connections there were.
    """

    def __init__(self, *addresses):
        self.clock = Clock()
        self.manners = {address: Manners() for address in addresses}
        self.seen = {address: Seen() for address in addresses}
        self.unreachable = set()
        self.dialled = []
        self.given_up = []
        self.wires = []

    def endpoint(self, address):
        return Port(self, address)

    def pump(self):
        """Move bytes and fire what is due, until nothing happens."""
        busy = True
        while busy:
            self.clock.advance(0)
            busy = sum(wire.flow() for wire in self.wires) > 0

    def wait(self, seconds, step=0.5, beat=True):
        """Let time pass, with heartbeats."""
        until = self.clock.seconds() + seconds
        while self.clock.seconds() < until:
            self.clock.advance(min(step, until - self.clock.seconds()))
            for wire in self.wires:
                if beat and not wire.lost:
                    wire.beat()
            self.pump()


@implementer(IStreamClientEndpoint)
class Port:
    def __init__(self, tailnet, address):
        self._tailnet = tailnet
        self._address = address

    def connect(self, factory):
        tailnet, address = self._tailnet, self._address
        tailnet.dialled.append(address)
        if address in tailnet.unreachable:
            return Deferred(lambda _: tailnet.given_up.append(address))
        if address not in tailnet.manners:
            return fail(ConnectError(string="nobody listens"))
        protocol = factory.buildProtocol(None)
        side = Side(tailnet.manners[address], tailnet.seen[address])
        wire = Wire(protocol, side)
        tailnet.wires.append(wire)
        connected = Deferred()

        def connect():
            protocol.makeConnection(wire)
            connected.callback(protocol)

        tailnet.clock.callLater(0, connect)
        return connected


class Result:
    """What a Deferred comes to."""

    def __init__(self, deferred):
        self.value = self.error = None
        self.done = False
        deferred.addCallbacks(self._fired, self._failed)

    def _fired(self, value):
        self.done, self.value = True, value

    def _failed(self, failure):
        self.done, self.error = True, failure.value


@implementer(IUploadWatcher)
class Watcher:
    """Notes what it is told."""

    def __init__(self):
        self.told = []

    def upload_drained(self):
        self.told.append("drained")

    def upload_failed(self, error):
        self.told.append(error.reason)
