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
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import attrs
from twisted.python.failure import Failure

from tailproxy.tailnet.client import Answer, Client, Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twisted.internet.defer import Deferred

    from tailproxy.tailnet.bodies import LineStream

T = TypeVar("T")

# tailscaled refuses requests with any other Host header.
_REQUEST = "{method} /localapi/v0/{path} HTTP/1.1\r\nHost: local-tailscaled.sock\r\n{headers}\r\n"

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
        self._client = Client(reactor, socket_path, _AT_ONCE, _ANSWER_LIMIT)

    def close(self) -> Deferred[None]:
        """Close the connections that are kept for later calls."""
        return self._client.close()

    def whois(
        self,
        addr: str,
        proto: str | None = None,
        svc_name: str | None = None,
        *,
        timeout: float = TIMEOUT,
    ) -> Deferred[bytes]:
        """Ask who has an address (spec/dataplane.md 3.3).

        The caller sees to it that only sensible addresses are asked for: a hopeless one with a
        port keeps the whole daemon busy for a third of a second.

        :param addr: ``IP``, or ``IP:PORT`` for a connection that tailscaled itself forwards.
        :param proto: ``tcp`` or ``udp``, with a port.
        :param svc_name: ``svc:NAME``, to have the grants for that Service.
        :param timeout: seconds.
        :returns: the answer as it came, for `tailproxy.policy.identity.read_identity`. It fails
            with `LocalAPIError` of status 404 when nobody has the address.
        """
        path = f"whois?addr={quote(addr, safe='')}"
        if proto is not None:
            path += f"&proto={proto}"
        if svc_name is not None:
            path += f"&svc_name={quote(svc_name, safe='')}"
        return self._ask(path, _body, timeout=timeout)

    def status(self, *, peers: bool = False) -> Deferred[dict[str, Any]]:
        """Ask for the state of the daemon and its node (3.4).

        :param peers: whether to list the peers too, which can be many.
        """
        return self._ask(f"status?peers={'true' if peers else 'false'}", partial(_object, "status"))

    def prefs(self) -> Deferred[dict[str, Any]]:
        """Ask for the node's settings (3.5)."""
        return self._ask("prefs", partial(_object, "prefs"))

    def cert_pair(
        self, domain: str, *, timeout: float = CERTIFICATE_TIMEOUT
    ) -> Deferred[tuple[bytes, bytes]]:
        """Have a certificate, issued or renewed if need be (3.7).

        :param domain: one of `cert_domains`, in lower case.
        :param timeout: seconds; a first issuance takes tens of them.
        :returns: chain and key, PEM.
        """
        path = f"cert/{quote(domain, safe='')}?type=pair"
        return self._ask(path, _split_pair, timeout=timeout, slow=True)

    def cert_domains(self) -> Deferred[tuple[str, ...]]:
        """Ask which names the node may have certificates for; none before it is connected."""
        return self._ask(
            "cert-domains", lambda answer: tuple(_decode("cert-domains", answer) or ())
        )

    def serve_config(self) -> Deferred[ServeConfig]:
        """Ask what serve does (3.6)."""

        def read(answer: Answer) -> ServeConfig:
            # ``null`` until something was set for the first time, ``{}`` ever after.
            config = _decode("serve-config", answer) or {}
            return ServeConfig(config, answer.headers.get(b"etag", ""))

        return self._ask("serve-config", read)

    def set_serve_config(self, config: Mapping[str, Any], etag: str) -> Deferred[None]:
        """Replace what serve does, if it is still as it was read (3.6).

        :param config: the whole new configuration.
        :param etag: of the `ServeConfig` that was read; the error's status is 412 if somebody
            changed it since.
        """
        body = json.dumps(config, separators=(",", ":")).encode()
        headers = f"If-Match: {etag}\r\nContent-Length: {len(body)}\r\n"
        request = _request("POST", "serve-config", headers) + body
        return self._within(TIMEOUT, "serve-config", self._client.ask(request), lambda _: None)

    def usermetrics(self) -> Deferred[bytes]:
        """Ask for tailscaled's own metrics, in the Prometheus text format."""
        return self._ask("usermetrics", _body)

    def watch_bus(self, mask: int, *, limit: int) -> Deferred[LineStream]:
        """Follow what happens in the daemon (3.8).

        :param mask: which messages, as a sum of bits.
        :param limit: bytes of the longest message; a longer one ends the stream.
        :returns: the messages as lines of JSON, once tailscaled has agreed.
        """
        request = _request("GET", f"watch-ipn-bus?mask={mask}")
        lines = self._client.follow(request, limit)
        return self._within(TIMEOUT, "watch-ipn-bus", lines, lambda lines: lines)

    def _ask(
        self,
        path: str,
        read: Callable[[Answer], T],
        *,
        timeout: float = TIMEOUT,
        slow: bool = False,
    ) -> Deferred[T]:
        """Ask for something.

        :param read: makes the result of an answer of success.
        :param slow: the answer takes so long that other calls must not wait behind it.
        """
        answer = self._client.ask(_request("GET", path), slow=slow)
        return self._within(timeout, path.partition("?")[0], answer, read)

    def _within(
        self, timeout: float, endpoint: str, call: Deferred[Any], read: Callable[[Any], T]
    ) -> Deferred[T]:
        """Read the result of a call, but do not wait for it longer than that."""
        timer = self._reactor.callLater(timeout, call.cancel)

        def ended(result: Any) -> T:
            if timer.active():
                timer.cancel()
            elif isinstance(result, Failure):
                raise LocalAPIError(
                    None,
                    f"tailscaled at {self.socket_path} did not answer {endpoint} within "
                    f"{timeout:g} s; see whether it hangs or is still starting",
                )
            if isinstance(result, Failure):
                if isinstance(result.value, Unanswered):
                    raise self._lost(result.value) from result.value
                return result  # type: ignore[return-value]
            if isinstance(result, Answer):
                self._note(result)
                if result.status >= 300:
                    raise _refusal(endpoint, result)
            return read(result)

        return call.addBoth(ended)

    def _note(self, answer: Answer) -> None:
        capability = answer.headers.get(b"tailscale-cap", "")
        if capability.isdecimal():
            self.capability = int(capability)

    def _lost(self, error: Unanswered) -> LocalAPIError:
        """Say what it means that there is no answer."""
        path = self.socket_path
        if error.number == errno.ENOENT:
            message = (
                f"there is no socket {path}; start tailscaled, or say in "
                "Tailproxy.Tailscaled.Socket where its socket is"
            )
        elif error.number == errno.ECONNREFUSED:
            message = f"nobody listens at the socket {path}; start tailscaled"
        elif error.number in {errno.EACCES, errno.EPERM}:
            message = (
                f"uid {os.geteuid()} may not open the socket {path}; run tailproxy as root or as "
                "the user of tailscaled"
            )
        else:
            message = f"the connection to tailscaled at {path} failed: {error}"
        return LocalAPIError(None, message)


