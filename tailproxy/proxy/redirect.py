"""Port 80 of the tailnet addresses: a way to https, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.web.resource import Resource
from twisted.web.server import Site

if TYPE_CHECKING:
    from twisted.web.server import Request


class RedirectResource(Resource):
    """Answers everything with 308 to the same place under https.

    The method is kept (RFC 9110, 15.4.9), and nobody needs to be known for it.

    :param port: where https is served.
    """

    isLeaf = True

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = "" if port == 443 else f":{port}"

    def render(self, request: Request) -> bytes:
        """Point to https at the name the client used."""
        host = request.getRequestHostname().decode("ascii", "replace")
        if not request.uri.startswith(b"/"):
            request.setResponseCode(400)
            return b"tailproxy: the request target must be a path\n"
        if not host or not host.replace(".", "").replace("-", "").replace(":", "").isalnum():
            request.setResponseCode(400)
            return b"tailproxy: the request has no usable Host header\n"
        bracketed = f"[{host}]" if ":" in host else host
        request.setResponseCode(308)
        request.setHeader(b"location", f"https://{bracketed}{self._port}".encode() + request.uri)
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return b"tailproxy: use https\n"


def redirect_site(port: int) -> Site:
    """A factory for the listener on port 80.

    :param port: where https is served.
    """
    site = Site(RedirectResource(port), timeout=10)
    site.noisy = False
    site.displayTracebacks = False
    return site
