"""A whole data plane on loopback: a real listener, a real upstream pool, a played API server."""

from __future__ import annotations

from ipaddress import ip_address

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from zope.interface import implementer

from tailproxy.errors import UnknownCallerError
from tailproxy.interfaces import (
    AccessRecord,
    DrainTimes,
    IAuditSink,
    ICertificateSource,
    IIdentityResolver,
)
from tailproxy.metrics import Metrics
from tailproxy.policy.decide import ClientImpersonation, Mode, Rules
from tailproxy.policy.grants import Grants
from tailproxy.policy.identity import Caller, Identity
from tailproxy.proxy.channel import HTTPChannel
from tailproxy.proxy.doors import Entrance, ProxyHeaderDoor, SocketDoor
from tailproxy.proxy.listener import Listener
from tailproxy.proxy.plugins import PluginsResource
from tailproxy.proxy.reverse import ReverseProxyResource
from tailproxy.proxy.service import DataPlane
from tailproxy.proxy.site import Limits, Site
from tailproxy.proxy.tls import ServerTLS
from tailproxy.proxy.upstream import PoolLimits, Upstream
from tailproxy.proxy.whois import WhoIsResource
from tests.proxy.recorder import FakeRequestEvents, FakeSessionRecorder
from tests.proxy.servers import (
    Access,
    Authority,
    ClientTLS,
    Server,
    Wire,
    dial,
    eventually,
)
from tests.proxyheader import proxy_header

ADA = "100.64.0.5"
STRANGER = "100.64.99.99"


def identity(user: str = "ada@corp.example", **changes: object) -> Identity:
    values: dict[str, object] = {
        "user": user,
        "groups": ("dev",),
        "node": "laptop.corp-cat.ts.net",
        "node_id": "n1",
        "login": user,
        "tags": (),
        "addresses": (ip_address(ADA),),
        "grants": Grants(()),
    }
    return Identity(**{**values, **changes})


@implementer(IIdentityResolver)
class Table:
    """Knows callers by address."""

    def __init__(self) -> None:
        self.known: dict[str, Identity] = {ADA: identity()}
        self.asked: list[Caller] = []
        self.hold: Deferred[None] | None = None

    def recall(self, caller: Caller) -> Identity | None:
        return None

    def resolve(self, caller: Caller) -> Deferred[Identity]:
        self.asked.append(caller)
        found = self.known.get(str(caller.address))
        if found is None:
            return fail(UnknownCallerError(str(caller.address)))
        if self.hold is not None:
            waiting: Deferred[Identity] = Deferred()
            self.hold.addCallback(lambda _: waiting.callback(found))
            return waiting
        return succeed(found)


@implementer(IAuditSink)
@attrs.define
class Audit:
    """Keeps what happened."""

    records: list[AccessRecord] = attrs.Factory(list)

    def answered(self, record: AccessRecord) -> None:
        self.records.append(record)


class Plane:
    """The data plane under test.

    :param server: the played API server.
    """

    def __init__(
        self,
        server: Server,
        *,
        mode: Mode = Mode.AUTH,
        client_impersonation: ClientImpersonation = ClientImpersonation.REFUSE,
        limits: Limits | None = None,
        pool: PoolLimits | None = None,
        times: DrainTimes | None = None,
        access: Access | None = None,
        plugins: dict[str, object] | None = None,
        clock: IReactorTime = reactor,
        kind: str = "serve",
        certificates: ICertificateSource | None = None,
        address: str = "127.0.0.2",
    ) -> None:
        self.address = address
        self.clock = clock
        self.clients: list[Wire] = []
        self.tls = certificates is not None
        self.server = server
        self.access = access or server.access()
        self.metrics = Metrics("test")
        self.audit = Audit()
        self.resolver = Table()
        self.recorder = FakeSessionRecorder()
        self.events = FakeRequestEvents()
        self.upstream = Upstream(self.access, self.metrics, reactor, pool)
        proxy = ReverseProxyResource(
            self.upstream,
            self.recorder,
            self.events,
            Rules(mode, client_impersonation),
            self.metrics,
            clock,
        )
        root = WhoIsResource(self.resolver, proxy, PluginsResource(plugins or {}))
        self.site = Site(
            root, self.audit, self.metrics, clock, times or DrainTimes(0.5, 1.0), limits
        )
        entrance = Entrance(
            reactor,
            self.site,
            "test",
            ServerTLS(certificates) if certificates is not None else None,
            "svc:kube",
        )
        self.door = (
            ProxyHeaderDoor(entrance, self.metrics)
            if kind == "serve"
            else SocketDoor(entrance, local=kind == "loopback")
        )
        self.kind = kind
        self.listener = Listener(reactor, "test", [address], 0, self.door)
        self.service = DataPlane(self.site, self.upstream, [self.listener])

    def start(self) -> None:
        self.service.privilegedStartService()
        self.service.startService()

    async def end(self) -> None:
        """Clients and API server go first, so that there is nothing to wait for."""
        for wire in self.clients:
            if not wire.lost:
                wire.transport.abortConnection()
        await self.server.stop()
        stopped = self.service.stopService()
        if isinstance(self.clock, Clock):
            self.clock.advance(1000)
        await stopped
        # Whatever a test did: each request was asked about once and has one record.
        if "resolve" not in vars(self.resolver) and "render" not in vars(self.site.root):
            asked, records = len(self.resolver.asked), len(self.audit.records)
            malformed = sum(r.denied == "malformed-request" for r in self.audit.records)
            assert asked <= records <= asked + malformed

    @property
    def port(self) -> int:
        return self.listener.bound[0].port

    async def client(self, source: str = ADA, tls: ClientTLS | None = None) -> Wire:
        """A client connection whose PROXY header has been sent, and its TLS begun."""
        wire = await dial(self.port, self.address)
        self.clients.append(wire)
        if self.kind == "serve":
            wire.send(proxy_header(source))
        if tls is not None:
            wire.transport.startTLS(tls)
        return wire

    async def channel(self) -> HTTPChannel:
        """The only client connection, once its PROXY header was read."""
        await eventually(
            lambda: [c for c in self.site._channels if isinstance(c, HTTPChannel)] != []
        )
        [channel] = self.site._channels
        return channel

    @property
    def buffered(self) -> int:
        """Bytes that the proxy itself holds for slow readers."""
        sides = [*self.site._channels, *self.upstream._open]
        return sum(side.transport.buffered for side in sides)

    async def answered(self, count: int = 1, seconds: float = 5.0) -> list[AccessRecord]:
        """The access records, once there are so many."""
        await eventually(lambda: len(self.audit.records) >= count, seconds)
        return self.audit.records

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def new_server() -> Server:
    server = Server(Authority())
    server.start()
    return server
