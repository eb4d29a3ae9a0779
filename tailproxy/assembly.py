"""How the parts are put together, for each role that a process has. No logic of the proxy's own.

One process does everything, or a supervisor stands in front of workers: it has the ports, the
probes and the signals; each worker has the data plane behind a door, and all that it asks.

Every role can take up another configuration while it runs. What cannot work is found out before
anything is changed, and what is under way goes on with what it began with.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

import tailproxy
from tailproxy.config import load
from tailproxy.daemon import LogOutput, TailproxyService, cannot_listen
from tailproxy.parts import Parts, kubeconfigs
from tailproxy.proxy.service import DataPlane
from tailproxy.proxy.tls import ServerTLS
from tailproxy.recorder_parts import admission, bounds, fixed, recorder_service
from tailproxy.reload import Reloader
from tailproxy.schema import ConfigError
from tailproxy.tailnet.succession import Succession
from tailproxy.workers.balance import Dispatcher, PassingDoor
from tailproxy.workers.cores import cores
from tailproxy.workers.messages import Adopt, Start
from tailproxy.workers.process import WorkerProcess
from tailproxy.workers.supervisor import Supervisor, WorkersCheck

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from prometheus_client import Metric
    from twisted.application.service import Service

    from tailproxy.config import Config, Document
    from tailproxy.interfaces import IDoor, IReadinessCheck
    from tailproxy.parts import Place
    from tailproxy.proxy.listener import Listener


def serve(document: Document, reactor: Any) -> TailproxyService:
    """The service, with as many workers as the configuration says. Nothing is opened yet.

    :raises ConfigError: something that the configuration names cannot be used.
    """
    role = Alone if _count(document.config) == 1 else InFront
    return role(document, reactor).service


def check(document: Document, reactor: Any) -> None:
    """Make everything that the configuration names, and throw it away.

    :raises ConfigError: something cannot be used.
    """
    Alone(document, reactor)


def _count(config: Config) -> int:
    return config.tailproxy.workers or cores()


def _run(parent: MultiService, services: Sequence[Service]) -> None:
    """Have these run below the parent, and no others. Those that do already go on."""
    for service in list(parent):
        if service not in services:
            service.disownServiceParent()
    for service in services:
        if service.parent is not parent:
            service.setServiceParent(parent)


class _Role:
    """A process that has the ports.

    :param first: the configuration that it starts with.
    :ivar service: all of it.
    """

    _log = Logger()

    def __init__(self, first: Document, reactor: Any) -> None:
        self.parts = Parts(first.config, reactor)
        self.reactor = reactor
        self.output = LogOutput(first.config, reactor, self.parts.access_log)
        path = Path(first.source).absolute()
        self.reloader = Reloader(
            first,
            partial(load, str(path)),
            lambda config: [path, *kubeconfigs(config)],
            self.adopt,
            self.parts.metrics,
            reactor,
        )
        self._recorder = recorder_service(
            first.config, self.parts.tailnet, self.parts.metrics, reactor
        )
        self.begin(first)
        ways = self.parts.ways(self.doors(self.parts))
        self.ports: dict[Place, Listener] = {
            place: self.parts.listener(place, way) for place, way in ways.items()
        }
        self.parts.follow_node(self.ports.values())
        self._plane = DataPlane(self.connections, self.parts.upstream, list(self.ports.values()))
        self.service = TailproxyService(
            first.config,
            reactor,
            self.output,
            (self._plane,) if self._recorder is None else (self._plane, self._recorder),
            self.reloader,
            self.kill,
        )
        self._settle()

    def _settle(self) -> None:
        """Run what the parts that are in force say, and show how it stands."""
        parts, review, admin = self.parts, self.parts.review(), self.parts.admin()
        recorders = () if self._recorder is None else (self._recorder,)
        if admin is not None:
            checks = (
                *parts.tailnet.checks,
                *self.checks(parts),
                self._plane,
                *recorders,
                self.reloader,
                *review.checks,
            )
            admin.show(parts.pages(checks, self.collect))
        services = [
            *parts.tailnet.services,
            parts.audit,
            *self.services(parts),
            *recorders,
            *parts.libraries,
            *parts.local_pages(),
            self._plane,
            review,
            self.reloader,
        ]
        _run(self.service, services if admin is None else [*services, admin])

    async def adopt(self, document: Document) -> None:
        """Take up another configuration, without ending any connection.

        :raises ConfigError: it cannot be used; everything is as it was.
        """
        before = self.parts
        parts = Parts(document.config, self.reactor, before)
        ways = parts.ways(self.doors(parts))
        ports = {
            place: self.ports.get(place) or parts.listener(place, way)
            for place, way in ways.items()
        }
        opened: list[Any] = [port for place, port in ports.items() if place not in self.ports]
        for port in opened:
            port.hold(held=True)
        admin = parts.admin()
        if admin is not None and admin.parent is None:
            opened.append(admin)
        try:
            for each in opened:
                each.privilegedStartService()
            await self.tell(document)
        except CannotListenError as error:
            _close(opened)
            raise ConfigError(document.source, cannot_listen(error)) from error
        except ConfigError:
            _close(opened)
            raise
        if self.connections.draining:
            _close(opened)
            return
        self.parts = parts
        for place, way in ways.items():
            if place in self.ports:
                self.ports[place].lead_to(way.door, way.label)
        self.ports = ports
        stayed = parts.tailnet is before.tailnet
        parts.follow_node(port for port in ports.values() if port in opened or not stayed)
        self.output.adopt(document.config)
        self.adopted(parts)
        self._adopt_recorder(before)
        for port in ports.values():
            port.hold(held=self.held)
        self._plane.adopt(parts.upstream, list(ports.values()))
        self._settle()

    def _adopt_recorder(self, before: Parts) -> None:
        """Have the recorder take and keep by the parts in force; the rest of it takes a restart."""
        options = self.parts.config.tailproxy.recorder
        was = before.config.tailproxy.recorder
        if self._recorder is not None and options is not None:
            self._recorder.adopt(admission(options, self.parts.tailnet.resolver), bounds(options))
        if fixed(options) != fixed(was):
            self._log.warn(
                "Folder, Kind, Address and Encrypt of Tailproxy.Recorder in the configuration: no"
                " effect before a restart"
            )

    # What differs from role to role:

    connections: Any
    #: Whether connections are to wait in the kernel's backlog.
    held = False
    #: All metrics, as they are now.
    collect: Callable[[], Awaitable[Iterable[Metric]]]

    def begin(self, first: Document) -> None:
        """Make what there is once only."""
        raise NotImplementedError

    def doors(self, parts: Parts) -> dict[str, IDoor]:
        """Where the connections of each listener go, by its label."""
        raise NotImplementedError

    def services(self, parts: Parts) -> Sequence[Service]:
        """What else this role runs."""
        raise NotImplementedError

    def checks(self, parts: Parts) -> Sequence[IReadinessCheck]:
        """Readiness checks of the role's own."""
        raise NotImplementedError

    async def tell(self, document: Document) -> None:
        """Have other processes take up the configuration.

        :raises ConfigError: one of them cannot; then none of them has.
        """

    def adopted(self, parts: Parts) -> None:
        """The parts are in force."""
        raise NotImplementedError

    def kill(self) -> None:
        """End other processes at once."""


