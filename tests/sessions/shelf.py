"""A recorder's folder with recordings in it, and somebody who asks for its pages."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
from twisted.internet import reactor
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.protocol import Factory

from tailproxy.recorder.folder import Folder, Part, new_id
from tailproxy.recorder.index import Index
from tailproxy.recorder.library import Library
from tailproxy.recorder.lines import describe
from tailproxy.recorder.store import INDEX
from tailproxy.recordings import RecordingState
from tests.proxy.servers import Wire

BEGAN = 1_760_000_000.0
HEADER = {
    "version": 2,
    "width": 80,
    "height": 24,
    "timestamp": int(BEGAN),
    "command": "sh -c ls",
    "srcNode": "laptop.corp-cat.ts.net",
    "srcNodeID": "n1",
    "srcNodeUser": "ada@corp.example",
    "kubernetes": {
        "PodName": "web-0",
        "Namespace": "shop",
        "Container": "app",
        "SessionType": "exec",
    },
    "tailproxy": {"request": "a1b2"},
}
EVENTS = ([0.5, "o", "one\r\n"], [1.5, "o", "two\r\n"])


def pod(namespace: str) -> dict:
    return {"kubernetes": {**HEADER["kubernetes"], "Namespace": namespace}}


def lines(*values: object) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


class Shelf:
    """Keeps recordings as a recorder does.

    :ivar library: to look at them.
    """

    def __init__(self, path: Path) -> None:
        self.folder = Folder(path)
        self.folder.prepare()
        self.index = Index(path / INDEX)
        self.library = Library(reactor, path)

    def begin(self, *events: list, began: float = BEGAN, **header: object) -> Part:
        """One that is live."""
        first = {**HEADER, **header}
        recording = describe(first, new_id(began), began)
        part = self.folder.begin(attrs.evolve(recording, start=began))
        self.add(part, first, *events)
        return part

    def add(self, part: Part, *values: object) -> None:
        part.append(lines(*values))
        self.index.put([part.recording])

    def finish(self, part: Part, state: RecordingState = RecordingState.COMPLETE) -> None:
        self.index.put([self.folder.finish(part, state, "")])

    def put(self, *events: list, began: float = BEGAN, **header: object) -> str:
        """One that is complete; its ID."""
        part = self.begin(*(events or EVENTS), began=began, **header)
        part.recording = attrs.evolve(part.recording, duration=1.5, exit_code=0)
        self.finish(part)
        return part.recording.id

    def seal(self, identifier: str, sealed: bytes) -> None:
        """Have one encrypted, to that."""
        known = self.folder.known(identifier)
        (path,) = self.folder.path.glob(f"*/{identifier}.cast")
        path.unlink()
        path.with_suffix(".cast.age").write_bytes(sealed)
        self.index.put([attrs.evolve(known, encrypted=True, size=len(sealed))])


@attrs.frozen
class Answer:
    """What came back.

    :ivar headers: by name in lower case.
    """

    code: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """A request after whose answer the connection ends."""
    fields = {"Host": "localhost", **headers}
    if body:
        fields["Content-Length"] = str(len(body))
    named = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"{method} /.tailproxy/sessions{path} HTTP/1.0\r\n{named}\r\n".encode() + body


def read(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *fields = head.decode("latin-1").split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    return Answer(
        int(first.split()[1]), {name.lower(): value for name, value in headers.items()}, body
    )


async def dial_socket(path: Path) -> Wire:
    """A connection to a unix socket."""
    factory = Factory.forProtocol(Wire)
    factory.noisy = False
    return await UNIXClientEndpoint(reactor, str(path)).connect(factory)
