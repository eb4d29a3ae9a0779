"""Request events on their way to recorders.

A recorder is asked once in five minutes whether it takes events (`HEAD /v2/event`), and its
connections are kept. One that failed is tried last for half a minute, and not at all for requests
that may go on without: an absent recorder must not make them slow. For those, what waits has a
limit, too.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn

import treq
from treq.client import HTTPClient
from twisted.application.service import Service
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    DeferredLock,
    DeferredSemaphore,
    fail,
)
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseNeverReceived,
)
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from tailproxy.interfaces import IRequestEvents, SinkError
from tailproxy.wire.events import Peer, request_event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.web.client import URI

    from tailproxy.interfaces import ITailnetDialer
    from tailproxy.metrics import Metrics
    from tailproxy.policy.identity import Identity
    from tailproxy.wire.addresses import AddressPort
    from tailproxy.wire.events import RecordedBody
    from tailproxy.wire.head import RequestHead

#: Seconds, of one address: to be connected; to answer. And over all addresses.
DIAL_SECONDS = 5.0
ANSWER_SECONDS = 10.0
ALL_SECONDS = 30.0
#: Seconds that an answer to HEAD is believed (spec/streaming.md 6.7).
KNOWN_SECONDS = 300.0
#: Seconds that a recorder is known to be dead.
DEAD_SECONDS = 30.0
#: Events of requests that may go on without: how many wait at most.
WAITING_AT_MOST = 1000
# Connections to one recorder, kept for so many seconds.
_CONNECTIONS = 4
_KEPT_SECONDS = 60
_PATH = "/v2/event"
# What goes wrong when the other end has closed a kept connection.
_STALE = (ConnectionClosed, RequestTransmissionFailed, ResponseNeverReceived)


@implementer(IRequestEvents)
class RequestEvents(Service):
    """Has recorders take events.

    :param clock: tells and keeps the time.
    :param own: the proxy's own node.
    :param now: seconds since 1970.
    """

    name = "request-events"
    _log = Logger()

    def __init__(
        self,
        clock: Any,
        dialer: ITailnetDialer,
        metrics: Metrics,
        own: Callable[[], Peer] = Peer,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._dialer = dialer
        self._results = metrics.request_events
        self._own = own
        self._now = now
        self._waiting = 0
        self._recorders: dict[AddressPort, _Recorder] = {}
        self._dead: dict[AddressPort, float] = {}

    def report(self, identity: Identity, head: RequestHead, body: RecordedBody) -> Deferred[str]:
        """See `IRequestEvents.report`."""
        grants = identity.grants
        if grants.fail_open and self._waiting >= WAITING_AT_MOST:
            self._results.labels("dropped").inc()
            return fail(SinkError("too many events wait"))
        source = Peer(
            identity.node, identity.node_id, identity.login or "", identity.user_id, identity.tags
        )
        event = request_event(head, body, source, self._own(), int(self._now()))
        addresses = tuple(dict.fromkeys(grants.recorder_addresses))
        self._waiting += 1
        taking = Deferred.fromCoroutine(
            self._have_taken(event, addresses, patient=not grants.fail_open)
        )
        taking.addTimeout(ALL_SECONDS, self._clock, self._late)
        return taking.addBoth(self._count)

    def stopService(self) -> Deferred[Any]:
        """Close what is kept."""
        super().stopService()
        recorders, self._recorders = self._recorders, {}
        return DeferredList([recorder.close() for recorder in recorders.values()])

    def _count(self, result: Any) -> Any:
        self._waiting -= 1
        self._results.labels("recorded" if isinstance(result, str) else "failed").inc()
        return result

    def _late(self, _result: object, _seconds: float) -> NoReturn:
        raise SinkError(f"no recorder has taken the event within {ALL_SECONDS:g} s")

    async def _have_taken(
        self, event: bytes, addresses: Sequence[AddressPort], *, patient: bool
    ) -> str:
        """Try one recorder after the other.

        :param patient: whether to try those that are known to be dead.
        :returns: the place of the one that took it.
        :raises SinkError: none has.
        """
        errors: list[SinkError] = []
        now = self._clock.seconds()
        dead = {each for each in addresses if self._dead.get(each, 0.0) > now}
        for address in sorted(addresses, key=dead.__contains__):
            if address in dead and not patient:
                break
            try:
                await self._recorder(address).take(event)
            except SinkError as error:
                errors.append(error)
                self._failed(address, error)
            else:
                self._dead.pop(address, None)
                return str(address)
        reason = errors[0].reason if len(errors) == 1 else "no recorder takes events now"
        raise SinkError(reason, "; ".join(error.detail for error in errors))

    def _recorder(self, address: AddressPort) -> _Recorder:
        recorder = self._recorders.get(address)
        if recorder is None:
            recorder = self._recorders[address] = _Recorder(self._clock, self._dialer, address)
        return recorder

    def _failed(self, address: AddressPort, error: SinkError) -> None:
        """A recorder took no event; the log is told when that is news."""
        now = self._clock.seconds()
        if address not in self._dead or self._dead[address] < now - DEAD_SECONDS:
            self._log.warn("a recorder takes no request events: {reason}", reason=str(error))
        self._dead[address] = now + DEAD_SECONDS


class _Recorder:
    """The recorder at one address."""

    def __init__(self, clock: Any, dialer: ITailnetDialer, address: AddressPort) -> None:
        self._clock = clock
        self._address = address
        pool = self._pool = HTTPConnectionPool(clock, persistent=True)
        pool.maxPersistentPerHost = _CONNECTIONS
        pool.cachedConnectionTimeout = _KEPT_SECONDS
        endpoints = _Endpoints(clock, dialer, address)
        self._client = HTTPClient(Agent.usingEndpointFactory(clock, endpoints, pool))
        self._asking = DeferredLock()
        self._places = DeferredSemaphore(_CONNECTIONS)
        self._takes_events = False
        self._known_until: float = 0

    async def take(self, event: bytes) -> None:
        """Have it take an event.

        :raises SinkError: it has not.
        """
        if not await self._supports():
            raise self._error("takes no events")
        status = await self._request("POST", event)
        if status != 200:
            self._known_until = 0
            raise self._error(f"answers {status} to an event")

    def close(self) -> Deferred[Any]:
        """Close what is kept."""
        closed: Deferred[Any] = self._pool.closeCachedConnections()
        return closed

    async def _supports(self) -> bool:
        """Whether it takes events; asked by one at a time, and remembered."""
        await self._asking.acquire()
        try:
            if self._clock.seconds() >= self._known_until:
                status = await self._request("HEAD")
                if status not in {200, 404}:
                    raise self._error(f"answers {status} when asked about events")
                self._takes_events = status == 200
                self._known_until = self._clock.seconds() + KNOWN_SECONDS
            return self._takes_events
        finally:
            self._asking.release()

    async def _request(self, method: str, event: bytes | None = None) -> int:
        """Ask it something; the status that it answers.

        :raises SinkError: it does not answer.
        """
        await self._places.acquire()
        try:
            asking = Deferred.fromCoroutine(self._answer(method, event))
            return await asking.addTimeout(ANSWER_SECONDS, self._clock, self._late)
        except (SinkError, CancelledError):
            raise
        except Exception as error:
            raise self._error("cannot be reached", str(error) or repr(error)) from error
        finally:
            self._places.release()

    async def _answer(self, method: str, event: bytes | None) -> int:
        """Ask over a kept connection; if that turns out to be closed, over a new one."""
        headers: dict[bytes | str, bytes | str] = {}
        if event is not None:
            headers["Content-Type"] = "application/json"
        again = True
        while True:
            try:
                response = await self._client.request(
                    method,
                    f"http://{self._address}{_PATH}",
                    data=event,
                    headers=headers,
                    allow_redirects=False,
                )
                await treq.collect(response, lambda _: None)
            except _STALE as error:
                if _was_cancelled(error):
                    raise CancelledError from error
                if not again:
                    raise
                again = False
            else:
                return int(response.code)

    def _late(self, _result: object, _seconds: float) -> NoReturn:
        raise self._error(f"does not answer within {ANSWER_SECONDS:g} s")

    def _error(self, what: str, detail: str = "") -> SinkError:
        more = f": {detail}" if detail else ""
        return SinkError(f"the recorder {what}", f"{self._address} {what}{more}")


def _was_cancelled(error: Exception) -> bool:
    return any(reason.check(CancelledError) for reason in getattr(error, "reasons", ()))


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """The one place where a recorder is."""

    def __init__(self, clock: Any, dialer: ITailnetDialer, address: AddressPort) -> None:
        self._clock = clock
        self._dialer = dialer
        self._address = address

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """The way there, as it is now."""
        return _Dial(self._clock, self._dialer.endpoint(self._address))


@implementer(IStreamClientEndpoint)
class _Dial:
    """Connects within 5 s."""

    def __init__(self, clock: Any, endpoint: IStreamClientEndpoint) -> None:
        self._clock = clock
        self._endpoint = endpoint

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """See `IStreamClientEndpoint`."""
        connecting: Deferred[Any] = self._endpoint.connect(factory)
        return connecting.addTimeout(DIAL_SECONDS, self._clock)
