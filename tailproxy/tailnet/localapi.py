"""The LocalAPI of tailscaled: HTTP/1.1 over its unix socket (spec/dataplane.md 3).

A call never waits for ever: each has a time-out, since tailscaled accepts connections before it
can answer. Calls share a few connections that stay open; the bus and certificates, which take
long, do not count among them. Cancelling a call's Deferred gives its connection up.
"""

from __future__ import annotations

import errno
import json
import os
import re
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote, urlencode

import attrs
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
)
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseFailed,
)
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from tailproxy.policy.identity import parse_whois
from tailproxy.tailnet.bodies import LineStream, WholeBody

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from twisted.web.client import URI
    from twisted.web.iweb import IResponse

T = TypeVar("T")

# tailscaled refuses requests with any other Host header.
_BASE = "http://local-tailscaled.sock/localapi/v0/"

TIMEOUT = 5.0
# A first certificate is proven through DNS, which takes its time.
CERTIFICATE_TIMEOUT = 300.0
# Questions under way at once; WhoIs holds the daemon's main lock.
_AT_ONCE = 8
# Bytes of one answer. A status with thousands of peers has a few MiB.
_ANSWER_LIMIT = 32 << 20

_END_OF_KEY = re.compile(rb"^-----END [A-Z ]*PRIVATE KEY-----\r?\n", re.MULTILINE)


