"""What a request costs grows with its size and no faster, and not with a caller's groups."""

from __future__ import annotations

from functools import partial

import attrs
import pytest

from tailproxy.audit.access import JSONAccessLine
from tailproxy.policy.decide import Rules, decide
from tailproxy.policy.headers import outgoing_block
from tailproxy.policy.identity import identify
from tailproxy.wire import requestinfo
from tailproxy.wire.head import read_head
from tailproxy.wire.http1 import response_block
from tests.audit.records import record
from tests.policy.whois import ada, groups, user
from tests.work import assert_constant, assert_linear, work

HOST = (b"Host", b"kube")


def test_work_is_counted_and_a_square_is_seen():
    def square(size):
        return lambda: [number for number in range(size) for _ in range(size) if abs(number) < 0]

    assert work(lambda: None) < work(lambda: [abs(number) for number in range(10)])
    with pytest.raises(AssertionError):
        assert_linear(square, 10, 100)
    with pytest.raises(AssertionError):
        assert_constant(square, 10, 11)


def pods(size):
    return [(b"X-Pod-%d" % number, b"v" * 40) for number in range(size)]


def hop_by_hop(size):
    return [(b"TE", b"trailers"), (b"X-Forwarded-For", b"a"), (b"Keep-Alive", b"a")] * (size // 3)


def named_by_connection(size):
    names = [b"x-pod-%d" % number for number in range(size)]
    return [(b"Connection", b", ".join(names)), *pods(size // 2)]


def connections(size):
    return [(b"Connection", b"x-pod-%d" % number) for number in range(size)]


def upgrades(size):
    return [(b"Connection", b"upgrade"), (b"Upgrade", b"websocket, " * size + b"x")]


def subprotocols(size):
    token = b"base64url.bearer.authorization.k8s.io.QUJD, v4, "
    return [(b"Sec-WebSocket-Protocol", token * size)]


def impersonations(size):
    return [(b"Impersonate-Group", b"a")] * size


SHAPES = [
    pods,
    hop_by_hop,
    named_by_connection,
    connections,
    upgrades,
    subprotocols,
    impersonations,
]


def head_of(fields):
    return read_head(b"GET", b"/api/v1/pods", "1.1", [HOST, *fields])


@pytest.mark.parametrize("shape", SHAPES)
class TestHeaders:
    def test_reading_a_head(self, shape):
        assert_linear(lambda size: partial(head_of, shape(size)), 90, 900)

    def test_deciding(self, shape):
        identity = ada(groups("dev"))

        def make(size):
            return partial(decide, identity, head_of(shape(size)), Rules())

        assert_linear(make, 90, 900)

    @pytest.mark.parametrize("in_auth", [True, False])
    def test_writing_what_leaves(self, shape, in_auth):
        identity = ada(groups("dev")) if in_auth else None
        bearer = b"t" if in_auth else None

        def make(size):
            head = head_of(shape(size))
            return lambda: outgoing_block(
                head,
                identity=identity,
                host=b"h",
                client=b"100.64.0.5",
                bearer=bearer,
                request_id=b"1",
            )

        make(1)()  # what is kept of the identity
        assert_linear(make, 90, 900)

    def test_writing_an_answer(self, shape):
        assert_linear(lambda size: partial(response_block, shape(size)), 90, 900)


@pytest.mark.parametrize(
    "query",
    [
        b"watch=1&",
        b"fieldSelector=metadata.name%3Da&",
        b"a=%2F%2F&",
        b";&",
        b"&",
    ],
)
def test_reading_a_target_with_many_options(query):
    def make(size):
        return lambda: requestinfo.request_info(b"GET", b"/api/v1/pods?" + query * size)

    assert_linear(make, 900, 9000)


@pytest.mark.parametrize(
    "selector",
    [
        b"labelSelector=" + b"app%3Da%2C",
        b"fieldSelector=" + b"metadata.name%3Da%2C",
        b"fieldSelector=metadata.name%3D" + b"%5C%2C",
    ],
)
def test_reading_a_long_selector(selector):
    start, _, piece = selector.partition(b"=")

    def make(size):
        target = b"/api/v1/pods?%b=%b" % (start, piece * size)
        return lambda: requestinfo.request_info(b"GET", target)

    assert_linear(make, 1000, 10_000)


@pytest.mark.parametrize("segment", [b"/a", b"/..", b"//", b"/%2F"])
def test_reading_a_long_path(segment):
    def make(size):
        return lambda: requestinfo.request_info(b"GET", b"/api/v1" + segment * size)

    assert_linear(make, 1000, 10_000)


class TestGroups:
    """A thousand groups or rules are read once, when the answer of WhoIs is new."""

    @staticmethod
    def many(size):
        return ada(*(groups(f"group-{number}") for number in range(size)))

    def test_reading_rules(self):
        def make(size):
            answer = user("ada", *(groups(f"group-{number}") for number in range(size)))
            return lambda: identify(answer).impersonation_lines

        assert_linear(make, 100, 1000)

    def test_deciding_about_a_request(self):
        def make(size):
            identity = self.many(size)
            decide(identity, head_of([]), Rules())
            return partial(decide, identity, head_of([]), Rules())

        assert_constant(make, 10, 1000)

    def test_writing_what_leaves(self):
        def make(size):
            identity = self.many(size)
            write = partial(
                outgoing_block,
                identity=identity,
                host=b"h",
                client=b"100.64.0.5",
                bearer=b"t",
                request_id=b"1",
            )
            write(head_of([]))
            return partial(write, head_of([]))

        assert_constant(make, 10, 1000)

    def test_writing_the_access_line(self):
        def make(size):
            line = JSONAccessLine()
            answered = record(identity=self.many(size))
            line(answered, 0)
            return partial(line, attrs.evolve(answered), 0)

        assert_constant(make, 10, 1000)
