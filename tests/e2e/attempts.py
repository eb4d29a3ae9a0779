"""Attempts to run a command, each in another way: what clients may say, and what none does.

An attempt is a request for a session and what its client sends then, all of it from a random
number generator, so that a seed and a number make the same attempt again.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.wire.encoders import SpdyWriter, WebSocketWriter, cut

if TYPE_CHECKING:
    import socket
    from random import Random

QUIET_SECONDS = 1.5
POD = "/api/v1/namespaces/default/pods/shell"
SPDY_VERSIONS = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"]
WEBSOCKET_VERSIONS = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
]
# For each of these the API server runs the command, or it once did, or somebody may think so.
PATHS = [
    "/exec",
    "/exec/",
    "/exec//",
    "//exec",
    "%2Fexec",
    "%2fexec",
    "/%65xec",
    "/ex%65c%2F",
    "/exec%2F",
    "%252Fexec",
    "/./exec",
    "/x/../exec",
    "/%2e%2e/shell/exec",
    "/exec/.",
    "/exec;x",
    "/EXEC",
    "/exec%00",
    "/exec%20",
]


def mixed(random: Random, text: str) -> str:
    """The text in letters of either case."""
    return "".join(random.choice((each.lower(), each.upper())) for each in text)


def usually(random: Random, usual: str, *others: str) -> str:
    """The usual value in most cases, so that not everything is wrong at once."""
    return usual if random.random() < 0.88 else random.choice(others)


@dataclass
class Attempt:
    """One attempt.

    :ivar head: of the request.
    :ivar early: what is sent right behind it, before any answer.
    :ivar later: what is sent after the answer, piece by piece.
    :ivar patient: whether each piece waits for an answer to the one before.
    :ivar leaves: when its client goes: ``end``, ``word`` (at once when that has come), ``shut``
        (it sends no more) or ``early`` (it waits for no answer).
    """

    head: bytes
    early: bytes = b""
    later: list[bytes] = field(default_factory=list)
    patient: bool = False
    leaves: str = "end"

    def run(self, sock: socket.socket, word: bytes, random: Random) -> bytes:
        """Do it, and return everything that came."""
        request = self.head + self.early
        for piece in cut(request, *random.choices(range(len(request)), k=random.choice((0, 0, 5)))):
            sock.sendall(piece)
            time.sleep(random.choice((0, 0, 0.002)))
        if self.leaves == "early":
            time.sleep(random.choice((0, 0.005, 0.02, 0.1)))
            return b""
        seen = bytearray()
        sock.settimeout(QUIET_SECONDS)
        try:
            while b"\r\n\r\n" not in seen:
                if not self._read(sock, seen):
                    return bytes(seen)
            if not seen.startswith(b"HTTP/1.1 101 "):
                return bytes(seen)
            for piece in self.later:
                sock.sendall(piece)
                if self.patient:
                    sock.settimeout(0.05)
                    self._read(sock, seen)
            sock.settimeout(QUIET_SECONDS)
            if self.leaves == "shut":
                sock.shutdown(1)
            while self.leaves != "word" or not shows(seen, word):
                if not self._read(sock, seen) or ended(seen):
                    break
        except OSError:
            pass  # we were shown the door
        return bytes(seen)

    @staticmethod
    def _read(sock: socket.socket, seen: bytearray) -> bool:
        try:
            data = sock.recv(65536)
        except TimeoutError:
            return False
        seen += data
        return bool(data)


def shows(seen: bytes | bytearray, word: bytes) -> bool:
    """Whether a client can read a word, of which the length is a multiple of three, in this."""
    return word in seen or base64.b64encode(word) in seen


def ended(seen: bytearray) -> bool:
    """Whether the server has said goodbye, in either protocol."""
    return b"\x80\x03\x00\x07" in seen or seen[-4:-2] == b"\x88\x02"


def spdy(random: Random, command: list[str]) -> Attempt:
    """An attempt over SPDY, or something like it."""
    terminal = random.random() < 0.25
    upgrade = usually(
        random, "SPDY/3.1", "spdy/3.1", "Spdy/3.1", "SPDY/3.1, websocket", "xSPDY/3.1",
        "SPDY/3.1 x", "websocket, SPDY/3.1", "SPDY/3", "websocket", "h2c",
    )  # fmt: skip
    versions = random.sample(SPDY_VERSIONS, random.randint(1, 4))
    if random.random() < 0.2:
        versions.insert(random.randint(0, len(versions)), random.choice(WEBSOCKET_VERSIONS))
    if random.random() < 0.3:
        versions = [", ".join(versions)]
    fields = [("X-Stream-Protocol-Version", version) for version in versions]
    if random.random() < 0.05:
        fields = []
    method = usually(
        random, "POST", "GET", "GET", "GET", "GET", "GET", "GET", "PUT", "HEAD", "PATCH", "post"
    )
    head = _head(random, method, upgrade, fields, command, terminal)
    pieces = _streams(random, terminal)
    attempt = Attempt(head, patient=random.random() < 0.3, leaves=_leaves(random))
    _shuffle_out(random, attempt, pieces)
    return attempt


def websocket(random: Random, command: list[str]) -> Attempt:
    """An attempt over WebSocket, or something like it."""
    terminal = random.random() < 0.25
    upgrade = usually(
        random, "websocket", "WebSocket", "WEBSOCKET", "Websocket", "websocket, SPDY/3.1",
        "SPDY/3.1", "h2c, websocket", " websocket ",
    )  # fmt: skip
    protocols = random.sample(WEBSOCKET_VERSIONS, random.choice((1, 1, 1, 2, 5)))
    if random.random() < 0.1:
        others = ["v3.channel.k8s.io", "x", "SPDY/3.1+portforward.k8s.io"]
        protocols.insert(random.randint(0, len(protocols)), random.choice(others))
    if random.random() < 0.15:
        protocols = []  # raw bytes
    key = base64.b64encode(random.randbytes(16)).decode()
    fields = [("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", key)]
    if random.random() < 0.3:
        fields += [("Sec-WebSocket-Protocol", each) for each in protocols]
    elif protocols:
        fields.append(("Sec-WebSocket-Protocol", ",".join(protocols)))
    if random.random() < 0.2:
        fields.append(("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"))
    method = usually(random, "GET", "GET", "GET", "POST", "PUT", "HEAD", "get")
    head = _head(random, method, upgrade, fields, command, terminal)
    attempt = Attempt(head, patient=random.random() < 0.1, leaves=_leaves(random))
    _shuffle_out(random, attempt, _messages(random, protocols, terminal))
    return attempt


def by_node(random: Random, command: list[str], node: str) -> Attempt:
    """An attempt past the pods' own paths, at what a node itself serves."""
    verb = usually(random, "run", "exec", "attach", "portForward")
    tail = f"{verb}/default/shell/shell"
    proxy = f"/api/v1/nodes/{node}"
    path = random.choice(
        (
            f"{proxy}/proxy/{tail}",
            f"{proxy}:10250/proxy/{tail}",
            f"{proxy}/proxy//{tail}",
            f"{proxy}/proxy/x/../{tail}",
            f"{proxy}%2Fproxy/{tail}",
            f"{proxy}/proxy%2F{tail}",
            f"{proxy}/proxy/{tail.replace('/', '%2F')}",
        )
    )
    query = "&".join(f"command={quote(word)}" for word in command)
    query += f"&cmd={quote(' '.join(command))}&output=1&error=1&stdout=1"
    method = random.choice(("POST", "GET", "PUT", "DELETE"))
    upgrade = random.choice(("SPDY/3.1", "websocket", ""))
    lines = [f"{method} {path}?{query} HTTP/1.1", "Host: kube", "Content-Length: 0"]
    if upgrade:
        lines += ["Connection: Upgrade", f"Upgrade: {upgrade}", "Sec-WebSocket-Version: 13"]
        lines += [
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            f"X-Stream-Protocol-Version: {SPDY_VERSIONS[0]}",
        ]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode()
    return Attempt(head, later=_streams(random, terminal=False))