class Alone(_Role):
    """One process that does everything."""

    def begin(self, first: Document) -> None:
        """See `_Role.begin`."""
        self._certificates = Succession(self.parts.certificates)
        self._tls = ServerTLS(self._certificates)
        self.connections = self.parts.site()
        self.collect = self.parts.metrics.collect

    def doors(self, parts: Parts) -> dict[str, IDoor]:
        """See `_Role.doors`."""
        return parts.doors(self.connections, self._tls)

    def services(self, parts: Parts) -> Sequence[Service]:
        """See `_Role.services`."""
        return self._certificates, parts.recorder, parts.events

    def checks(self, parts: Parts) -> Sequence[IReadinessCheck]:
        """See `_Role.checks`."""
        return () if parts.certificates is None else (self._certificates,)

    def adopted(self, parts: Parts) -> None:
        """See `_Role.adopted`."""
        self._certificates.adopt(parts.certificates)
        parts.furnish(self.connections)
        if _count(parts.config) != 1:
            self._log.warn("Tailproxy.Workers in the configuration: no effect before a restart")


class InFront(_Role):
    """The supervisor: everything but the data plane and its certificates."""

    def begin(self, first: Document) -> None:
        """See `_Role.begin`."""
        self._current = first
        self._dispatcher = Dispatcher(self._hold)
        self._supervisor = self.connections = Supervisor(
            self.reactor,
            _count(first.config),
            self._launch,
            self._dispatcher,
            self.parts.metrics,
        )
        self.collect = self._supervisor.collect

    def _hold(self, held: bool) -> None:
        self.held = held
        for port in self.ports.values():
            port.hold(held=held)

    def _launch(self, number: int, chief: Supervisor) -> WorkerProcess:
        start = Start(
            number=number,
            version=tailproxy.__version__,
            source=self._current.source,
            text=self._current.text,
            log=self.output.form(self._current.config),
        )
        times = self.parts.drain_times
        worker = WorkerProcess(
            self.reactor, start, max(times.requests, times.streams), chief, self.output.write
        )
        worker.spawn()
        return worker

    def doors(self, parts: Parts) -> dict[str, IDoor]:
        """See `_Role.doors`."""
        labels = [listener.label for listener in parts.config.tailproxy.listeners]
        return {label: PassingDoor(label, self._dispatcher) for label in labels}

    def services(self, parts: Parts) -> Sequence[Service]:
        """See `_Role.services`."""
        return (self._supervisor,)

    def checks(self, parts: Parts) -> Sequence[IReadinessCheck]:
        """See `_Role.checks`."""
        if parts.certificates is None:
            return (self._supervisor,)
        return WorkersCheck(Succession.name, self._supervisor), self._supervisor

    async def tell(self, document: Document) -> None:
        """See `_Role.tell`. Workers that are started meanwhile start with the new one."""
        before, self._current = self._current, document
        problem = await self._supervisor.adopt(self._order(document))
        if problem:
            self._current = before
            await self._supervisor.adopt(self._order(before))
            raise ConfigError(document.source, problem)

    def _order(self, document: Document) -> Adopt:
        return Adopt(document.source, document.text, self.output.form(document.config))

    def adopted(self, parts: Parts) -> None:
        """See `_Role.adopted`."""
        times = parts.drain_times
        for worker in self._supervisor.workers:
            worker.patience = max(times.requests, times.streams)
        self._supervisor.resize(_count(parts.config))

    def kill(self) -> None:
        """See `_Role.kill`."""
        self._supervisor.kill()