class LocalAPIError(Exception):
    """tailscaled did not do what it was asked.

    :ivar status: HTTP status code of its answer, or ``None`` if there was no answer: the daemon
        is not there, hangs, or went away.
    :ivar message: what was asked, why it failed and what to do, in a sentence.
    :ivar retry_after: seconds that tailscaled asked to wait, or ``None``.
    """

    def __init__(self, status: int | None, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


@attrs.frozen
class ServeConfig:
    """What tailscaled's serve does.

    :ivar config: the whole configuration; empty when nothing is served.
    :ivar etag: of exactly that state, for `LocalAPI.set_serve_config`.
    """

    config: Mapping[str, Any]
    etag: str


@attrs.frozen
class _Answer:
    headers: Mapping[str, str]
    body: bytes


class _SocketEndpoint(UNIXClientEndpoint):
    """The socket; a connection to it is not worth a line in the log."""

    def connect(self, protocolFactory: Any) -> Any:
        protocolFactory.noisy = False
        return super().connect(protocolFactory)


@implementer(IAgentEndpointFactory)
@attrs.frozen
class _SocketEndpoints:
    """Leads every request to the one socket."""

    reactor: Any
    path: str

    def endpointForURI(self, uri: URI) -> UNIXClientEndpoint:
        return _SocketEndpoint(self.reactor, self.path, timeout=TIMEOUT)


class LocalAPI:
    """Asks one tailscaled.

    Every method's Deferred fails with `LocalAPIError`.

    :param reactor: provides unix sockets and time.
    :param socket_path: tailscaled's socket.
    :ivar capability: the daemon's capability version as its last answer told it, or ``None``.
    """

    def __init__(self, reactor: Any, socket_path: str) -> None:
        self.socket_path = socket_path
        self.capability: int | None = None
        self._reactor = reactor
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = _AT_ONCE
        agent = Agent.usingEndpointFactory(
            reactor, _SocketEndpoints(reactor, socket_path), self._pool
        )
        self._http = HTTPClient(agent)
        self._slots = DeferredSemaphore(_AT_ONCE)

    def close(self) -> Deferred[None]:
        """Close the connections that are kept for later calls."""
        return cast("Deferred[None]", self._pool.closeCachedConnections())

    def whois(
        self,
        addr: str,
        proto: str | None = None,
        svc_name: str | None = None,
        *,
        timeout: float = TIMEOUT,
    ) -> Deferred[dict[str, Any]]:
        """Ask who has an address (spec/dataplane.md 3.3).

        The caller sees to it that only sensible addresses are asked for: a hopeless one with a
        port keeps the whole daemon busy for a third of a second.

        :param addr: ``IP``, or ``IP:PORT`` for a connection that tailscaled itself forwards.
        :param proto: ``tcp`` or ``udp``, with a port.
        :param svc_name: ``svc:NAME``, to have the grants for that Service.
        :param timeout: seconds.
        :returns: the decoded answer, for `tailproxy.policy.identity.identify`. It fails with
            `LocalAPIError` of status 404 when nobody has the address, and with `IdentityError`
            when the answer is no JSON object.
        """
        query = {"addr": addr, "proto": proto, "svc_name": svc_name}
        given = urlencode({key: value for key, value in query.items() if value is not None})

        async def ask() -> dict[str, Any]:
            return parse_whois((await self._ask("GET", f"whois?{given}")).body)

        return self._within(timeout, "whois", ask())

    def status(self, *, peers: bool = False) -> Deferred[dict[str, Any]]:
        """Ask for the state of the daemon and its node (3.4).

        :param peers: whether to list the peers too, which can be many.
        """

        async def ask() -> dict[str, Any]:
            path = f"status?peers={'true' if peers else 'false'}"
            return _object("status", await self._ask("GET", path))

        return self._within(TIMEOUT, "status", ask())

    def prefs(self) -> Deferred[dict[str, Any]]:
        """Ask for the node's settings (3.5)."""

        async def ask() -> dict[str, Any]:
            return _object("prefs", await self._ask("GET", "prefs"))

        return self._within(TIMEOUT, "prefs", ask())

    def cert_pair(
        self, domain: str, *, timeout: float = CERTIFICATE_TIMEOUT
    ) -> Deferred[tuple[bytes, bytes]]:
        """Have a certificate, issued or renewed if need be (3.7).

        :param domain: one of `cert_domains`, in lower case.
        :param timeout: seconds; a first issuance takes tens of them.
        :returns: chain and key, PEM.
        """

        async def ask() -> tuple[bytes, bytes]:
            path = f"cert/{quote(domain, safe='')}?type=pair"
            return _split_pair((await self._ask("GET", path, slow=True)).body)

        return self._within(timeout, "cert", ask())

    def cert_domains(self) -> Deferred[tuple[str, ...]]:
        """Ask which names the node may have certificates for; none before it is connected."""

        async def ask() -> tuple[str, ...]:
            answer = _decode("cert-domains", await self._ask("GET", "cert-domains"))
            return tuple(answer or ())

        return self._within(TIMEOUT, "cert-domains", ask())

    def serve_config(self) -> Deferred[ServeConfig]:
        """Ask what serve does (3.6)."""

        async def ask() -> ServeConfig:
            answer = await self._ask("GET", "serve-config")
            # ``null`` until something was set for the first time, ``{}`` ever after.
            config = _decode("serve-config", answer) or {}
            return ServeConfig(config, answer.headers.get("etag", ""))

        return self._within(TIMEOUT, "serve-config", ask())

    def set_serve_config(self, config: Mapping[str, Any], etag: str) -> Deferred[None]:
        """Replace what serve does, if it is still as it was read (3.6).

        :param config: the whole new configuration.
        :param etag: of the `ServeConfig` that was read; the error's status is 412 if somebody
            changed it since.
        """

        async def ask() -> None:
            body = json.dumps(config, separators=(",", ":")).encode()
            await self._ask("POST", "serve-config", body=body, headers={"If-Match": etag})

        return self._within(TIMEOUT, "serve-config", ask())

    def usermetrics(self) -> Deferred[bytes]:
        """Ask for tailscaled's own metrics, in the Prometheus text format."""

        async def ask() -> bytes:
            return (await self._ask("GET", "usermetrics")).body

        return self._within(TIMEOUT, "usermetrics", ask())

    def watch_bus(self, mask: int, *, limit: int) -> Deferred[LineStream]:
        """Follow what happens in the daemon (3.8).

        :param mask: which messages, as a sum of bits.
        :param limit: bytes of the longest message; a longer one ends the stream.
        :returns: the messages as lines of JSON, once tailscaled has agreed.
        """

        async def ask() -> LineStream:
            return LineStream(await self._respond("GET", f"watch-ipn-bus?mask={mask}"), limit)

        return self._within(TIMEOUT, "watch-ipn-bus", ask())

    def _within(
        self, timeout: float, endpoint: str, coroutine: Coroutine[Any, Any, T]
    ) -> Deferred[T]:
        """Run a call, but not longer than that."""

        def late(result: Any, seconds: float) -> Any:
            if not isinstance(result, Failure):
                return result
            raise LocalAPIError(
                None,
                f"tailscaled at {self.socket_path} did not answer {endpoint} within "
                f"{seconds:g} s; see whether it hangs or is still starting",
            )

        call: Deferred[T] = Deferred.fromCoroutine(coroutine)
        return call.addTimeout(timeout, self._reactor, late)

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[bytes | str, bytes | str] | None = None,
        slow: bool = False,
    ) -> _Answer:
        """Ask and have the whole answer.

        :param slow: the answer takes so long that other calls must not wait behind it.
        """
        if slow:
            return await self._collect(await self._respond(method, path, body, headers), path)
        await self._slots.acquire()
        try:
            return await self._collect(await self._respond(method, path, body, headers), path)
        finally:
            self._slots.release()

    async def _respond(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[bytes | str, bytes | str] | None = None,
    ) -> IResponse:
        """Ask and have the head of an answer of success."""
        try:
            response = await self._http.request(
                method,
                _BASE + path,
                data=body,
                headers=headers,
                allow_redirects=False,
                unbuffered=True,
                reactor=self._reactor,
            )
        except ConnectingCancelledError:
            raise CancelledError from None
        except _CONNECTION_ERRORS as error:
            raise self._lost(error) from error
        capability = _header(response, "Tailscale-Cap")
        if capability.isdecimal():
            self.capability = int(capability)
        if response.code >= 300:
            answer = await self._collect(response, path)
            raise _refusal(path, response.code, answer)
        return cast("IResponse", response)

    async def _collect(self, response: IResponse, path: str) -> _Answer:
        try:
            content = await WholeBody(response, _ANSWER_LIMIT).done
        except ResponseFailed as error:
            raise self._lost(error) from error
        names = ("Etag", "Retry-After")
        return _Answer({name.lower(): _header(response, name) for name in names}, content)

    def _lost(self, error: Exception) -> Exception:
        """Say what it means that there is no answer."""
        for reason in getattr(error, "reasons", ()):
            if reason.check(CancelledError):
                return CancelledError()
        path = self.socket_path
        number = getattr(error, "osError", None)
        if number == errno.ENOENT:
            message = (
                f"there is no socket {path}; start tailscaled, or say in "
                "Tailproxy.Tailscaled.Socket where its socket is"
            )
        elif number == errno.ECONNREFUSED:
            message = f"nobody listens at the socket {path}; start tailscaled"
        elif number in {errno.EACCES, errno.EPERM}:
            message = (
                f"uid {os.geteuid()} may not open the socket {path}; run tailproxy as root or as "
                "the user of tailscaled"
            )
        else:
            message = f"the connection to tailscaled at {path} failed: {_reason(error)}"
        return LocalAPIError(None, message)