def _leaves(random: Random) -> str:
    return random.choice(["end"] * 7 + ["word", "word", "shut", "early"])


def _target(random: Random, command: list[str], terminal: bool) -> str:
    path = POD + usually(random, "/exec", *PATHS)
    if random.random() < 0.2:
        at = random.randrange(1, len(path))
        path = f"{path[:at]}%{ord(path[at]):02x}{path[at + 1 :]}"
    if random.random() < 0.05:
        path = "/" + path
    if random.random() < 0.04:
        path = random.choice(("http://kube", "https://kube", "HTTP://other")) + path
    pairs = [("command", word) for word in command]
    yes = random.choice(("true", "1", "TRUE", "yes", ""))
    flags = [("stdout", yes), ("stderr", "false" if terminal else yes)]
    if terminal:
        # Only both together: kwok ends itself at a terminal without input.
        flags += [("tty", yes), ("stdin", yes)]
    if random.random() < 0.5:
        flags.append(("container", "shell"))
    random.shuffle(flags)
    at = random.randint(0, len(flags))
    pairs = [*flags[:at], *pairs, *flags[at:]]
    encode = random.choice((quote, lambda text: "".join(f"%{b:02X}" for b in text.encode())))
    return path + "?" + "&".join(f"{name}={encode(value)}" for name, value in pairs)


