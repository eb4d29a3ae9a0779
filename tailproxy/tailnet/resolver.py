"""Who a caller is, as tailscaled says: WhoIs, asked as rarely as is safe.

spec/dataplane.md 3.3 and 3.8 have the rules. An answer serves for a second at most, since
tailscaled announces no change of grants reliably. It serves only while the bus is connected, and
not beyond a message that may concern it; an answer to a question that was under way at that
moment is given to those who wait for it and then forgotten. Only identities are kept.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    FirstError,
    fail,
    gatherResults,
    succeed,
)
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.errors import (
    ApiError,
    ResolverUnavailableError,
    UnknownCallerError,
    UnusableIdentityError,
)
from tailproxy.interfaces import IIdentityResolver
from tailproxy.policy.identity import IdentityError, identify
from tailproxy.tailnet.localapi import LocalAPIError
from tailproxy.tailnet.node import RUNNING, STATES
from tailproxy.wire.addresses import is_tailnet_address

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

    from tailproxy.metrics import Metrics
    from tailproxy.policy.identity import Caller, Identity
    from tailproxy.tailnet.localapi import LocalAPI

# Seconds for which an answer serves, counted from the question.
LIFETIME = 1.0
# Answers kept at once, so that a tailnet of any size costs a bounded amount of memory.
KEPT_AT_MOST = 10_000
# Seconds to wait for an answer: a caller is told within two that there is none.
PATIENCE = 1.5

# A userspace tailscaled connects from this address whatever the tailnet address it was dialled by.
_FORWARDED_FROM = IPv4Address("127.0.0.1")

_RUNNING = STATES.index(RUNNING)

# Fields of a bus message that may mean another identity or other grants for somebody (3.8).
_TELLING = (
    "SelfChange",
    "NetMap",
    "PeersChanged",
    "PeersRemoved",
    "PeerChangedPatch",
    "UserProfiles",
    "State",
)


@attrs.frozen
class _Kept:
    """An identity, until when it serves, and for whom it was found."""

    identity: Identity
    until: float
    caller: Caller


class _Question:
    """A question under way, and everybody who waits for its answer."""

    def __init__(self) -> None:
        self._waiters: list[Deferred[Identity]] = []
        self._asking: Deferred[None] | None = None

    def wait(self) -> Deferred[Identity]:
        waiter: Deferred[Identity] = Deferred(self._leave)
        self._waiters.append(waiter)
        return waiter

    def ask(self, answer: Deferred[Identity]) -> None:
        self._asking = answer.addCallbacks(self._answered, self._failed)

    def _leave(self, waiter: Deferred[Identity]) -> None:
        """Somebody does not want to know any more; the last one ends the question."""
        self._waiters.remove(waiter)
        if not self._waiters and self._asking is not None:
            self._asking.cancel()

    def _answered(self, identity: Identity) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(identity)

    def _failed(self, failure: Failure) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.errback(failure)


@implementer(IIdentityResolver)
class TailscaledResolver:
    """Asks tailscaled who is calling.

    :param clock: for the age of answers.
    :param api: the tailscaled that the callers come through.
    :param metrics: where questions are counted.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, api: LocalAPI, metrics: Metrics) -> None:
        self._clock = clock
        self._api = api
        self._metrics = metrics
        self._hits = metrics.whois_cache_hits
        self._kept: dict[Hashable, _Kept] = {}
        self._questions: dict[Hashable, _Question] = {}
        self._watched = False
        self._running = False
        self._failing = False
        self._seen: dict[str, tuple[str, tuple[str, ...]]] = {}

    def recall(self, caller: Caller) -> Identity | None:
        """See `IIdentityResolver.recall`."""
        kept = self._kept.get(_key(caller))
        if kept is None or self._clock.seconds() >= kept.until:
            return None
        self._hits.inc()
        return kept.identity

    def resolve(self, caller: Caller) -> Deferred[Identity]:
        """See `IIdentityResolver.resolve`."""
        identity = self.recall(caller)
        if identity is not None:
            return succeed(identity)
        key = _key(caller)
        if not _askable(caller):
            return fail(UnknownCallerError(str(caller.address)))
        question = self._questions.get(key)
        if question is not None:
            return question.wait()
        question = self._questions[key] = _Question()
        waiter = question.wait()
        question.ask(Deferred.fromCoroutine(self._answer(key, question, caller)))
        return waiter

    def bus_connected(self) -> None:
        """Forget everything: messages may have been missed."""
        self._watched = True
        self._forget()

    def bus_message(self, message: Mapping[str, Any]) -> None:
        """Forget everything if the message may concern a caller."""
        state = message.get("State")
        if state is not None:
            self._running = state == _RUNNING
        if any(message.get(field) is not None for field in _TELLING):
            self._forget()

    def bus_lost(self, reason: str) -> None:
        """Forget everything, and keep nothing until the bus is back."""
        self._watched = self._running = False
        self._forget()

    def _forget(self) -> None:
        self._kept.clear()
        # Questions under way go on for those who wait, but nobody joins them any more.
        self._questions.clear()

    async def _answer(self, key: Hashable, question: _Question, caller: Caller) -> Identity:
        """Ask, and keep the answer if nothing has happened since the question."""
        asked = self._clock.seconds()
        try:
            identity = await self._ask(caller)
        finally:
            current = self._questions.get(key) is question
            if current:
                del self._questions[key]
        if current and self._watched:
            self._keep(key, _Kept(identity, asked + LIFETIME, caller))
        self._show(identity)
        return identity

    async def _ask(self, caller: Caller) -> Identity:
        """Put the question, count it, and put its failures into a caller's terms."""
        asked = self._clock.seconds()
        result = "error"
        try:
            identity = await self._identify(caller)
            result = "ok"
        except LocalAPIError as error:
            if error.status == 404 and self._running:
                result = "unknown"
                self._failing = False
                raise UnknownCallerError(str(caller.address)) from error
            raise self._unavailable(error) from error
        except IdentityError as error:
            result = "unusable"
            raise UnusableIdentityError(str(error)) from error
        except CancelledError:
            result = "cancelled"
            raise
        finally:
            if result != "cancelled":
                self._metrics.whois.labels(result).inc()
                self._metrics.whois_duration.observe(self._clock.seconds() - asked)
        return identity

    async def _identify(self, caller: Caller) -> Identity:
        """Ask for the node, and at the same time for what the Service grants to it."""
        addr, proto = str(caller.address), None
        if caller.local:
            addr, proto = f"{addr}:{caller.port}", "tcp"
        names = (None,) if caller.service is None else (None, caller.service)
        asked = [self._api.whois(addr, proto, name, timeout=PATIENCE) for name in names]
        try:
            answers = await gatherResults(asked, consumeErrors=True)
        except FirstError as error:
            for each in asked:
                each.cancel()
            error.subFailure.raiseException()
        self._failing = False
        return identify(*answers)

    def _unavailable(self, error: LocalAPIError) -> ApiError:
        """Tell the log everything, once, and the caller what it needs to know."""
        if not self._failing:
            self.log.warn("Cannot find out who is calling: {reason}", reason=error.message)
        self._failing = True
        if error.status is None:
            return ResolverUnavailableError("it does not answer")
        if error.status == 404:
            # It knows nobody as long as it has no map of the tailnet.
            return ResolverUnavailableError("it is not connected to the tailnet")
        return ResolverUnavailableError(f"it answered with status {error.status}")

    def _keep(self, key: Hashable, kept: _Kept) -> None:
        """Keep an answer; those that no longer serve make room, and if need be the oldest."""
        answers = self._kept
        answers.pop(key, None)
        now = self._clock.seconds()
        while answers:
            oldest = next(iter(answers))
            if len(answers) < KEPT_AT_MOST and now < answers[oldest].until:
                break
            del answers[oldest]
        answers[key] = kept

    def _show(self, identity: Identity) -> None:
        """Log as whom a node's requests arrive, when that is new."""
        what = (identity.user, identity.groups)
        if self._seen.get(identity.node_id) == what:
            return
        if len(self._seen) >= KEPT_AT_MOST:
            del self._seen[next(iter(self._seen))]
        self._seen[identity.node_id] = what
        self.log.info(
            "Node {node} calls as {user}, groups: {groups}",
            node=identity.node,
            user=identity.user,
            groups=", ".join(identity.groups) or "none",
        )


def _key(caller: Caller) -> Hashable:
    # A forwarded connection's port soon belongs to somebody else: what was found out for one
    # serves that connection's own `Caller` object alone. (It is kept, so its id stays its.)
    return id(caller) if caller.local else (caller.shown, caller.service)


def _askable(caller: Caller) -> bool:
    """Whether tailscaled may be bothered: a hopeless question costs it dear (W30)."""
    if caller.local:
        return caller.address == _FORWARDED_FROM
    return is_tailnet_address(caller.address)