def _request(method: str, path: str, headers: str = "") -> bytes:
    return _REQUEST.format(method=method, path=path, headers=headers).encode()


def _body(answer: Answer) -> bytes:
    return answer.body


def _refusal(endpoint: str, answer: Answer) -> LocalAPIError:
    """Make an error of an answer in any of tailscaled's three shapes (3.1)."""
    status = answer.status
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
    wait = answer.headers.get(b"retry-after", "")
    return LocalAPIError(status, message, float(wait) if wait.isdecimal() else None)


def _permission(endpoint: str) -> str:
    """Say which setting gives the permission (3.1)."""
    uid = os.geteuid()
    if endpoint.startswith("cert/"):
        setting = f"start tailscaled with TS_PERMIT_CERT_UID={uid} in its environment"
    else:
        setting = f"make the user of uid {uid} the operator (tailscale set --operator=USER)"
    return f"{setting}, or run tailproxy as root or as the user of tailscaled"


def _decode(endpoint: str, answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except ValueError:
        raise LocalAPIError(200, f"tailscaled's answer to {endpoint} is not JSON") from None


def _object(endpoint: str, answer: Answer) -> dict[str, Any]:
    decoded = _decode(endpoint, answer)
    if not isinstance(decoded, dict):
        raise LocalAPIError(200, f"tailscaled's answer to {endpoint} is not a JSON object")
    return decoded


def _split_pair(answer: Answer) -> tuple[bytes, bytes]:
    """Take key and chain apart; the key comes first (3.7)."""
    body = answer.body
    end = _END_OF_KEY.search(body)
    if end is None:
        raise LocalAPIError(200, "tailscaled's answer to cert is not a key and a certificate")
    return body[end.end() :], body[: end.end()]
