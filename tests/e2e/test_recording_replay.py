"""A recording plays to what its user saw: to the byte, to the cell, much of it, many at once."""

from __future__ import annotations

import base64
import codecs
import hashlib
import itertools
import json
import queue
import secrets
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pyte
import pytest

from tailproxy.wire.cast import read_cast
from tests.e2e.client import ask, connect
from tests.e2e.spy import serve
from tests.lab.operations import Scene
from tests.wire.encoders import SpdyWriter, WebSocketWriter, cut

MIB = 1 << 20
STATUS = b'{"metadata":{},"status":"Success"}'
PIECES = [
    *(
        "plain words ",
        "\r\n",
        "\t",
        "äöü ß ",
        "日本語",
        "🙂",
        "e\u0301",
        "\x1b[2J\x1b[H",
        "\x1b[K",
        "\b",
    ),
    *("\x1b[1;31m", "\x1b[0m", "\x1b[38;5;208m", "\x1b[%d;%dH", "\x1b[%dA", "\x1b[%dC", "\x1b[%dP"),
    *(
        "\x1b[%dL",
        "\x1b7",
        "\x1b8",
        "\x1b[3;9r",
        "\x1b[?7l",
        "\x1b[?7h",
        "\x1bM",
        "\x1b]0;title\x07",
    ),
    *('"\\', "\x00", "\u2028", "<&>"),
]


def drawn(random: Random) -> bytes:
    """What a program may draw; now and then something that is no UTF-8."""
    text = "".join(random.choices(PIECES, k=random.randint(1, 40)))
    while "%d" in text:
        text = text.replace("%d", str(random.randint(1, 60)), 1)
    data = text.encode()
    return data + random.randbytes(3) if random.random() < 0.1 else data


class Spdy:
    """A session over SPDY: what its two sides write."""

    name = "SPDY/3.1"

    def __init__(self, random: Random, terminal: bool) -> None:
        self._client, self._server = SpdyWriter(), SpdyWriter()
        kinds = ("error", "stdout", "resize") if terminal else ("error", "stdout", "stderr")
        self._streams = {kind: 2 * at + 1 for at, kind in enumerate(kinds)}
        self.hello = self._client.open_all(*kinds)
        self.welcome = b"".join(self._server.reply(each) for each in self._streams.values())
        self.request = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        self.request += "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n"
        self.answer = self.request
        self._random = random

    def size(self, columns: int, rows: int) -> bytes:
        size = b'{"Width":%d,"Height":%d}\n' % (columns, rows)
        return self._client.data(self._streams["resize"], size)

    def output(self, kind: str, data: bytes) -> bytes:
        """Frames that cut the output anywhere."""
        pieces = cut(data, *self._random.choices(range(len(data)), k=3))
        return b"".join(
            self._server.data(self._streams[kind], piece)
            + (self._server.ping(2) if self._random.random() < 0.1 else b"")
            for piece in pieces
        )

    def end(self) -> bytes:
        return self._server.data(1, STATUS, last=True) + self._server.goaway(5)


class WebSocket:
    """A session over WebSocket: what its two sides write."""

    name = "websocket"

    def __init__(self, random: Random, terminal: bool) -> None:
        self._client, self._server = WebSocketWriter(client=True), WebSocketWriter(client=False)
        versions = ("v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io")
        version = random.choice(versions)
        self._base64 = "base64" in version
        self.hello = b""
        self.welcome = self._server.text("1") if self._base64 else self._server.binary(b"\x01")
        self.request = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        self.request += f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n"
        self.request += f"Sec-WebSocket-Protocol: {version}\r\n"
        self.answer = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        self.answer += f"Sec-WebSocket-Protocol: {version}\r\n"
        self._random = random

    def size(self, columns: int, rows: int) -> bytes:
        return self._message(self._client, 4, b'{"Width":%d,"Height":%d}' % (columns, rows))

    def output(self, kind: str, data: bytes) -> bytes:
        """Messages, of which some come in fragments with something between them."""
        pieces = cut(data, *self._random.choices(range(len(data)), k=3))
        channel = {"stdout": 1, "stderr": 2}[kind]
        return b"".join(self._message(self._server, channel, piece) for piece in pieces)

    def end(self) -> bytes:
        return self._message(self._server, 3, STATUS) + self._server.close()

    def _message(self, writer: WebSocketWriter, channel: int, data: bytes) -> bytes:
        if self._base64:
            return writer.text(f"{channel}{base64.b64encode(data).decode()}")
        whole = bytes([channel]) + data
        if self._random.random() < 0.7:
            return writer.binary(whole)
        at = self._random.randint(0, len(whole))
        between = writer.ping(b"?") if self._random.random() < 0.5 else b""
        return writer.binary(whole[:at], last=False) + between + writer.binary(whole[at:])