def _close(opened: Iterable[Any]) -> None:
    for each in opened:
        each.stopService()


class DataPlaneOnly:
    """A worker's parts: the data plane behind its doors, and what that asks.

    :ivar services: what the data plane needs.
    :ivar doors: by label of the listener.
    """

    def __init__(self, config: Config, reactor: Any) -> None:
        self._reactor = reactor
        self._parts = Parts(config, reactor, watched=False)
        self._certificates = Succession(self._parts.certificates)
        self._tls = ServerTLS(self._certificates)
        self.metrics = self._parts.metrics
        self.access_log = self._parts.access_log
        self.site = self._parts.site()
        self.doors = self._parts.doors(self.site, self._tls)
        self.plane = DataPlane(self.site, self._parts.upstream, ())
        self.services = MultiService()
        self._settle()

    def _settle(self) -> None:
        parts = self._parts
        _run(
            self.services,
            [
                *parts.tailnet.services,
                parts.audit,
                self._certificates,
                parts.recorder,
                parts.events,
                *parts.libraries,
            ],
        )

    @property
    def checks(self) -> Sequence[IReadinessCheck]:
        """What must be well before connections are welcome."""
        return () if self._parts.certificates is None else (self._certificates,)

    def adopt(self, config: Config) -> None:
        """Take up another configuration, without ending any connection.

        :raises ConfigError: it cannot be used; everything is as it was.
        """
        parts = self._parts = Parts(config, self._reactor, self._parts, watched=False)
        self._certificates.adopt(parts.certificates)
        parts.furnish(self.site)
        # Connections to a listener that is closed now may still be on their way here.
        self.doors = {**self.doors, **parts.doors(self.site, self._tls)}
        self.plane.adopt(parts.upstream, ())
        self._settle()
