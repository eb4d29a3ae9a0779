"""A recorder for tests: it speaks both versions of the protocol, and misbehaves as it is told to.

`Side` is one connection, bytes in and bytes out, for tests that move the time themselves.
`Recorder` serves it on a port, in threads, so that tests with and without a reactor can use it;
behind a tailscaled it is reached at the node's address by its serve (TCP), or by what userspace
networking does: it forwards to the same port of 127.0.0.1.
"""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import httptools

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass
class Manners:
    """How a recorder behaves. May change at any time.

    :ivar versions: which it speaks.
    :ivar silent: what it does not answer any more: `accept` (anything), `head`, `post` or `acks`.
    :ivar head_status: of the answer to HEAD of version 2.
    :ivar post_status: of the answer to POST; of version 1, where it is not 200, before the 100.
    :ivar final_status: of version 1, at the end.
    :ivar expects: whether version 1 takes `Expect: 100-continue`; otherwise it answers 417.
    :ivar trouble: what happens once there are more than `after` bytes of a recording: `error`,
        `end` (early), `reset`, `goaway`, `garbage`, `cut`, `stall` (no more room), or with version
        1 `answer`. With `after` None it is at the end instead of the last acknowledgement.
    :ivar after: see there.
    :ivar window: bytes of HTTP/2's windows, or None for the usual 64 KiB.
    """

    versions: tuple[int, ...] = (2, 1)
    silent: str = ""
    head_status: int = 200
    post_status: int = 200
    final_status: int = 200
    expects: bool = True
    trouble: str = ""
    after: int | None = 0
    window: int | None = None


@dataclass
class Recording:
    """What came of one recording.

    :ivar version: of the protocol.
    :ivar authority: the host it was sent to.
    :ivar whole: whether it has ended as it should.
    """

    version: int
    authority: str
    data: bytearray = field(default_factory=bytearray)
    whole: bool = False

    @property
    def lines(self) -> list[Any]:
        """Header and events."""
        return [json.loads(line) for line in self.data.splitlines()]


@dataclass
class Seen:
    """What a recorder has seen.

    :ivar requests: version, method and path of each.
    :ivar recordings: oldest first; a refused one is not among them.
    """

    requests: list[tuple[int, str, str]] = field(default_factory=list)
    recordings: list[Recording] = field(default_factory=list)


class Side:
    """The recorder's side of one connection.

    :ivar closing: whether it wants the connection closed, once what it said is sent.
    """

    def __init__(self, manners: Manners, seen: Seen) -> None:
        self._manners = manners
        self._seen = seen
        self._early = b""
        self._speaker: _Second | _First | None = None
        self.closing = False

    def receive(self, data: bytes) -> bytes:
        """Take bytes and say what is sent back."""
        if self._manners.silent == "accept" or self.closing:
            return b""
        if self._speaker is None:
            self._early += data
            if len(self._early) < len(_PREFACE):
                return b""
            if self._early.startswith(_PREFACE):
                if 2 not in self._manners.versions:
                    self.closing = True
                    return b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
                self._speaker = _Second(self._manners, self._seen)
            else:
                self._speaker = _First(self._manners, self._seen)
            data = self._early
        answer = self._speaker.receive(data)
        self.closing = self._speaker.closing
        return answer

    def tick(self) -> bytes:
        """Say what is sent although nothing came: the heartbeat."""
        return self._speaker.tick() if self._speaker is not None else b""


