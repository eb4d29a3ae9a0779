"""Networks cut streams anywhere; what is understood must not depend on it.

The real channel, forwarding and upstream connection here stand between transports in memory.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from zope.interface import implementer

from tailproxy.interfaces import DrainTimes, IUpstream
from tailproxy.metrics import Metrics
from tailproxy.policy.decide import Rules
from tailproxy.policy.identity import Caller
from tailproxy.proxy.channel import HTTPChannel
from tailproxy.proxy.connection import UpstreamConnection
from tailproxy.proxy.exchange import Exchange
from tailproxy.proxy.plugins import PluginsResource
from tailproxy.proxy.reverse import ReverseProxyResource
from tailproxy.proxy.site import Site
from tailproxy.proxy.upstream import PoolLimits
from tailproxy.proxy.whois import WhoIsResource
from tests.proxy.plane import ADA, Audit, Table
from tests.proxy.recorder import FakeRequestEvents, FakeSessionRecorder

HOST = b"Host: kube\r\n"
ID = re.compile(rb"Audit-I[Dd]: [0-9a-f]{32}\r\n")
REQUESTS = {
    "GET": b"GET /api/v1/pods?x=1 HTTP/1.1\r\n"
    + HOST
    + b"X-Empty:\r\nAccept: a\r\naccept: b\r\n\r\n",
    "HEAD": b"HEAD /x HTTP/1.1\r\n" + HOST + b"\r\n",
    "length": b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 11\r\n\r\nhello\r\n\r\n.!",
    "chunks": (
        b"PUT /x HTTP/1.1\r\n" + HOST + b"TE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\nA;ext=1\r\n, my world\r\n0\r\nX-Sum: 15\r\nX-More: \r\n\r\n"
    ),
    "upgrade": (
        b"GET /api/v1/namespaces/d/pods/p/exec HTTP/1.1\r\n"
        + HOST
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    ),
}
ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nX-A: b\r\nx-a: c\r\n\r\nhello world!",
    "chunks": (
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        b"7;x\r\n world!\r\n0\r\nX-Sum: 12\r\n\r\n"
    ),
    "none": b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
    "head": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
    "hints": (
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    ),
    "refusal": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
    "switch": b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfrom the server",
}
CONVERSATION = [
    ("GET", "length"),
    ("length", "none"),
    ("chunks", "chunks"),
    ("HEAD", "head"),
    ("GET", "hints"),
    ("upgrade", "refusal"),
    ("chunks", "length"),
    ("upgrade", "switch"),
]
SIZES = st.lists(st.integers(1, 90), max_size=300)


class Anybody:
    """Verifies nothing: these tests are not about that."""

    def verify_name(self, connection: object) -> None: ...


@implementer(IUpstream)
class Upstream:
    """One connection in memory, used for everything."""

    host = b"api"
    prefix = b""
    limits = PoolLimits()

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.transport = StringTransport()
        self.connection = UpstreamConnection(
            None, Anybody(), lambda _: None, lambda _: None, lambda _: None
        )
        self.connection.makeConnection(self.transport)
        self.released = 0

    def bearer(self) -> bytes:
        return b"our-token"

    def send(self, request, receiver) -> Exchange:
        exchange = Exchange(self, request, receiver)
        exchange.connected(self.connection)
        return exchange

    def release(self, connection: UpstreamConnection, *, reusable: bool) -> None:
        assert reusable
        self.released += 1


class Between:
    """A channel and its way to the API server, between two transports."""

    def __init__(self) -> None:
        clock = Clock()
        metrics = Metrics("test")
        self.audit = Audit()
        self.upstream = Upstream(clock)
        proxy = ReverseProxyResource(
            self.upstream, FakeSessionRecorder(), FakeRequestEvents(), Rules(), metrics, clock
        )
        root = WhoIsResource(Table(), proxy, PluginsResource({}))
        site = Site(root, self.audit, metrics, clock, DrainTimes(1, 1))
        self.channel = HTTPChannel(site, Caller(ip_address(ADA), 1), "test")
        self.client = StringTransport()
        self.channel.makeConnection(self.client)

    def exchange(self, request: list[bytes], answer: list[bytes]) -> tuple[bytes, bytes]:
        """What went up and came down for this; but for the request's ID, always another."""
        for piece in request:
            self.channel.dataReceived(piece)
        for piece in answer:
            self.upstream.connection.dataReceived(piece)
        up, down = self.upstream.transport.value(), self.client.value()
        self.upstream.transport.clear()
        self.client.clear()
        return ID.sub(b"Audit-ID: 1\r\n", up), ID.sub(b"Audit-Id: 1\r\n", down)


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    cut = []
    while data and sizes:
        size = sizes.pop()
        cut.append(data[:size])
        data = data[size:]
    return [*cut, data] if data else cut


