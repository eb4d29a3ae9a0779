"""An API server of the test's own: a TLS server that writes down every byte it was sent."""

from __future__ import annotations

import ssl
import threading
from typing import TYPE_CHECKING, Self

from tests.lab import kubeconfig

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from tests.lab.lab import Lab
    from tests.lab.network import Network
    from tests.lab.pki import KeyPair

#: The token that tailproxy shows there.
TOKEN = "token-of-the-proxy"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def upstream(lab: Lab, name: str, port: int, ca: bytes) -> dict[str, str]:
    """The `Upstream` of a tailproxy whose API server is one of ours, on 127.0.0.1.

    :param name: for the files that are written.
    :param ca: PEM of the only authority that is believed.
    """
    ca_file = lab.run / f"{name}-ca.crt"
    ca_file.write_bytes(ca)
    file = kubeconfig.write(
        lab.run / f"{name}.kubeconfig",
        server=f"https://127.0.0.1:{port}",
        ca_file=ca_file,
        user=kubeconfig.with_token(TOKEN),
    )
    return {"Kubeconfig": str(file)}


class Spy:
    """Answers every request with an empty object.

    :ivar requests: the head of each, as it came.
    :ivar handshakes: how many connections got as far as TLS.
    """

    def __init__(self, network: Network, pair: KeyPair, folder: Path, name: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair.write(folder, name))
        self._context = context
        self._socket = network.open_socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(64)
        self.requests: list[bytes] = []
        self.received = 0
        self._threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return int(self._socket.getsockname()[1])

    def __enter__(self) -> Self:
        self._begin(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(2)
        self._socket.close()
        for thread in self._threads:
            thread.join(5)

    def _begin(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            self._begin(self._serve, plain)

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(30)
        try:
            with self._context.wrap_socket(plain, server_side=True) as tls:
                data = b""
                while part := tls.recv(65536):
                    self.received += len(part)
                    data += part
                    while b"\r\n\r\n" in data:
                        head, _, data = data.partition(b"\r\n\r\n")
                        self.requests.append(head)
                        tls.sendall(ANSWER)
        except OSError:
            plain.close()


def serve(
    listening: socket.socket,
    context: ssl.SSLContext,
    path: bytes,
    answer: Callable[[ssl.SSLSocket, int], object],
) -> None:
    """Let *answer* play the connection on which *path* is asked for; refuse all else."""

    def play(plain: socket.socket) -> None:
        try:
            with context.wrap_socket(plain, server_side=True) as tls:
                head = b""
                while b"\r\n\r\n" not in head:
                    part = tls.recv(65536)
                    if not part:
                        return
                    head += part
                head, _, early = head.partition(b"\r\n\r\n")
                if path in head.split(b"\r\n")[0]:
                    answer(tls, len(early))
                else:
                    tls.sendall(
                        b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    )
        except OSError:
            return

    def accept() -> None:
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=play, args=(plain,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