_CONNECTION_ERRORS = (
    ConnectError,
    ConnectionClosed,
    RequestTransmissionFailed,
    ResponseFailed,
)


def _reason(error: Exception) -> str:
    """The innermost reason of an error of the HTTP client, in words."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return _reason(reasons[0].value)
    return str(error) or type(error).__name__


def _header(response: IResponse, name: str) -> str:
    values = response.headers.getRawHeaders(name) or [""]
    return str(values[0])


def _refusal(path: str, status: int, answer: _Answer) -> LocalAPIError:
    """Make an error of an answer in any of tailscaled's three shapes (3.1)."""
    endpoint = path.partition("?")[0]
    text = answer.body.decode(errors="replace").strip()
    try:
        decoded = json.loads(text)
    except ValueError:
        decoded = None
    if isinstance(decoded, dict):
        text = next((str(v) for k, v in decoded.items() if k.lower() == "error"), text)
    message = f"tailscaled refused {endpoint} with {status}: {text or 'no reason given'}"
    if status == 403:
        message += f"; {_permission(endpoint)}"
    wait = answer.headers["retry-after"]
    return LocalAPIError(status, message, float(wait) if wait.isdecimal() else None)


def _permission(endpoint: str) -> str:
    """Say which setting gives the permission (3.1)."""
    uid = os.geteuid()
    if endpoint.startswith("cert/"):
        setting = f"start tailscaled with TS_PERMIT_CERT_UID={uid} in its environment"
    else:
        setting = f"make the user of uid {uid} the operator (tailscale set --operator=USER)"
    return f"{setting}, or run tailproxy as root or as the user of tailscaled"


def _decode(endpoint: str, answer: _Answer) -> Any:
    try:
        return json.loads(answer.body)
    except ValueError:
        raise LocalAPIError(200, f"tailscaled's answer to {endpoint} is not JSON") from None


def _object(endpoint: str, answer: _Answer) -> dict[str, Any]:
    decoded = _decode(endpoint, answer)
    if not isinstance(decoded, dict):
        raise LocalAPIError(200, f"tailscaled's answer to {endpoint} is not a JSON object")
    return decoded


def _split_pair(body: bytes) -> tuple[bytes, bytes]:
    """Take key and chain apart; the key comes first (3.7)."""
    end = _END_OF_KEY.search(body)
    if end is None:
        raise LocalAPIError(200, "tailscaled's answer to cert is not a key and a certificate")
    return body[end.end() :], body[: end.end()]
