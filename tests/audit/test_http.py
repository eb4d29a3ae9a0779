"""Audit lines in POST requests."""

from __future__ import annotations

import pytest
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tailproxy.audit.delivery import CarrierError
from tailproxy.audit.http import HTTPCarrier


class Collector(Resource):
    """Takes lines."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.code = 200
        self.seen: list[tuple[bytes, dict[str, str]]] = []
        self.clients: set[int] = set()

    def render_POST(self, request) -> bytes:
        headers = request.requestHeaders
        self.seen.append(
            (
                request.content.read(),
                {
                    name: headers.getRawHeaders(name, [""])[0]
                    for name in ("content-type", "authorization", "user-agent")
                },
            )
        )
        self.clients.add(request.getClientAddress().port)
        request.setResponseCode(self.code)
        if self.code == 0:
            return NOT_DONE_YET
        return b"thank you"


@pytest.fixture
def collector() -> Collector:
    return Collector()


@pytest.fixture
def url(collector):
    site = Site(collector)
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    yield f"http://127.0.0.1:{port.getHost().port}/audit"
    port.stopListening()


@pytest.fixture
def carrier(url, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret-1\n")
    made = HTTPCarrier(reactor, url, token, None)
    yield made
    made.close()


async def until_closed(carrier) -> None:
    """Its kept connections are gone."""
    await carrier._pool.closeCachedConnections()


async def test_batches_are_posted_over_one_connection(carrier, collector, tmp_path):
    await carrier.carry(b'{"a": 1}\n')
    (tmp_path / "token").write_text("secret-2")
    await carrier.carry(b'{"a": 2}\n{"a": 3}\n')
    assert [body for body, _ in collector.seen] == [b'{"a": 1}\n', b'{"a": 2}\n{"a": 3}\n']
    kinds, tokens, agents = zip(*(seen.values() for _, seen in collector.seen), strict=True)
    assert kinds == ("application/x-ndjson",) * 2
    assert tokens == ("Bearer secret-1", "Bearer secret-2")
    assert agents[0].startswith("tailproxy/")
    assert len(collector.clients) == 1
    await until_closed(carrier)


@pytest.mark.parametrize(
    ("code", "hopeless"), [(400, True), (413, True), (401, False), (404, False), (503, False)]
)
async def test_other_answers_are_failures(carrier, collector, code, hopeless):
    collector.code = code
    with pytest.raises(CarrierError, match=f"the server answered with status {code}") as caught:
        await carrier.carry(b"{}\n")
    assert (caught.value.hopeless, caught.value.taken) == (hopeless, 0)
    await until_closed(carrier)


async def test_redirect_is_not_followed(carrier, collector):
    collector.code = 307
    with pytest.raises(CarrierError, match="status 307"):
        await carrier.carry(b"{}\n")
    assert len(collector.seen) == 1
    await until_closed(carrier)


async def test_nobody_there_is_a_failure():
    port = reactor.listenTCP(0, Site(Resource()), interface="127.0.0.1")
    url = f"http://127.0.0.1:{port.getHost().port}/"
    await port.stopListening()
    with pytest.raises(Exception, match="refused"):
        await HTTPCarrier(reactor, url, None, None).carry(b"{}\n")


async def test_token_that_cannot_be_read_sends_nothing(url, collector, tmp_path):
    carrier = HTTPCarrier(reactor, url, tmp_path / "nothing", None)
    with pytest.raises(FileNotFoundError):
        await carrier.carry(b"{}\n")
    assert collector.seen == []


def test_file_without_a_certificate_is_refused(tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_text("nothing")
    with pytest.raises(ValueError, match="no certificate"):
        HTTPCarrier(reactor, "https://x.example/", None, ca)