def _head(
    random: Random,
    method: str,
    upgrade: str,
    fields: list[tuple[str, str]],
    command: list[str],
    terminal: bool,
) -> bytes:
    connection = usually(
        random, "Upgrade", "upgrade", "UPGRADE", "keep-alive, Upgrade", "Upgrade,keep-alive",
        "xUpgradex", "\tUpgrade , close", "Upgrade, Upgrade", "Upgrade, X-Stream-Protocol-Version",
        "Upgrade, Sec-WebSocket-Protocol", "close",
    )  # fmt: skip
    fields = [("Host", "kube"), ("Upgrade", upgrade), ("Connection", connection), *fields]
    if random.random() < 0.1:
        fields.append(("Connection", "keep-alive"))
    if random.random() < 0.05:
        fields.append(("Upgrade", random.choice(("websocket", "SPDY/3.1"))))
    body = b""
    match random.randrange(60):
        case 0:
            fields.append(("Transfer-Encoding", "chunked"))
            body = b"0\r\n\r\n"
        case 1:
            fields.append(("Content-Length", "5"))
            body = b"hello"
        case number if number < 20:
            pass
        case _:
            fields.append(("Content-Length", "0"))
    random.shuffle(fields)
    style = random.choice((str, str, str.lower, str.upper, lambda name: mixed(random, name)))
    lines = [f"{method} {_target(random, command, terminal)} HTTP/1.1"]
    lines += [
        f"{style(name)}:{random.choice((' ', ' ', '', '  '))}{value}" for name, value in fields
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def _streams(random: Random, terminal: bool) -> list[bytes]:
    """The frames of a SPDY client, one or several to a piece."""
    writer = SpdyWriter()
    kinds = ["error", "stdin", "stdout", "resize"] if terminal else ["error", "stdout", "stderr"]
    if random.random() < 0.3:
        random.shuffle(kinds)
    # Not at a terminal: kwok ends itself there if a stream is missing, as when one comes twice.
    odd = 0.0 if terminal else 1.0
    if random.random() < 0.15 * odd:
        kinds.insert(
            random.randint(0, len(kinds)), random.choice(("stdin", "stdout", "error", "x"))
        )
    number = random.choice(
        (1, 1, 1, 1, 1, 1, 1, 1, 3, 127, 129, 133, 0x10001, 0x01000001, 0x7FFFFF01, 2)
    )
    frames = []
    for kind in kinds:
        name = usually(random, "streamtype", "Streamtype", mixed(random, "streamtype"))
        headers = [(name, kind)]
        if random.random() < 0.1:
            headers.insert(random.randint(0, 1), ("port", "80"))
        if random.random() < 0.05 * odd:
            headers[-1:] = [(headers[-1][0], headers[-1][1] + "\0stdout")]
        if random.random() < 0.05 * odd:
            headers.append(("streamtype", "error"))
        frames.append(writer.open(number, headers, flags=random.choice((0,) * 19 + (1,))))
        if kind == "resize":
            size = b'{"Width":%d,"Height":40}\n' % random.randint(1, 300)
            frames.append(writer.data(number, size))
        if random.random() < 0.1:
            more = writer.ping(1) if random.random() < 0.5 else writer.headers(number, [("a", "b")])
            frames.append(more)
        if random.random() < 0.05:
            frames.append(writer.data(number, random.randbytes(9), last=random.random() < 0.5))
        number += random.choice((2, 2, 2, 2, 2, 2, 2, 2, 4, 126, 0))
    if random.random() < 0.05:
        frames.append(
            random.choice((writer.goaway(0), writer.control(5, b""), random.randbytes(16)))
        )
    return frames


def _messages(random: Random, protocols: list[str], terminal: bool) -> list[bytes]:
    """The frames of a WebSocket client."""
    writer = WebSocketWriter(client=True)

    def message(channel: int, data: bytes) -> bytes:
        if any("base64" in each for each in protocols):
            return writer.text(f"{channel}{base64.b64encode(data).decode()}")
        if random.random() < 0.2:
            return writer.binary(bytes([channel]), last=False) + writer.binary(data)
        return writer.binary(bytes([channel]) + data)

    choices = [
        lambda: message(0, b"typed"),
        lambda: message(4, b'{"width":%d,"height":40}' % random.randint(1, 300)),
        lambda: message(1, b"an answer"),
        lambda: message(3, b'{"status":"Success"}'),
        lambda: message(77, b"?"),
        lambda: writer.ping(b"there?"),
        writer.pong,
        lambda: writer.binary(b""),
        lambda: b"\x82\x81" + bytes(4) + b"\0",  # a mask that changes nothing
        lambda: b"\x82\xfe\0\x02" + bytes(4) + b"\0x",  # a longer length than it needs
        lambda: b"\x82\x02\0x",  # no mask
        lambda: b"\xc2\x82" + bytes(4) + b"\0x",  # as if compressed
        writer.close,
        lambda: random.randbytes(16),
    ]
    # Most of them are harmless; what ends the session at once comes seldom.
    weights = [9, 9, 3, 3, 3, 9, 3, 3, 3, 3, 1, 1, 1, 1]
    frames = []
    if terminal:
        frames.append(choices[1]())
    for _ in range(random.choice((0, 0, 1, 2, 5))):
        frames.append(random.choices(choices, weights)[0]())
        if frames[-1][:1] == b"\x88":
            break
    return frames


def _shuffle_out(random: Random, attempt: Attempt, frames: list[bytes]) -> None:
    """Say when the frames are sent: before the answer, together, one by one, or in pieces."""
    early = random.choice((0, 0, 0, 0, len(frames), random.randint(0, len(frames))))
    attempt.early = b"".join(frames[:early])
    frames = frames[early:]
    match random.randrange(3):
        case 0:
            frames = [b"".join(frames)] if frames else []
        case 1:
            data = b"".join(frames)
            frames = cut(data, *random.choices(range(len(data) or 1), k=7))
    attempt.later = frames


def order(folder: str, number: int) -> tuple[list[str], bytes]:
    """A command that leaves a mark and prints a word that is nowhere in the request."""
    command = f"(true > {folder}/{number}) 2>/dev/null; echo out-$((800000+{number}))-z"
    word = b"out-%d-z" % (800000 + number)
    return ["sh", "-c", command], word
