"""Who a caller is, as tailscaled says: WhoIs, asked as rarely as is safe.

spec/dataplane.md 3.3 and 3.8 have the rules. An answer serves for a second at most, since
tailscaled announces no change of grants reliably. It serves only while the bus is connected, and
not beyond a message that may concern it; an answer to a question that was under way at that
moment is given to those who wait for it and then forgotten. Only identities are kept.

With many callers nearly every request comes with a question, so a question is cheap: an answer
that has been read before, byte for byte, is not read again.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from tailproxy.errors import (
    ApiError,
    ResolverUnavailableError,
    UnknownCallerError,
    UnusableIdentityError,
)
from tailproxy.interfaces import IIdentityResolver
from tailproxy.policy.identity import IdentityError, identify, parse_whois
from tailproxy.tailnet.localapi import LocalAPIError
from tailproxy.tailnet.node import RUNNING, STATES
from tailproxy.wire.addresses import is_tailnet_address

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from twisted.internet.interfaces import IReactorTime

    from tailproxy.counting import Counter
    from tailproxy.metrics import Metrics
    from tailproxy.policy.identity import Caller, Identity
    from tailproxy.tailnet.localapi import LocalAPI

# Seconds for which an answer serves, counted from the question.
LIFETIME = 1.0
# Answers kept at once, so that a tailnet of any size costs a bounded amount of memory.
KEPT_AT_MOST = 10_000
# Bytes of the answers whose meaning is remembered: those of some thousand callers.
READ_AT_MOST = 4 << 20
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
    """A question under way, and everybody who waits for its answer.

    :ivar caller: who is asked for.
    :ivar key: for whom else the answer serves.
    :ivar asked: when, in seconds of the clock.
    :ivar answers: of tailscaled, about the node and, if there is one, about the Service.
    :ivar ended: whether everybody has been told.
    """

    __slots__ = ("_asking", "_waiters", "answers", "asked", "caller", "ended", "key")

    def __init__(self, caller: Caller, key: Hashable, asked: float) -> None:
        self.caller = caller
        self.key = key
        self.asked = asked
        self.answers: list[bytes | None] = []
        self.ended = False
        self._waiters: list[Deferred[Identity]] = []
        self._asking: list[Deferred[None]] = []

    def wait(self) -> Deferred[Identity]:
        waiter: Deferred[Identity] = Deferred(self._leave)
        self._waiters.append(waiter)
        return waiter

    def ask(self, asking: list[Deferred[None]]) -> None:
        """Take note of what is under way for it."""
        self._asking = asking

    def stop(self) -> None:
        """End what is under way."""
        for each in self._asking:
            if not each.called:
                each.cancel()

    def _leave(self, waiter: Deferred[Identity]) -> None:
        """Somebody does not want to know any more; the last one ends the question."""
        self._waiters.remove(waiter)
        if not self._waiters:
            self.stop()

    def end(self, result: Identity | Failure) -> None:
        """Tell everybody, once; what is still under way is of no use any more."""
        self.ended = True
        self.stop()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if isinstance(result, Failure):
                waiter.errback(result)
            else:
                waiter.callback(result)


class _Readings:
    """Reads answers, those that are the same byte for byte once."""

    def __init__(self) -> None:
        self._identities: dict[tuple[bytes, ...], Identity] = {}
        self._size = 0

    def identity(self, answers: tuple[bytes, ...]) -> Identity:
        """Read the answer about the node, and the one about the Service if there is one.

        :raises IdentityError: there is no identity in them.
        """
        known = self._identities.get(answers)
        if known is not None:
            return known
        identity = identify(*map(parse_whois, answers))
        size = sum(map(len, answers))
        if self._size + size > READ_AT_MOST:
            self._identities.clear()
            self._size = 0
        if size <= READ_AT_MOST:
            self._identities[answers] = identity
            self._size += size
        return identity


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
        self._results: dict[str, Counter] = {}
        self._readings = _Readings()
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
            return fail(UnknownCallerError(caller.shown))
        question = self._questions.get(key)
        if question is not None:
            return question.wait()
        question = self._questions[key] = _Question(caller, key, self._clock.seconds())
        waiter = question.wait()
        self._ask(question)
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

    def _ask(self, question: _Question) -> None:
        """Ask for the node, and at the same time for what the Service grants to it."""
        caller = question.caller
        addr, proto = caller.shown, None
        if caller.local:
            addr, proto = f"{addr}:{caller.port}", "tcp"
        names = (None,) if caller.service is None else (None, caller.service)
        question.answers = [None] * len(names)
        question.ask(
            [
                self._api.whois(addr, proto, name, timeout=PATIENCE).addCallbacks(
                    self._answered,
                    self._failed,
                    callbackArgs=(question, number),
                    errbackArgs=(question,),
                )
                for number, name in enumerate(names)
            ]
        )

    def _answered(self, answer: bytes, question: _Question, number: int) -> None:
        """Make an identity of the answers once all are there, and keep it if nothing has
        happened since the question.
        """
        question.answers[number] = answer
        answers = tuple(each for each in question.answers if each is not None)
        if len(answers) < len(question.answers):
            return
        self._failing = False
        try:
            identity = self._readings.identity(answers)
        except IdentityError as error:
            self._end(question, "unusable", Failure(UnusableIdentityError(str(error))))
            return
        except Exception:  # noqa: BLE001 - those who wait must hear of it, whatever it is
            self._end(question, "error", Failure())
            return
        if self._questions.get(question.key) is question and self._watched:
            self._keep(question.key, _Kept(identity, question.asked + LIFETIME, question.caller))
        self._show(identity)
        self._end(question, "ok", identity)

    def _failed(self, failure: Failure, question: _Question) -> None:
        """Put a failure into a caller's terms. One answer without the other is none."""
        error = failure.value
        result = "error"
        if isinstance(error, LocalAPIError):
            if error.status == 404 and self._running:
                result = "unknown"
                self._failing = False
                failure = Failure(UnknownCallerError(question.caller.shown))
            else:
                failure = Failure(self._unavailable(error))
        elif isinstance(error, CancelledError):
            result = "cancelled"
        self._end(question, result, failure)

    def _end(self, question: _Question, result: str, answer: Identity | Failure) -> None:
        """Count a question, and answer everybody."""
        if question.ended:
            return
        if self._questions.get(question.key) is question:
            del self._questions[question.key]
        if result != "cancelled":
            counter = self._results.get(result)
            if counter is None:
                counter = self._results[result] = self._metrics.whois.labels(result)
            counter.inc()
            self._metrics.whois_duration.observe(self._clock.seconds() - question.asked)
        question.end(answer)

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
