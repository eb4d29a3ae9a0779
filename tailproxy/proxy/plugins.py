"""Resources of plugins, below `/.tailproxy/NAME` on the tailnet listeners.

They are ordinary `twisted.web` resources: for them a request's body is read first, and a
`twisted.web.server.Request` is made that adapts to `IIdentity` and `ICaller`. Nobody gets here
unknown.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.server import Request as WebRequest
from twisted.web.server import Site as WebSite

from tailproxy.errors import ApiError
from tailproxy.interfaces import ICaller, IIdentity, ResponseHead
from tailproxy.policy.decide import CROSS_SITE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twisted.web.resource import IResource

    from tailproxy.proxy.request import Request
    from tailproxy.wire.http1 import Header

BODY_BYTES = 1024 * 1024
_ROOT = b"/.tailproxy"


class PluginsResource:
    """The root of all plugins on the tailnet listeners.

    :param resources: by name; the page that lists them has the empty one.
    """

    isLeaf = True

    def __init__(self, resources: Mapping[str, IResource]) -> None:
        root = Resource()
        below = Resource()
        root.putChild(b".tailproxy", below)
        for name, resource in resources.items():
            below.putChild(name.encode("ascii"), resource)
        self._site = WebSite(root)
        self._site.displayTracebacks = False
        self._names = frozenset(name.encode("ascii") for name in resources)

    def render(self, request: Request) -> int:
        """Read the body, then let the plugin answer."""
        name = request.head.path.split(b"/", 3)[2:3]
        if not self._names.issuperset(name or (b"",)):
            names = b", ".join(sorted(self._names - {b""})).decode("ascii")
            request.refuse(
                ApiError(404, "no-plugin", f"no plugin has this name; there are: {names}")
            )
        elif request.head.cross_site:
            request.refuse(ApiError(403, "cross-site", CROSS_SITE))
        elif request.upgrade is not None:
            request.refuse(
                ApiError(400, "plugin-upgrade", "nothing below /.tailproxy can be upgraded")
            )
        elif request.body is None:
            _render(self._site, request, b"")
        elif int(request.head.first(b"content-length") or 0) > BODY_BYTES:
            request.refuse(_too_large())
        else:
            if request.head.first(b"expect").lower() == b"100-continue":
                request.interim(ResponseHead(100, b"Continue", ()))
            request.body.deliver_to(_Spool(self._site, request))
        return NOT_DONE_YET


class _Spool:
    """Gathers a request's body."""

    def __init__(self, site: WebSite, request: Request) -> None:
        self._site = site
        self._request = request
        self._chunks: list[bytes] = []
        self._size = 0

    def body_data(self, chunks: Sequence[bytes]) -> None:
        self._size += sum(map(len, chunks))
        if self._size > BODY_BYTES:
            self._chunks = []
            self._request.refuse(_too_large())
        else:
            self._chunks += chunks

    def body_end(self, trailers: Sequence[Header]) -> None:
        if not self._request.gone:
            _render(self._site, self._request, b"".join(self._chunks))


def _too_large() -> ApiError:
    return ApiError(413, "plugin-body", f"the body is larger than {BODY_BYTES} bytes")


def _render(site: WebSite, request: Request, body: bytes) -> None:
    channel = _PluginChannel(site, request)
    web: Any = WebRequest(channel)
    request.handle_by(channel)
    channel.request = web
    web.content = BytesIO(body)
    web.content.seek(0, 2)  # where it stands says whether there is a form to read
    web.requestHeaders = Headers()
    for name, value in request.head.headers:
        web.requestHeaders.addRawHeader(name, value)
    web.setComponent(IIdentity, request.identity)
    web.setComponent(ICaller, request.caller)
    target = request.target
    if request.head.path == _ROOT:
        target = b"%b/%b" % (_ROOT, target[len(_ROOT) :])
    # As HTTP/1.0, so that the framing of the answer is left to us.
    web.requestReceived(request.method, target, b"HTTP/1.0")


class _PluginChannel:
    """What a `twisted.web.server.Request` expects of its channel."""

    long_running = False

    def __init__(self, site: WebSite, request: Request) -> None:
        self.site = site
        self.transport = self
        self.factory = None
        self.request: Any = None
        self._request = request

    # The answer.

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        fields = headers.getAllRawHeaders() if isinstance(headers, Headers) else headers
        flat = [(name, value) for name, values in fields for value in values]
        self._request.start(ResponseHead(int(code), reason, [*flat, self._request.id_header]))

    def write(self, data: bytes) -> None:
        self._request.write((data,))
        self._request.flush()

    def writeSequence(self, parts: Sequence[bytes]) -> None:
        self._request.write(parts)
        self._request.flush()

    def requestDone(self, request: WebRequest) -> None:
        if not self._request.gone:
            self._request.finish()

    def loseConnection(self) -> None:
        self._request.abort()

    abortConnection = loseConnection

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._request.register_producer(producer, streaming=streaming)

    def unregisterProducer(self) -> None:
        self._request.unregister_producer()

    def _respondToBadRequestAndDisconnect(self) -> None:
        # What Twisted calls when it cannot read a form.
        self._request.refuse(ApiError(400, "plugin-form", "the form in the body is malformed"))

    # Who is there.

    def getPeer(self) -> IPv4Address | IPv6Address:
        caller = self._request.caller
        kind = IPv6Address if caller.address.version == 6 else IPv4Address
        return kind("TCP", str(caller.address), caller.port)

    def getHost(self) -> IPv4Address | IPv6Address:
        # Address and port as the client used them, since URLs are made of them: behind serve,
        # our socket's port is not the one that clients dial.
        _, colon, port = self._request.head.first(b"host").rpartition(b":")
        ours: IPv4Address | IPv6Address = self._request.local_address
        return type(ours)("TCP", ours.host, int(port) if colon and port.isdigit() else 443)

    def isSecure(self) -> bool:
        # Clients always come over TLS; who ended it, tailscaled or we, makes no difference.
        return True

    # What becomes of the client.

    def client_lost(self) -> None:
        self.request.connectionLost(Failure(ConnectionLost()))

    def drain(self) -> None:
        """A plugin's answer has an end of its own."""
