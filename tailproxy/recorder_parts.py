"""The recorder of our own, put together: what it keeps, who may send, and its port."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from tailproxy.audit.access import Fanout
from tailproxy.interfaces import DrainTimes
from tailproxy.listener_options import ListenerKind
from tailproxy.proxy.channel import HTTPChannel
from tailproxy.proxy.doors import Entrance, ProxyHeaderDoor, SocketDoor
from tailproxy.proxy.listener import Listener
from tailproxy.proxy.nodelistener import NodeListener
from tailproxy.proxy.site import Limits, Site
from tailproxy.recorder.events import Events
from tailproxy.recorder.http1 import RecorderResource
from tailproxy.recorder.intake import Admission, Intake
from tailproxy.recorder.library import Library
from tailproxy.recorder.preface import FirstBytes
from tailproxy.recorder.seal import Seal, SealError
from tailproxy.recorder.service import RecorderService
from tailproxy.recorder.store import Bounds, Store, Thread
from tailproxy.recorder.upload import Desk
from tailproxy.schema import ConfigError
from tailproxy.sessions.service import LocalSessions

if TYPE_CHECKING:
    from tailproxy.config import Config
    from tailproxy.interfaces import IDoor, IIdentityResolver, IRecordings
    from tailproxy.metrics import Metrics
    from tailproxy.recorder_options import Recorder
    from tailproxy.surroundings import Surroundings

LABEL = "recorder"
_EVENTS = "events"
_DAY = 86400.0


def recorder_service(
    config: Config, tailnet: Surroundings, metrics: Metrics, reactor: Any
) -> RecorderService | None:
    """The recorder that a configuration asks for; None if it asks for none. Nothing is opened yet.

    :param tailnet: says who sends, and which addresses the node has.
    :raises ConfigError: recordings cannot be encrypted as it says.
    """
    ours = config.tailproxy
    options = ours.recorder
    if options is None:
        return None
    try:
        seal = Seal(options.encrypt) if options.encrypt else None
    except SealError as error:
        raise ConfigError("Tailproxy.Recorder.Encrypt", str(error)) from error
    desk = Desk(Store(options.folder, seal), Thread(reactor, LABEL), metrics, reactor, time.time)
    events = Events(options.folder / _EVENTS)
    intake = Intake(desk, events, admission(options, tailnet.resolver))
    limits = Limits(ours.limits.header_bytes, ours.limits.header_seconds, ours.limits.idle_seconds)
    site = Site(
        RecorderResource(intake),
        Fanout(()),
        metrics,
        reactor,
        DrainTimes(ours.drain.requests, ours.drain.streams),
        limits,
    )
    channel = partial(FirstBytes, intake, HTTPChannel, limits.header_seconds)
    entrance = Entrance(reactor, site, LABEL, None, None, channel)
    door: IDoor
    if options.kind is ListenerKind.SERVE:
        door = ProxyHeaderDoor(entrance, metrics, tailnet.doorkeeper)
    else:
        door = SocketDoor(entrance, local=options.kind is ListenerKind.LOOPBACK)
    port = _port(options, door, tailnet, reactor)
    return RecorderService(desk, events, intake, site, port, bounds(options))


def admission(options: Recorder, resolver: IIdentityResolver) -> Admission:
    """Who may send."""
    return Admission(resolver, frozenset(options.senders), options.free_bytes)


def bounds(options: Recorder) -> Bounds:
    """What is kept."""
    age = None if options.keep_days is None else options.keep_days * _DAY
    return Bounds(age, options.keep_bytes, options.free_bytes)


def fixed(options: Recorder | None) -> object:
    """What cannot be changed while it runs: equal if it is the same."""
    return (
        None
        if options is None
        else (options.folder, options.kind, options.endpoint, options.encrypt)
    )


def library(config: Config, reactor: Any) -> Library | None:
    """The recordings that are kept here, for whoever looks at them; None without a recorder."""
    options = config.tailproxy.recorder
    return None if options is None else Library(reactor, options.folder)


def local_sessions(config: Config, recordings: IRecordings, reactor: Any) -> LocalSessions | None:
    """Their pages on a unix socket; None if none is named."""
    options = config.tailproxy.recorder
    if options is None or options.socket is None:
        return None
    return LocalSessions(reactor, options.socket, recordings)


def _port(options: Recorder, door: IDoor, tailnet: Surroundings, reactor: Any) -> Listener:
    place = options.endpoint
    if place.host is not None:
        return Listener(reactor, LABEL, [str(place.host)], place.port, door)
    port = NodeListener(reactor, LABEL, place.port, door)
    if tailnet.monitor is not None:
        tailnet.monitor.watch(lambda node: port.follow(node.addresses))
    return port
