"""Whether the API server can be reached and lets us impersonate, asked again and again.

First whether we may impersonate anybody; where the account is narrower, what its rules list. It
is asked over the same upstream as requests are, so a wrong certificate or a revoked token shows
here as it would there. Two failures in a row make not-ready, so that one blip does not take a
replica out of service (design.md section 7).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.errors import ApiError, UpstreamError
from tailproxy.interfaces import CheckResult, IReadinessCheck, IResponseReceiver, UpstreamRequest
from tailproxy.policy.rights import Rights, held
from tailproxy.wire.http1 import field_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from tailproxy.interfaces import IExchange, IStream, IUpstream, ResponseHead
    from tailproxy.wire.http1 import Header

PERIOD = 15.0
# While something is wrong: recovery must show within 2 s.
_RETRY = 1.0
_TIMEOUT = 5.0
_FAILURES = 2
# Rules may list many names.
_ANSWER_BYTES = 1024 * 1024
_REVIEWS = "/apis/authorization.k8s.io/v1/"


@implementer(IReadinessCheck)
class Standing:
    """How one thing stands, as readiness sees it.

    :param name: of the check.
    """

    _log = Logger()

    def __init__(self, name: str) -> None:
        self.name = name
        self._result = CheckResult(ok=False, detail="not asked yet")
        self._failures = 0

    def check(self) -> CheckResult:
        """See `IReadinessCheck.check`."""
        return self._result

    @property
    def settled(self) -> bool:
        """Whether it is well and was so the last time it was asked."""
        return self._result.ok and not self._failures

    def stands(self, detail: str) -> None:
        """It is well."""
        if not self._result.ok:
            self._log.info("{check} is well: {detail}", check=self.name, detail=detail)
        self._failures = 0
        self._result = CheckResult(ok=True, detail=detail)

    def fails(self, detail: str) -> None:
        """It is not. The first time after it was well may be a blip."""
        self._failures += 1
        if self._result.ok and self._failures < _FAILURES:
            return
        if self._result.ok or self._result.detail != detail:
            self._log.warn("{check} fails: {detail}", check=self.name, detail=detail)
        self._result = CheckResult(ok=False, detail=detail)


class ApiServerReview(Service):
    """Asks now and then, and more often while something is wrong.

    :param upstream: the API server.
    :param clock: keeps the time.
    :param impersonate: whether we must be allowed to impersonate, as in `auth` mode. Otherwise
        any answer will do.
    :param period: seconds between two rounds while all is well.

    :ivar checks: what `/readyz` shows.
    """

    def __init__(
        self,
        upstream: IUpstream,
        clock: IReactorTime,
        *,
        impersonate: bool,
        period: float = PERIOD,
    ) -> None:
        self._upstream = upstream
        self._clock = clock
        self._period = period
        self._reached = Standing("apiserver")
        self._allowed = Standing("impersonation") if impersonate else None
        self._call: IDelayedCall | None = None
        self._round: Deferred[None] | None = None
        self.checks: tuple[Standing, ...] = (
            (self._reached,) if self._allowed is None else (self._reached, self._allowed)
        )

    def startService(self) -> None:
        """Ask for the first time."""
        super().startService()
        self._begin()

    def stopService(self) -> None:
        """Ask no more."""
        super().stopService()
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._round is not None:
            self._round.cancel()

    def ask(self) -> Deferred[None]:
        """Ask once, for who does not run it as a service; `checks` know the outcome then."""
        return Deferred.fromCoroutine(self._ask())

    def _begin(self) -> None:
        self._round = Deferred.fromCoroutine(self._ask())
        self._round.addErrback(lambda failure: failure.trap(CancelledError))
        self._round.addBoth(self._ended)

    def _ended(self, result: object) -> object:
        self._round = None
        if self.running:
            settled = all(standing.settled for standing in self.checks)
            self._call = self._clock.callLater(self._period if settled else _RETRY, self._begin)
        return result

    async def _ask(self) -> None:
        try:
            if self._allowed is None:
                answer = await self._send(b"GET", b"/version", [], None)
                self._reached.stands(f"answers with {answer.code}")
                return
            denied = [what for what in ("users", "groups") if not await self._may(what)]
            rights = await self._held() if denied else Rights()
        except ApiError as error:
            self._reached.fails(error.message)
            if self._allowed is not None:
                self._allowed.fails("cannot be asked, see apiserver")
            return
        self._reached.stands("answers and accepts our credential")
        if rights is None:
            self._allowed.fails(
                f"the API server does not let us impersonate {' and '.join(denied)}; grant the"
                " verb impersonate on users and groups to our account with a ClusterRole, such as"
                " `tailproxy rbac` prints"
            )
        else:
            self._allowed.stands(f"we may impersonate {rights}")

    async def _may(self, resource: str) -> bool:
        """Whether we may impersonate any such thing.

        :raises ApiError: there is no answer, or none that says it.
        """
        attributes = {"verb": "impersonate", "resource": resource}
        kind = "SelfSubjectAccessReview"
        status = await self._review(kind, {"resourceAttributes": attributes})
        if "allowed" not in status:
            raise _unreadable(kind)
        return status["allowed"] is True

    async def _held(self) -> Rights | None:
        """What we may impersonate if it is not everything: what the rules of RBAC list.

        :raises ApiError: there is no answer, or none that says it.
        """
        # A namespace must be named; rules of the whole cluster are there in any.
        kind = "SelfSubjectRulesReview"
        status = await self._review(kind, {"namespace": "default"})
        try:
            return held(status["resourceRules"] or ())
        except (KeyError, TypeError, AttributeError):
            raise _unreadable(kind) from None

    async def _review(self, kind: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """The status of a review of ourselves.

        :raises ApiError: there is no answer, or none that can be read.
        """
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        body = json.dumps(review).encode()
        headers = [
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % len(body)),
        ]
        bearer = self._upstream.bearer()
        if bearer is not None:
            headers.append((b"Authorization", b"Bearer " + bearer))
        target = f"{_REVIEWS}{kind.lower()}s".encode()
        answer = await self._send(b"POST", target, headers, body)
        if answer.code == 401:
            raise UpstreamError(502, "credential", "it does not accept our credential (401)")
        if answer.code != 201:
            raise UpstreamError(502, "answer", f"it answers a {kind} with {answer.code}")
        try:
            status = json.loads(answer.body)["status"]
        except (ValueError, KeyError, TypeError):
            raise _unreadable(kind) from None
        if not isinstance(status, dict):
            raise _unreadable(kind)
        return status

    async def _send(
        self, method: bytes, target: bytes, headers: Sequence[Header], body: bytes | None
    ) -> _Answer:
        fields = [(b"Host", self._upstream.host), (b"Accept", b"application/json"), *headers]
        request = UpstreamRequest(
            method, target, field_lines(fields) + b"\r\n", has_body=body is not None
        )
        receiver = _Receiver()
        receiver.exchange = exchange = self._upstream.send(request, receiver)
        if body is not None:
            exchange.write_body(body)
            exchange.end_body(())
        return await receiver.done.addTimeout(_TIMEOUT, self._clock, _too_late)


def _unreadable(kind: str) -> UpstreamError:
    return UpstreamError(502, "answer", f"its answer to a {kind} cannot be read")


def _too_late(_: object, timeout: float) -> NoReturn:
    raise UpstreamError(504, "timeout", f"no answer within {timeout:g} s")


@attrs.frozen
class _Answer:
    code: int
    body: bytes


@implementer(IResponseReceiver)
class _Receiver:
    """Takes a short answer as a whole; cancelling `done` ends the exchange."""

    exchange: IExchange

    def __init__(self) -> None:
        self.done: Deferred[_Answer] = Deferred(lambda _: self.exchange.abort())
        self._code = 0
        self._body = bytearray()

    def request_sent(self) -> None:
        """Nothing to do."""

    def response_interim(self, head: ResponseHead) -> None:
        """Nothing to do."""

    def response_head(self, head: ResponseHead) -> None:
        """The code is what counts."""
        self._code = head.code

    def response_body(self, chunks: Sequence[bytes]) -> None:
        """Keep it, as far as such an answer can be long."""
        for chunk in chunks:
            self._body += chunk[: _ANSWER_BYTES - len(self._body)]

    def response_end(self, trailers: Sequence[Header]) -> None:
        """It is complete."""
        self.done.callback(_Answer(self._code, bytes(self._body)))

    def response_flush(self) -> None:
        """Nothing is held back."""

    def response_switched(self, head: ResponseHead, stream: IStream, early: bytes) -> None:
        """Nobody asked for that."""
        stream.transport.abortConnection()
        self.response_failed(UpstreamError(502, "answer", "it switched protocols unasked"))

    def response_failed(self, error: ApiError) -> None:
        """There will be no answer."""
        self.done.errback(error)
