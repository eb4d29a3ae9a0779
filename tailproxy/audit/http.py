"""Audit lines in POST requests to a server of the operator's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import treq
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool

import tailproxy
from tailproxy.audit.delivery import CarrierError

if TYPE_CHECKING:
    from pathlib import Path

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
# The same lines would be refused again.
_HOPELESS = frozenset((400, 413, 415, 422))
_PEM_END = b"-----END CERTIFICATE-----"


class HTTPCarrier:
    """Posts batches as JSON lines. A `tailproxy.audit.delivery.Carrier`.

    Never through a proxy that the environment names.

    :param url: where to.
    :param token_file: holds a bearer token, read for every batch.
    :param ca_file: holds the CAs of the server, PEM; None for the system's.
    :raises OSError: the CAs cannot be read.
    :raises ValueError: there is none among them.
    """

    def __init__(
        self, reactor: Any, url: str, token_file: Path | None, ca_file: Path | None
    ) -> None:
        self._reactor = reactor
        self._url = url
        self._token_file = token_file
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        agent = Agent(
            reactor,
            contextFactory=BrowserLikePolicyForHTTPS(_trust(ca_file)),
            connectTimeout=_CONNECT_SECONDS,
            pool=self._pool,
        )
        self._client = HTTPClient(agent)

    def carry(self, lines: bytes) -> Deferred[None]:
        """See `Carrier.carry`."""
        return Deferred.fromCoroutine(self._post(lines))

    def close(self) -> None:
        """See `Carrier.close`."""
        self._pool.closeCachedConnections()

    async def _post(self, lines: bytes) -> None:
        headers: dict[bytes | str, bytes | str] = {
            "Content-Type": "application/x-ndjson",
            "User-Agent": f"tailproxy/{tailproxy.__version__}",
        }
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {self._token_file.read_text().strip()}"
        answer = self._client.post(
            self._url,
            data=lines,
            headers=headers,
            reactor=self._reactor,
            timeout=_ANSWER_SECONDS,
            allow_redirects=False,
        )
        response = await answer
        # The rest of the answer says nothing, but the connection is to be used again.
        await treq.collect(response, lambda _: None).addTimeout(_ANSWER_SECONDS, self._reactor)
        if not 200 <= response.code < 300:
            raise CarrierError(
                f"the server answered with status {response.code}",
                hopeless=response.code in _HOPELESS,
            )


def _trust(ca_file: Path | None) -> Any:
    if ca_file is None:
        return None
    found = [
        Certificate.loadPEM(block + _PEM_END)
        for block in ca_file.read_bytes().split(_PEM_END)
        if b"-----BEGIN CERTIFICATE-----" in block
    ]
    if not found:
        raise ValueError("there is no certificate in it")
    return trustRootFromCertificates(found)