def whole(message: bytes) -> bytes:
    """A message whose chunks, if any, are made one: their borders are nobody's business."""
    head, end, rest = message.partition(b"\r\n\r\n")
    body = b""
    while b"\r\nTransfer-Encoding: chunked" in head:
        line, _, rest = rest.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            return head + end + b"%x\r\n%b\r\n0\r\n" % (len(body), body) + rest
        body += rest[:size]
        rest = rest[size + 2 :]
    return message


EXPECTED = [
    tuple(map(whole, pair))
    for between in [Between()]
    for pair in [
        between.exchange([REQUESTS[request]], [ANSWERS[answer]]) for request, answer in CONVERSATION
    ]
]


def test_uncut_conversation_is_the_one_we_mean():
    """What the others are compared with."""
    ups, downs = zip(*EXPECTED, strict=True)
    assert ups[0].startswith(b"GET /api/v1/pods?x=1 HTTP/1.1\r\nHost: api\r\nX-Empty: \r\n")
    assert b"\r\nAccept: a\r\naccept: b\r\n" in ups[0]
    assert ups[1].endswith(b"\r\n\r\nhello\r\n\r\n.!")
    assert ups[2].endswith(b"\r\n\r\nf\r\nhello, my world\r\n0\r\nX-Sum: 15\r\nX-More: \r\n\r\n")
    assert downs[0] == ANSWERS["length"]
    assert downs[2].endswith(b"\r\n\r\nc\r\nhello world!\r\n0\r\nX-Sum: 12\r\n\r\n")
    assert downs[4] == ANSWERS["hints"]
    assert downs[5] == ANSWERS["refusal"]
    assert downs[7] == ANSWERS["switch"]


@settings(max_examples=300, deadline=None)
@given(up=SIZES, down=SIZES)
def test_conversation_is_the_same_however_it_is_cut(up, down):
    between = Between()
    seen = []
    for request, answer in CONVERSATION:
        pair = between.exchange(pieces(REQUESTS[request], up), pieces(ANSWERS[answer], down))
        seen.append(tuple(map(whole, pair)))
    assert seen == EXPECTED
    assert between.upstream.released == len(CONVERSATION) - 1
    assert len(between.audit.records) == len(CONVERSATION) - 1
    between.channel.dataReceived(b"up")
    between.upstream.connection.dataReceived(b"down")
    assert between.upstream.transport.value() == b"up"
    assert between.client.value() == b"down"


@pytest.mark.parametrize("request_", REQUESTS)
def test_request_may_be_cut_at_every_single_place(request_):
    data = REQUESTS[request_]
    expected = Between().exchange([data], [])[0]
    for place in range(1, len(data)):
        up, _ = Between().exchange([data[:place], data[place:]], [])
        assert whole(up) == whole(expected)


@pytest.mark.parametrize("answer", ANSWERS)
def test_answer_may_be_cut_at_every_single_place(answer):
    request = REQUESTS[{"head": "HEAD", "switch": "upgrade"}.get(answer, "GET")]
    data = ANSWERS[answer]
    expected = Between().exchange([request], [data])[1]
    for place in range(1, len(data)):
        _, down = Between().exchange([request], [data[:place], data[place:]])
        assert whole(down) == whole(expected)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), sizes=SIZES)
def test_garbage_goes_nowhere_and_raises_nothing(data, sizes):
    between = Between()
    up, _ = between.exchange(pieces(data, sizes), [])
    assert up == b""


@settings(max_examples=500, deadline=None)
@given(
    request=st.sampled_from(sorted(REQUESTS)),
    place=st.integers(0, 200),
    junk=st.sampled_from(
        [b"\r", b"\n", b"\0", b" ", b"\t", b":", b"\r\n", b"\r\n ", b"0", b"\xff"]
    ),
    sizes=SIZES,
)
def test_request_with_something_slipped_in_is_read_alike_however_it_is_cut(
    request, place, junk, sizes
):
    data = REQUESTS[request]
    data = data[:place] + junk + data[place:]
    at_once, in_pieces = Between(), Between()
    up, down = at_once.exchange([data], [])
    cut_up, cut_down = in_pieces.exchange(pieces(data, sizes), [])
    assert cut_down[:13] == down[:13]  # the code; how far the target was read decides the text
    if down:  # refused: nothing that could pass for a whole request has gone up
        assert up == b""
        assert cut_up == b"" or in_pieces.upstream.transport.disconnecting
    elif at_once.channel._request is not None and at_once.channel._request.complete:
        assert whole(cut_up) == whole(up)
