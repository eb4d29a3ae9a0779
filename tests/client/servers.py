"""A played proxy for commands: HTTPS in a thread, and an HTTP proxy in front of it."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import yaml

from tests.kube.tls import pem
from tests.proxy.servers import Authority

ADA = {
    "user": "ada@corp.example",
    "groups": ["dev"],
    "groupsFrom": "grants",
    "groupReasons": [
        {
            "group": "dev",
            "reason": "rule 2 of tailscale.com/cap/kubernetes",
            "rules": [
                {"capability": "tailscale.com/cap/kubernetes", "rule": 2, "grantedOn": "node"}
            ],
        }
    ],
    "node": {"name": "laptop.corp-cat.ts.net", "id": "n1", "tags": [], "addresses": []},
    "address": "100.64.0.5",
    "service": "svc:kube",
    "mode": "auth",
    "version": "9.9",
}
RULES = {
    "resourceRules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}],
    "nonResourceRules": [],
    "incomplete": False,
}


def refusal(code: int, message: str) -> tuple[int, object]:
    return code, {"kind": "Status", "status": "Failure", "message": message, "code": code}


class Played:
    """Answers `whoami` and reviews, and remembers what it was asked.

    :ivar asked: method, path, body and the Authorization header of each request.
    :ivar connections: how many there were.
    """

    def __init__(self, folder: Path, *names: str) -> None:
        self.whoami: tuple[int, object] = (200, ADA)
        self.review: tuple[int, object] = (201, {"status": RULES})
        self.asked: list[tuple[str, str, object, str | None]] = []
        self.connections = 0
        self.authority = Authority()
        certificate, key = self.authority.issue(*(names or ("127.0.0.1",)))
        (folder / "server.pem").write_bytes(pem(certificate) + pem(key))
        (folder / "ca.pem").write_bytes(self.authority.pem)
        self.ca_file = folder / "ca.pem"
        played = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                played.connections += 1
                super().setup()

            def do_GET(self) -> None:
                self._answer(None, *played.whoami)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(json.loads(body), *played.review)

            def _answer(self, body: object, code: int, value: object) -> None:
                played.asked.append((self.command, self.path, body, self.headers["Authorization"]))
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(folder / "server.pem")
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def kubeconfig(self, path: Path, cluster: dict | None = None, user: dict | None = None) -> Path:
        """Write a kubeconfig that leads here."""
        document = {
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [
                {
                    "name": "c",
                    "cluster": {
                        "server": self.url,
                        "certificate-authority": self.ca_file.name,
                        **(cluster or {}),
                    },
                }
            ],
            "users": [{"name": "u", "user": user or {"token": "hush"}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust us goes, which is what tests want."""


@contextmanager
def tunnel(answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> Iterator[tuple[int, list[bytes]]]:
    """An HTTP proxy for one connection; its port, and the request line that it got."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                near, _ = listener.accept()
                with near:
                    head = b""
                    while answer and not head.endswith(b"\r\n\r\n"):
                        head += near.recv(4096)
                    asked.append(head.partition(b"\r\n")[0])
                    near.sendall(answer)
                    if b" 200 " not in answer:
                        return
                    host, _, port = asked[0].split()[1].decode().rpartition(":")
                    with socket.create_connection((host, int(port))) as far:
                        back = threading.Thread(target=_pump, args=(far, near))
                        back.start()
                        _pump(near, far)
                        back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], asked
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
