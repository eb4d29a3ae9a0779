"""A recorder on loopback, and clients that speak with it as proxies do."""

from __future__ import annotations

import json
from pathlib import Path

import h2.config
import h2.connection
import h2.events
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from tailproxy.config import parse
from tailproxy.metrics import Metrics
from tailproxy.recorder.library import Library
from tailproxy.recorder_parts import recorder_service
from tailproxy.surroundings import Surroundings
from tests.proxy.servers import Wire

# Who is at which address.
PROXY = "127.0.0.1"
LAPTOP = "127.0.0.7"
STRANGER = "127.0.0.99"
HEADER = {
    "version": 2,
    "width": 80,
    "height": 24,
    "timestamp": 1760000000,
    "command": "sh -c ls",
    "srcNode": "laptop.corp-cat.ts.net",
    "srcNodeID": "n1",
    "srcNodeUserID": 7,
    "srcNodeUser": "ada@corp.example",
    "env": None,
    "sshUser": "",
    "localUser": "",
    "connectionID": "",
    "kubernetes": {
        "PodName": "web-0",
        "Namespace": "shop",
        "Container": "app",
        "SessionType": "exec",
    },
}


def header(**changes) -> bytes:
    return json.dumps({**HEADER, **changes}).encode() + b"\n"


def event(seconds: float, text: str, code: str = "o") -> bytes:
    return json.dumps([seconds, code, text]).encode() + b"\n"


class Place:
    """The recorder under test.

    :param options: of `Tailproxy.Recorder`.
    """

    def __init__(self, folder: Path, *, drain: float = 0.2, **options) -> None:
        self.folder = folder
        text = {
            "Version": "v1alpha1",
            "Tailproxy": {
                "Resolver": {
                    "Kind": "static",
                    "Identities": [
                        {"Address": PROXY, "Node": "proxy.corp-cat.ts.net", "Tags": ["tag:k8s"]},
                        {"Address": LAPTOP, "User": "ada@corp.example"},
                    ],
                },
                "Drain": {"Requests": drain, "Streams": drain},
                "Limits": {"HeaderSeconds": 1},
                "Recorder": {
                    "From": ["tag:k8s"],
                    "Folder": str(folder),
                    "Kind": "loopback",
                    "Address": "127.0.0.1:0",
                    "FreeBytes": 0,
                    **options,
                },
            },
        }
        self.config = parse(json.dumps(text), "test")
        self.metrics = Metrics("0")
        ours = self.config.tailproxy
        self.tailnet = Surroundings(
            ours.tailscaled,
            ours.resolver,
            reactor,
            self.metrics,
            watched=True,
            issues=False,
            tagged=False,
        )
        self.service = recorder_service(self.config, self.tailnet, self.metrics, reactor)
        self.library = Library(reactor, folder)

    def start(self) -> None:
        self.service.privilegedStartService()
        self.service.startService()
        self.library.startService()

    async def stop(self) -> None:
        await self.service.stopService()
        await self.library.stopService()

    @property
    def port(self) -> int:
        (listener,) = self.service
        return listener.bound[0].port

    async def dial(self, source: str = PROXY) -> Sender:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port, bindAddress=(source, 0))
        return await connectProtocol(endpoint, Sender())

    async def wire(self, source: str = PROXY) -> Wire:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port, bindAddress=(source, 0))
        return await connectProtocol(endpoint, Wire())

    def kept(self) -> dict[str, bytes]:
        """The finished recordings by their name."""
        return {path.name: path.read_bytes() for path in sorted(self.folder.glob("*/*.cast"))}

    def only(self) -> bytes:
        (kept,) = self.kept().values()
        return kept

    def known(self) -> list[dict]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*/*.json"))]

    def value(self, name: str, **labels) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


class Sender(Wire):
    """A client of HTTP/2, with prior knowledge.

    :ivar heads: status of each stream's answer.
    :ivar bodies: what came of each answer's body.
    :ivar ended: streams whose answer is complete.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heads: dict[int, int] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.resets: set[int] = set()
        self.gone = False
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._unsent: dict[int, bytes] = {}
        self._ending: set[int] = set()

    def connectionMade(self) -> None:
        self.http.initiate_connection()
        self.flush()
        super().connectionMade()

    def flush(self) -> None:
        self.transport.write(self.http.data_to_send())

    def request(self, method: str, path: str, *, end: bool = False) -> int:
        stream = self.http.get_next_available_stream_id()
        fields = [
            (":method", method),
            (":scheme", "http"),
            (":authority", "recorder"),
            (":path", path),
        ]
        self.http.send_headers(stream, fields, end_stream=end)
        self.flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self._unsent[stream] = self._unsent.get(stream, b"") + data
        if end:
            self._ending.add(stream)
        self._pump()

    def _pump(self) -> None:
        for stream, data in list(self._unsent.items()):
            rest = data
            while rest:
                room = min(
                    self.http.local_flow_control_window(stream), self.http.max_outbound_frame_size
                )
                if not room:
                    break
                self.http.send_data(stream, rest[:room])
                rest = rest[room:]
            self._unsent[stream] = rest
            if not rest:
                del self._unsent[stream]
                if stream in self._ending:
                    self._ending.discard(stream)
                    self.http.end_stream(stream)
        self.flush()

    def dataReceived(self, data: bytes) -> None:
        for each in self.http.receive_data(data):
            match each:
                case h2.events.ResponseReceived():
                    self.heads[each.stream_id] = int(dict(each.headers)[b":status"])
                case h2.events.DataReceived():
                    self.bodies[each.stream_id] = self.bodies.get(each.stream_id, b"") + each.data
                    self.http.acknowledge_received_data(each.flow_controlled_length, each.stream_id)
                case h2.events.StreamEnded():
                    self.ended.add(each.stream_id)
                case h2.events.StreamReset():
                    self.resets.add(each.stream_id)
                    self._unsent.pop(each.stream_id, None)
                case h2.events.ConnectionTerminated():
                    self.gone = True
        self._pump()
        super().dataReceived(b"")

    def told(self, stream: int) -> list[dict]:
        """The objects of an answer so far."""
        return [json.loads(line) for line in self.bodies.get(stream, b"").splitlines()]

    def acked(self, stream: int) -> int:
        return max((each["ack"] for each in self.told(stream) if "ack" in each), default=0)

    async def answered(self, stream: int) -> list[dict]:
        """Wait for the end of an answer; its objects."""
        await self.until(lambda: stream in self.ended)
        return self.told(stream)

    async def status(self, method: str, path: str) -> tuple[int, str]:
        """The whole answer to a request without a body."""
        stream = self.request(method, path, end=True)
        await self.until(lambda: stream in self.ended)
        return self.heads[stream], self.bodies.get(stream, b"").decode()

    async def upload(self, data: bytes) -> list[dict]:
        """A whole upload."""
        stream = self.request("POST", "/v2/record")
        self.send(stream, data, end=True)
        return await self.answered(stream)