class _Second:
    """HTTP/2."""

    def __init__(self, manners: Manners, seen: Seen) -> None:
        self._manners = manners
        self._seen = seen
        self._http = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        usual = 65535
        window = usual if manners.window is None else manners.window
        self._http.local_settings = h2.settings.Settings(
            client=False,
            initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window},
        )
        self._http.initiate_connection()
        if window > usual:
            self._http.increment_flow_control_window(window - usual)
        self._stream = 0
        self._recording: Recording | None = None
        self._taken = 0
        self._over = False
        self.closing = False

    def receive(self, data: bytes) -> bytes:
        try:
            events = self._http.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.closing = True
            return self._http.data_to_send()
        for event in events:
            match event:
                case h2.events.RequestReceived():
                    self._request(event.stream_id, dict(event.headers))
                case h2.events.DataReceived() if self._recording is not None and not self._over:
                    self._data(event)
                case h2.events.StreamEnded() if self._recording is not None and not self._over:
                    self._end(self._recording)
        return self._said()

    def tick(self) -> bytes:
        if self._recording is not None and not self._over:
            self._ack()
        return self._said()

    def _said(self) -> bytes:
        return self._http.data_to_send()

    def _request(self, stream: int, head: dict[str, str]) -> None:
        self._seen.requests.append((2, head[":method"], head[":path"]))
        if head[":method"] == "HEAD":
            if self._manners.silent != "head":
                self._answer(stream, self._manners.head_status, end=True)
        elif self._manners.silent != "post":
            self._answer(stream, self._manners.post_status, end=self._manners.post_status != 200)
            if self._manners.post_status == 200:
                self._stream = stream
                self._recording = Recording(2, head[":authority"])
                self._seen.recordings.append(self._recording)

    def _answer(self, stream: int, status: int, *, end: bool) -> None:
        self._http.send_headers(stream, [(":status", str(status))], end_stream=end)

    def _data(self, event: h2.events.DataReceived) -> None:
        assert self._recording is not None
        self._recording.data += event.data
        after = self._manners.after
        if self._manners.trouble and after is not None and len(self._recording.data) > after:
            if self._manners.trouble != "stall":
                self._break()
            return
        self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self._taken = len(self._recording.data)
        self._ack()

    def _ack(self) -> None:
        if self._manners.silent != "acks":
            self._say(json.dumps({"ack": self._taken}) + "\n")

    def _say(self, text: str) -> None:
        self._http.send_data(self._stream, text.encode())

    def _end(self, recording: Recording) -> None:
        if self._manners.trouble and self._manners.after is None:
            self._break()
        elif self._manners.silent != "acks":
            recording.whole = True
            self._over = True
            self._ack()
            self._http.end_stream(self._stream)

    def _break(self) -> None:
        self._over = True
        match self._manners.trouble:
            case "error":
                self._say('{"error":"no space left on device"}\n')
                self._http.end_stream(self._stream)
            case "end":
                self._http.end_stream(self._stream)
            case "reset":
                self._http.reset_stream(self._stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
            case "goaway":
                self._http.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            case "garbage":
                self._say("<html>")
            case "cut":
                self.closing = True
            case other:
                raise AssertionError(other)


class _First:
    """HTTP/1.1."""

    def __init__(self, manners: Manners, seen: Seen) -> None:
        self._manners = manners
        self._seen = seen
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: dict[str, str] = {}
        self._recording: Recording | None = None
        self._out = b""
        self.closing = False

    def receive(self, data: bytes) -> bytes:
        with suppress(httptools.HttpParserError):
            self._parser.feed_data(data)
        out, self._out = self._out, b""
        return out

    def tick(self) -> bytes:
        return b""

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self._seen.requests.append((1, self._parser.get_method().decode(), self._target.decode()))
        expected = self._headers.get("expect") == "100-continue"
        if 1 not in self._manners.versions:
            self._answer(404)
        elif self._manners.silent == "post":
            pass
        elif expected and not self._manners.expects:
            self._answer(417)
        elif self._manners.post_status != 200:
            self._answer(self._manners.post_status)
        else:
            if expected:
                self._out += b"HTTP/1.1 100 Continue\r\n\r\n"
            self._recording = Recording(1, self._headers["host"])
            self._seen.recordings.append(self._recording)

    def _answer(self, status: int) -> None:
        self._out += f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()
        self._recording = None
        self.closing = True

    def on_body(self, chunk: bytes) -> None:
        if self._recording is None:
            return
        self._recording.data += chunk
        after = self._manners.after
        if self._manners.trouble and after is not None and len(self._recording.data) > after:
            if self._manners.trouble == "answer":
                self._answer(200)
            elif self._manners.trouble == "garbage":
                self._out += b"<html>"
            self.closing = self.closing or self._manners.trouble == "cut"
            self._recording = None

    def on_message_complete(self) -> None:
        if self._recording is not None and self._manners.silent != "acks":
            self._recording.whole = self._manners.final_status == 200
            self._answer(self._manners.final_status)


class Recorder:
    """Recorders' connections on a port of 127.0.0.1, each in a thread of its own.

    :ivar manners: how it behaves.
    :ivar seen: what it has seen.
    :param listener: a socket that is bound, for another place than a free port.
    """

    def __init__(
        self, manners: Manners | None = None, listener: socket.socket | None = None
    ) -> None:
        self.manners = manners or Manners()
        self.seen = Seen()
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    @property
    def recordings(self) -> list[Recording]:
        """Oldest first."""
        return self.seen.recordings

    def __enter__(self) -> Self:
        self._listener.listen()
        self._begin(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def cut(self) -> None:
        """Lose every connection, as at its sudden death."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def wait(self, condition: Any, seconds: float = 20.0) -> None:
        """Wait until a function of `seen` is true."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.seen), seconds), self.seen

    def _begin(self, work: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.add(connection)
            self._begin(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        side = Side(self.manners, self.seen)
        connection.settimeout(1.0)  # the heartbeat
        with connection, suppress(OSError):
            while not side.closing:
                try:
                    data = connection.recv(65536)
                except TimeoutError:
                    answer = side.tick()
                else:
                    if not data:
                        break
                    with self._changed:
                        answer = side.receive(data)
                        self._changed.notify_all()
                connection.sendall(answer)
        self._connections.discard(connection)
