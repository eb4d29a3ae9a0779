"""Questions at a socket, against a server that says exactly what a test tells it to."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.protocol import Factory, Protocol

from tailproxy.tailnet.bodies import LineStream
from tailproxy.tailnet.client import Answer, Client, Unanswered

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
LIMIT = 1000


class Server(Factory):
    """Answers each question with the next of its replies, or says nothing.

    :ivar replies: bytes, or a function of the connection.
    :ivar asked: what came, one entry for each read.
    :ivar connections: all that were accepted.
    """

    def __init__(self):
        self.replies = []
        self.asked = []
        self.connections = []
        self._waiting = []

    def buildProtocol(self, addr):
        connection = Talk(self)
        self.connections.append(connection)
        return connection

    def asks(self, count):
        """Fires when so many questions have come."""
        if len(self.asked) >= count:
            return succeed(None)
        waiter = Deferred()
        self._waiting.append((count, waiter))
        return waiter

    def heard(self, connection, data):
        self.asked.append(data)
        if self.replies:
            reply = self.replies.pop(0)
            if callable(reply):
                reply(connection)
            else:
                connection.transport.write(reply)
        waiting, self._waiting = self._waiting, []
        for count, waiter in waiting:
            if len(self.asked) >= count:
                waiter.callback(None)
            else:
                self._waiting.append((count, waiter))


class Talk(Protocol):
    def __init__(self, server):
        self.server = server
        self.gone = Deferred()

    def dataReceived(self, data):
        self.server.heard(self, data)

    def connectionLost(self, reason):
        self.gone.callback(None)


def hang_up(connection):
    connection.transport.loseConnection()


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def client(tmp_path, server):
    path = str(tmp_path / "s.sock")
    port = reactor.listenUNIX(path, server)
    made = Client(reactor, path, at_once=2, limit=LIMIT)
    yield made
    pytest_twisted.blockon(made.close())
    for connection in server.connections:
        connection.transport.abortConnection()
    pytest_twisted.blockon(port.stopListening())


async def failure_of(deferred):
    with pytest.raises(Unanswered) as caught:
        await deferred
    return str(caught.value)


class TestAnswers:
    @pytest.mark.parametrize(
        ("reply", "answer"),
        [
            (HELLO, Answer(200, {}, b"hello")),
            (
                b"HTTP/1.1 204 No Content\r\nETag: e\r\nX: y\r\n\r\n",
                Answer(204, {b"etag": "e"}, b""),
            ),
            (
                b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
                Answer(404, {}, b"no"),
            ),
            (b"HTTP/1.1 103 Hints\r\nX: y\r\n\r\n" + HELLO, Answer(200, {}, b"hello")),
        ],
    )
    @pytest_twisted.ensureDeferred
    async def test_an_answer_is_whole_whatever_its_framing(self, client, server, reply, answer):
        server.replies = [reply, HELLO]
        assert await client.ask(GET) == answer
        assert (await client.ask(GET)).body == b"hello"
        assert len(server.connections) == 1
        assert server.asked == [GET, GET]

    @pytest_twisted.ensureDeferred
    async def test_it_may_come_in_pieces(self, client, server):
        pending = client.ask(GET)
        await server.asks(1)
        for number in range(len(HELLO)):
            assert not pending.called
            server.connections[0].transport.write(HELLO[number : number + 1])
            await settled()
        assert (await pending).body == b"hello"

    @pytest_twisted.ensureDeferred
    async def test_a_body_may_end_with_the_connection(self, client, server):
        def say_and_go(connection):
            connection.transport.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
            hang_up(connection)

        server.replies = [say_and_go]
        assert (await client.ask(GET)).body == b"hello"

    @pytest_twisted.ensureDeferred
    async def test_one_that_is_cut_short_is_none(self, client, server):
        def say_and_go(connection):
            connection.transport.write(HELLO[:-1])
            hang_up(connection)

        server.replies = [say_and_go]
        assert await failure_of(client.ask(GET))

    @pytest.mark.parametrize(
        ("reply", "why"),
        [
            (b"SSH-2.0\r\n", "malformed"),
            (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, "too long"),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"y" * 1001,
                "more than 1000 bytes",
            ),
        ],
    )
    @pytest_twisted.ensureDeferred
    async def test_one_that_cannot_be_read_ends_the_connection(self, client, server, reply, why):
        server.replies = [reply, HELLO]
        assert why in await failure_of(client.ask(GET))
        await server.connections[0].gone
        assert (await client.ask(GET)).body == b"hello"


async def settled():
    """Let everything arrive that was written."""
    for _ in range(2):
        waiter = Deferred()
        reactor.callLater(0, waiter.callback, None)
        await waiter


class TestConnections:
    @pytest.mark.parametrize(
        "reply", [HELLO + HELLO, HELLO.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")]
    )
    @pytest_twisted.ensureDeferred
    async def test_one_that_said_more_or_goodbye_is_not_kept(self, client, server, reply):
        server.replies = [reply, HELLO]
        assert (await client.ask(GET)).body == b"hello"
        assert (await client.ask(GET)).body == b"hello"
        assert len(server.connections) == 2

    @pytest_twisted.ensureDeferred
    async def test_one_that_speaks_unasked_is_closed(self, client, server):
        server.replies = [HELLO, HELLO]
        await client.ask(GET)
        server.connections[0].transport.write(HELLO)
        await server.connections[0].gone
        assert (await client.ask(GET)).body == b"hello"
        assert len(server.connections) == 2

    @pytest_twisted.ensureDeferred
    async def test_a_question_is_repeated_once_where_a_kept_one_turns_out_to_be_closed(
        self, client, server
    ):
        server.replies = [HELLO, hang_up, HELLO]
        await client.ask(GET)
        assert (await client.ask(GET)).body == b"hello"
        assert len(server.connections) == 2
        server.replies = [hang_up, hang_up]
        assert await failure_of(client.ask(GET))
        assert len(server.asked) == 5

    @pytest_twisted.ensureDeferred
    async def test_what_changes_something_is_not_repeated(self, client, server):
        server.replies = [HELLO, hang_up]
        await client.ask(GET)
        assert await failure_of(client.ask(POST))
        assert server.asked == [GET, POST]

    @pytest_twisted.ensureDeferred
    async def test_a_question_is_not_repeated_once_there_was_an_answer(self, client, server):
        def begin_and_go(connection):
            connection.transport.write(b"HTTP/1.1 2")
            hang_up(connection)

        server.replies = [HELLO, begin_and_go]
        await client.ask(GET)
        assert await failure_of(client.ask(GET))
        assert len(server.asked) == 2

    @pytest_twisted.ensureDeferred
    async def test_a_long_question_goes_out_whole(self, client, server):
        body = b"x" * (4 << 20)
        request = b"POST /x HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        pending = client.ask(request)
        while sum(map(len, server.asked)) < len(request):
            await server.asks(len(server.asked) + 1)
        assert b"".join(server.asked) == request
        server.connections[0].transport.write(HELLO)
        assert (await pending).body == b"hello"

    @pytest_twisted.ensureDeferred
    async def test_those_in_excess_wait_and_may_leave(self, client, server):
        pending = [client.ask(GET) for _ in range(5)]
        await server.asks(2)
        pending[3].cancel()
        with pytest.raises(CancelledError):
            await pending[3]
        server.replies = [HELLO]
        pending[0].cancel()
        with pytest.raises(CancelledError):
            await pending[0]
        await server.connections[0].gone
        assert (await pending[2]).body == b"hello"
        server.replies = [HELLO] * 2
        server.connections[1].transport.write(HELLO)
        assert (await pending[1]).body == b"hello"
        assert (await pending[4]).body == b"hello"
        assert len(server.asked) == 4

    @pytest_twisted.ensureDeferred
    async def test_one_given_up_while_it_connects_frees_its_turn(self, client, server):
        pending = [client.ask(GET) for _ in range(2)]
        for each in pending:
            each.cancel()
            with pytest.raises(CancelledError):
                await each
        server.replies = [HELLO]
        assert (await client.ask(GET)).body == b"hello"

    @pytest_twisted.ensureDeferred
    async def test_what_takes_long_takes_no_turn_and_is_not_kept(self, client, server):
        slow = [client.ask(GET, slow=True) for _ in range(3)]
        await server.asks(3)
        server.replies = [HELLO]
        assert (await client.ask(GET)).body == b"hello"
        for connection in server.connections[:3]:
            connection.transport.write(HELLO)
        for each in slow:
            assert (await each).body == b"hello"
        for connection in server.connections[:3]:
            await connection.gone


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class TestLines:
    @pytest_twisted.ensureDeferred
    async def test_lines_behind_the_head_are_not_lost(self, client, server):
        server.replies = [HEAD + b"6\r\na\nb\ncd\r\n"]
        stream = await client.follow(GET, 10)
        assert isinstance(stream, LineStream)
        lines = []
        ended = stream.follow(lines.append)
        server.connections[0].transport.write(b"3\r\ne\nf\r\n0\r\n\r\n")
        assert "ended the stream" in await ended
        assert lines == [b"a", b"b", b"cde"]

    @pytest_twisted.ensureDeferred
    async def test_a_refusal_is_an_answer(self, client, server):
        server.replies = [HELLO.replace(b"200 OK", b"400 Bad")]
        assert await client.follow(GET, 10) == Answer(400, {}, b"hello")

    @pytest_twisted.ensureDeferred
    async def test_a_stream_that_ends_before_anybody_follows_says_so_then(self, client, server):
        server.replies = [HEAD + b"0\r\n\r\n"]
        stream = await client.follow(GET, 10)
        await server.connections[0].gone
        await settled()
        assert "ended the stream" in await stream.follow(print)


def test_a_line_in_many_pieces_is_put_together_once():
    joined = []

    class Piece(bytes):
        def __contains__(self, other):
            joined.append(len(self))
            return super().__contains__(other)

    stream = LineStream(lambda: None, 100_000)
    lines = []
    stream.follow(lines.append)
    joined.clear()
    for _ in range(1000):
        stream.receive(Piece(b"x" * 50))
    stream.receive(b"\n")
    assert lines == [b"x" * 50_000]
    assert sum(joined) == 50_000  # each byte is looked at once
