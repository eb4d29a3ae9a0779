"""The way from port 80 to https."""

from __future__ import annotations

import pytest
from twisted.internet import reactor

from tailproxy.proxy.redirect import redirect_site
from tests.proxy.servers import Wire, dial


@pytest.fixture
def ask(nothing_left):  # noqa: ARG001 - what it checks must come after our end
    """Send bytes to the redirect in front of a port, and return the answer."""
    ports = []

    async def go(data: bytes, port: int = 443) -> bytes:
        ports.append(reactor.listenTCP(0, redirect_site(port), interface="127.0.0.1"))
        wire: Wire = await dial(ports[-1].getHost().port)
        wire.send(data.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        return await wire.ends()

    yield go
    for port in ports:
        port.stopListening()


@pytest.mark.parametrize(
    ("host", "port", "location"),
    [
        (b"kube.corp-cat.ts.net", 443, b"https://kube.corp-cat.ts.net/x?y=%20;z"),
        (b"kube:80", 443, b"https://kube/x?y=%20;z"),
        (b"kube", 8443, b"https://kube:8443/x?y=%20;z"),
        (b"[fd7a::1]", 443, b"https://[fd7a::1]/x?y=%20;z"),
    ],
)
async def test_leads_to_the_same_place_under_https(ask, host, port, location):
    answer = await ask(b"GET /x?y=%%20;z HTTP/1.1\r\nHost: %b\r\n\r\n" % host, port)
    assert answer.startswith(b"HTTP/1.1 308 ")
    assert b"\r\nLocation: %b\r\n" % location in answer


async def test_keeps_the_method(ask):
    answer = await ask(b"POST /x HTTP/1.1\r\nHost: kube\r\nContent-Length: 2\r\n\r\nab")
    assert answer.startswith(b"HTTP/1.1 308 ")


@pytest.mark.parametrize(
    "data",
    [
        b"GET /x HTTP/1.1\r\nHost: kube/evil\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: user@evil\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: k\xc3\xbcbe\r\n\r\n",
        b"GET http://evil/x HTTP/1.1\r\nHost: kube\r\n\r\n",
    ],
    ids=["path", "user", "non-ascii", "absolute"],
)
async def test_leads_nowhere_else(ask, data):
    answer = await ask(data)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Location" not in answer
