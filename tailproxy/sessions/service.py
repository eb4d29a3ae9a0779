"""The same pages on a unix socket, for who may open it: root, and the group of the service."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.web.pages import notFound
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.util import redirectTo

from tailproxy.sessions.access import local
from tailproxy.sessions.pages import SessionsResource

if TYPE_CHECKING:
    from pathlib import Path

    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IListeningPort
    from twisted.web.server import Request

    from tailproxy.interfaces import IRecordings

_MODE = 0o660
_ROOT = b"/.tailproxy/sessions/"
# A browser comes here through a port of its own machine. By another name it would be a page of
# somebody else's, whose name they have lead here.
_HOSTS = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]+)?", re.ASCII | re.IGNORECASE)


class LocalSessions(Service):
    """Listens on a unix socket.

    :param path: of the socket; one that nobody listens on is replaced.
    """

    name = "local-sessions"
    _log = Logger()

    def __init__(self, reactor: Any, path: Path, recordings: IRecordings) -> None:
        below = Resource()
        below.putChild(b"sessions", SessionsResource(recordings, local))
        root = _Root()
        root.putChild(b".tailproxy", below)
        self._site = Site(root)
        self._site.displayTracebacks = False
        self._site.noisy = False
        self._reactor = reactor
        self._path = path
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """Listen. That it cannot be done is no reason not to serve the cluster."""
        super().startService()
        try:
            self._port = self._reactor.listenUNIX(
                str(self._path), self._site, mode=_MODE, wantPID=True
            )
        except (CannotListenError, OSError) as error:
            self._log.error(
                "no recorded sessions on {path}: {reason}", path=self._path, reason=error
            )

    def stopService(self) -> Deferred[None] | None:
        """Close it."""
        super().stopService()
        port, self._port = self._port, None
        if port is None:
            return None
        closing: Deferred[None] | None = port.stopListening()
        return closing


class _Root(Resource):
    """Leads to the pages."""

    def getChild(self, path: bytes, request: Request) -> Any:
        """Nothing else is here."""
        return notFound() if path else self

    def getChildWithDefault(self, path: bytes, request: Request) -> Any:
        """Nobody goes further who came by another name."""
        if not _HOSTS.fullmatch(request.getHeader("host") or ""):
            return _Misdirected()
        return super().getChildWithDefault(path, request)

    def render_GET(self, request: Request) -> bytes:
        """Lead there."""
        return redirectTo(_ROOT, request)


class _Misdirected(Resource):
    isLeaf = True

    def render(self, request: Request) -> bytes:
        """Refuse (RFC 9110, 15.5.20)."""
        request.setResponseCode(421)
        request.setHeader("Content-Type", "text/plain; charset=utf-8")
        return b"tailproxy: this is localhost, and was asked for by another name\n"