class Stage:
    """A tailproxy before an API server that the test plays, and where its sessions arrive."""

    def __init__(self, lab, played, address: str) -> None:
        self._lab, self._address = lab, address
        self.service, listening, context = played
        self._arrived: queue.Queue[tuple[ssl.SSLSocket, threading.Event]] = queue.Queue()

        def answer(tls: ssl.SSLSocket, _: int) -> None:
            done = threading.Event()
            self._arrived.put((tls, done))
            done.wait(600)

        serve(listening, context, b"/exec?", answer)

    def begin(self, session: Spdy | WebSocket, terminal: bool) -> Played:
        """Begin a session, one at a time."""
        client = connect(self._lab, self.service, self._address)
        target = "/api/v1/namespaces/d/pods/p/exec?command=x&stdout=true"
        target += "&tty=true" if terminal else "&stderr=true"
        method = "POST" if isinstance(session, Spdy) else "GET"
        client.sendall(f"{method} {target} HTTP/1.1\r\nHost: k\r\n{session.request}\r\n".encode())
        server, done = self._arrived.get(timeout=30)
        server.sendall(f"HTTP/1.1 101 Switching Protocols\r\n{session.answer}\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        return Played(client, server, done)


class Played:
    """Both ends of a session."""

    def __init__(self, client: socket.socket, server: ssl.SSLSocket, done: threading.Event) -> None:
        self.client, self.server, self._done = client, server, done

    def up(self, data: bytes) -> None:
        """Send from the client, and wait until it has arrived."""
        self.client.sendall(data)
        self._arrives(self.server, data)

    def down(self, data: bytes, *places: int) -> None:
        """Send from the server in pieces, and wait until it has arrived."""
        for piece in cut(data, *places):
            self.server.sendall(piece)
        self._arrives(self.client, data)

    @staticmethod
    def _arrives(sock: socket.socket, data: bytes) -> None:
        got = b""
        while len(got) < len(data):
            part = sock.recv(len(data) - len(got))
            assert part, f"ended after {len(got)} of {len(data)} bytes"
            got += part
        assert got == data

    def close(self) -> None:
        self.client.close()
        self.server.close()
        self._done.set()


@pytest.fixture
def stage(lab, played, demand, recorder):
    address = demand(recorder.address)
    deadline = time.monotonic() + 5
    while not ask(lab, played[0], address, "/.tailproxy/whoami").json["rules"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return Stage(lab, played, address)


def screen_of(steps: list) -> list:
    """All that is on a screen in the end, with colours, and where its cursor is.

    :param steps: text, and sizes as pairs; those before any text are how the screen begins.
    """
    sizes = list(itertools.takewhile(lambda step: not isinstance(step, str), steps))
    screen = pyte.Screen(*(sizes[-1] if sizes else (80, 24)))
    shown = pyte.Stream(screen)
    for step in steps[len(sizes) :]:
        if isinstance(step, str):
            shown.feed(step)
        else:
            columns, rows = step
            screen.resize(rows, columns)
    rows = [[screen.buffer[y][x] for x in range(screen.columns)] for y in range(screen.lines)]
    return [rows, screen.cursor.x, screen.cursor.y]


def perform(stage: Stage, random: Random, kind: type[Spdy | WebSocket]) -> list:
    """A random session: what its client could read, and the sizes it had."""
    terminal = random.random() < 0.75
    session = kind(random, terminal)
    played = stage.begin(session, terminal)
    new_decoder = codecs.getincrementaldecoder("utf-8")
    decoders = {name: new_decoder("replace") for name in ("stdout", "stderr")}
    steps: list = []
    try:
        played.up(session.hello)
        played.down(session.welcome)
        plan = ["size"] if terminal and random.random() < 0.9 else []
        may = ["output"] * 4 + ["size"] * bool(plan)
        for step in [*plan, *random.choices(may, k=random.randint(1, 12))]:
            if step == "size":
                steps.append((random.randint(20, 150), random.randint(12, 50)))
                played.up(session.size(*steps[-1]))
                continue
            name = "stdout" if terminal else random.choice(("stdout", "stderr"))
            data = drawn(random)
            at = random.randint(1, len(data))  # in the middle of whatever it is
            for piece in filter(None, (data[:at], data[at:])):
                frames = session.output(name, piece)
                played.down(frames, *random.choices(range(len(frames)), k=random.choice((0, 4))))
                steps.append(decoders[name].decode(piece))
        steps += [decoder.decode(b"", final=True) for decoder in decoders.values()]
        played.down(session.end())
    finally:
        played.close()
    return [step for step in steps if step]


def replay(recording) -> list:
    """What a player is told to show, and its sizes."""
    header, events = read_cast(bytes(recording.data).splitlines(keepends=True))
    steps: list = [(header.width, header.height)] if header.width else []
    for event in events:
        if event.code == "o":
            steps.append(event.data)
        elif event.code == "r":
            columns, _, rows = event.data.partition("x")
            steps.append((int(columns), int(rows)))
    return steps


def merged(steps: list) -> list:
    """The steps with neighbouring texts as one: pyte takes notice where a text is cut."""
    result: list = []
    for step in steps:
        if isinstance(step, str) and result and isinstance(result[-1], str):
            result[-1] += step
        elif not result or result[-1] != step:
            result.append(step)
    return result


def text_of(steps: list) -> str:
    return "".join(step for step in steps if isinstance(step, str))


@pytest.mark.timeout(900)
def test_a_recording_replays_to_what_the_client_was_shown(stage, recorder, soak):
    seed, count = secrets.randbits(32), 500 if soak else 20
    print(f"seed {seed}, {count} sessions")
    for number in range(count):
        random = Random(f"{seed} {number}")
        steps = perform(stage, random, (Spdy, WebSocket)[number % 2])
        recorder.wait(
            lambda seen, at=number: len(seen.recordings) > at and seen.recordings[at].whole
        )
        steps, again = merged(steps), merged(replay(recorder.recordings[number]))
        assert text_of(again) == text_of(steps), f"seed {seed}, session {number}"
        assert screen_of(again) == screen_of(steps), f"seed {seed}, session {number}"


@pytest.mark.timeout(900)
def test_many_sessions_at_once_are_recorded_without_loss(stage, recorder, soak):
    """50 of them, in full at 1 MiB/s each for 10 s."""
    count, pieces = 50, 160 if soak else 4
    line = b"0123456789abcde\n" * 4096  # 64 KiB
    sessions = []
    for number in range(count):
        kind = (Spdy, WebSocket)[number % 2](Random(number), False)
        sessions.append((kind, stage.begin(kind, False)))

    def run(number: int) -> None:
        session, played = sessions[number]
        played.up(session.hello)
        played.down(session.welcome)
        started = time.monotonic()
        for piece in range(pieces):
            played.down(session.output("stdout", b"%07d %07d\n" % (number, piece) + line))
            time.sleep(max(0, started + piece / 16 - time.monotonic()) if soak else 0)
        played.down(session.end())
        played.close()

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(run, range(count)))
    recorder.wait(lambda seen: sum(each.whole for each in seen.recordings) == count, 60)
    numbers = set()
    for recording in recorder.recordings:
        text = "".join(each[2] for each in recording.lines[1:] if each[1] == "o").encode()
        number = int(text[:7])
        numbers.add(number)
        expected = b"".join(b"%07d %07d\n" % (number, piece) + line for piece in range(pieces))
        assert text == expected
    assert numbers == set(range(count))


def output_sum(data: bytearray) -> str:
    """The checksum of what was shown, read line by line."""
    digest = hashlib.sha256()
    for line in bytes(data).splitlines()[1:]:
        event = json.loads(line)
        if event[1] == "o":
            digest.update(event[2].encode())
    return digest.hexdigest()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", ["1.27", "1.36"])
def test_much_goes_in_and_out_with_equal_checksums(lab, demand, recorder, tmp_path, soak, version):
    size = (256 if soak else 8) * MIB
    data = secrets.token_hex(size // 2).encode()
    demand(recorder.address)
    scene = Scene.of(lab, "alice", tmp_path, version=version)
    # The pause is for kwok, which ends a session as soon as its command has.
    command = f"head -c {size}; sleep 1"
    done = scene.kubectl.run(
        "exec", "-i", scene.pod, "--", "sh", "-c", command, stdin=data, timeout=600
    )
    assert done.returncode == 0, done.stderr
    wanted = hashlib.sha256(data).hexdigest()
    assert hashlib.sha256(done.stdout).hexdigest() == wanted
    recorder.wait(lambda seen: any(each.whole for each in seen.recordings), 60)
    (recording,) = recorder.recordings
    assert output_sum(recording.data) == wanted
