"""One connection to a proxy, over TLS and through an HTTP proxy if need be, for a few requests.

Everything that can go wrong on the way is a `ConnectionFailed` that says what to do about it. The
command asks one thing after the other, so that it waits for each answer.
"""

from __future__ import annotations

import json
import ssl
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies, proxy_bypass

import attrs
from urllib3 import PoolManager, ProxyManager, Timeout, disable_warnings, exceptions
from urllib3.connection import HTTPConnection

import tailproxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from tailproxy.client.access import Access

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
_JSON = "application/json"
_CHUNK = 65536


class ConnectionFailed(Exception):  # noqa: N818 - named for what it says
    """There is no answer; the text says of whom, why, and what to do."""


@attrs.frozen
class Answer:
    """An answer.

    :ivar status: HTTP status code.
    :ivar body: decoded JSON; ``None`` if it is none.
    :ivar seconds: from the beginning of the request to the end of the answer; for the first
        request of a connection with the time to connect.
    """

    status: int
    body: Any
    seconds: float

    @property
    def message(self) -> str:
        """What the body says of an error: the message of a Kubernetes `Status`."""
        if isinstance(self.body, dict) and self.body.get("message"):
            return str(self.body["message"])
        return f"status {self.status}"


class Asking:
    """One connection, by whatever way.

    :param pool: of urllib3, which makes it.
    :param base: URL that stands in front of each path.
    :param token: for `ask`; empty if there is none.
    """

    def __init__(self, pool: Any, base: str, token: str = "") -> None:
        self._pool = pool
        self._base = base
        self._token = token

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give it back."""
        self._pool.clear()

    def ask(self, path: str, body: Any = None, *, authorized: bool = False) -> Answer:
        """Send one request and wait for the answer: a GET, or a POST if there is a body.

        :param path: behind the server's URL, with a slash in front.
        :param body: to be sent as JSON.
        :param authorized: whether to show the token of the context's user.
        :raises ConnectionFailed: there is no answer.
        """
        headers = {"Accept": _JSON, "User-Agent": f"tailproxy/{tailproxy.__version__}"}
        if authorized and self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None
        if body is not None:
            headers["Content-Type"] = _JSON
            data = json.dumps(body).encode()
        begun = time.monotonic()
        try:
            answer = self._pool.request(
                "GET" if data is None else "POST",
                self._base + path,
                body=data,
                headers=headers,
                redirect=False,
            )
        except exceptions.HTTPError as error:
            raise ConnectionFailed(self.explained(error)) from error
        seconds = time.monotonic() - begun
        return Answer(answer.status, _decoded(answer.data), seconds)

    def lines(self, path: str) -> Iterator[bytes]:
        """Send a GET; the lines of its answer as they come, with their ends.

        :raises ConnectionFailed: there is no answer, it is an error, or it breaks off.
        """
        headers = {"User-Agent": f"tailproxy/{tailproxy.__version__}"}
        rest = b""
        try:
            answer = self._pool.request(
                "GET", self._base + path, headers=headers, redirect=False, preload_content=False
            )
            if answer.status != HTTPStatus.OK:
                refused = Answer(answer.status, _decoded(answer.read()), 0)
                raise ConnectionFailed(refused.message)
            for data in answer.stream(_CHUNK):
                *lines, rest = (rest + data).split(b"\n")
                yield from (line + b"\n" for line in lines)
        except exceptions.HTTPError as error:
            raise ConnectionFailed(self.explained(error)) from error
        if rest:
            yield rest

    def explained(self, error: exceptions.HTTPError) -> str:
        """What went wrong, and what to do about it."""
        raise NotImplementedError


class Connection(Asking):
    """Asks the server of a context.

    :raises ConnectionFailed: the CA of the context cannot be used.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        options: dict[str, Any] = {
            "timeout": Timeout(connect=_CONNECT_SECONDS, read=_ANSWER_SECONDS),
            "ssl_context": _tls(access),
            "retries": False,
            "num_pools": 1,
            "maxsize": 1,
            # Behind a proxy urllib3 leaves Nagle's algorithm on, and a POST waits 40 ms for it.
            "socket_options": HTTPConnection.default_socket_options,
        }
        if access.insecure:
            disable_warnings(exceptions.InsecureRequestWarning)
        if access.server_name:
            options["server_hostname"] = access.server_name
        self._proxy = access.proxy or _proxy_of_environment(access)
        super().__init__(
            ProxyManager(self._proxy, **options) if self._proxy else PoolManager(**options),
            access.server,
            access.token,
        )

    def explained(self, error: exceptions.HTTPError) -> str:
        """What went wrong, and what to do about it."""
        access = self._access
        cause: BaseException = error
        through_proxy = isinstance(error, exceptions.ProxyError)
        if isinstance(error, exceptions.ProxyError):
            cause = error.original_error
        distrust = _verification_error(cause)
        if distrust is not None:
            return (
                f"{access.server} is not trusted: {distrust.verify_message}; correct the cluster "
                f"of context {access.context!r} with `tailproxy kubeconfig {access.server}`"
            )
        if through_proxy:
            return (
                f"cannot reach {access.server} through the HTTP proxy of context "
                f"{access.context!r}: {reason(cause)}; see whether the proxy runs and knows the "
                "tailnet (`tailscale status`)"
            )
        if isinstance(cause, exceptions.NameResolutionError):
            return (
                f"the name {access.host} cannot be resolved; connect this device to the tailnet "
                "(`tailscale up`) with MagicDNS on (`tailscale set --accept-dns`), and see whether "
                "the name is right (`tailscale status`)"
            )
        if isinstance(cause, exceptions.NewConnectionError):
            return (
                f"cannot connect to {access.server}: {reason(cause)}; see whether tailscale is up "
                "here (`tailscale status`) and whether tailproxy runs there"
            )
        if isinstance(cause, exceptions.ConnectTimeoutError):
            return (
                f"{access.server} does not answer; see whether tailscale is up here "
                f"(`tailscale status`), whether the node is there (`tailscale ping {access.host}`) "
                "and whether a grant of the tailnet lets you reach its port"
            )
        return (
            f"{access.server} gave no answer: {reason(cause)}; see whether tailproxy and the "
            "tailscaled in front of it run there (`tailproxy doctor` on its host)"
        )


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _tls(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=access.ca)
    except ssl.SSLError as error:
        raise ConnectionFailed(
            f"context {access.context!r}: its certificate authority is not a PEM certificate"
        ) from error
    # As kubectl, which takes certificates that newer rules of form find fault with.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _proxy_of_environment(access: Access) -> str:
    """The HTTP proxy that HTTPS_PROXY and NO_PROXY name, as kubectl heeds them too."""
    if proxy_bypass(access.host):
        return ""
    return getproxies().get(access.server.partition(":")[0], "")


def reason(error: BaseException) -> str:
    """The innermost cause, in the system's words."""
    *_, last = _causes(error)
    if isinstance(last, OSError) and last.strerror:
        return last.strerror
    return str(last)


def _verification_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    return next(
        (each for each in _causes(error) if isinstance(each, ssl.SSLCertVerificationError)), None
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, and so on; urllib3 keeps some causes as an argument only."""
    while error is not None:
        yield error
        kept = next((each for each in error.args if isinstance(each, BaseException)), None)
        error = error.__cause__ or kept or error.__context__
