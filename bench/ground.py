"""What every measurement stands on: a tailnet, an upstream, certificates, free ports."""

from __future__ import annotations

import shutil
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import programs
from tests.lab import build, kubeconfig, pki
from tests.lab.kwok import KwokCluster
from tests.lab.lab import Lab
from tests.lab.tailnet import PROXY, Tailnet

if TYPE_CHECKING:
    from typing import Any

    from tests.lab.progress import Progress

#: The caller of all workloads but the one with a thousand.
CALLER = "alice"
USER = "alice@example.com"
#: Tailnet node and Tailscale Service of the Go peer.
PEER = "peer"
PEER_SERVICE = "svc:kube"
#: The name that the doors' own certificate is for.
DOOR_NAME = "door.bench.internal"
STOP_SECONDS = 2.0


@dataclass(frozen=True)
class Upstream:
    """An API server, and how proxies and clients get in.

    :ivar kubeconfig: for proxies that read one; its identity is *token*'s.
    :ivar client: certificate and key of a client that comes without a proxy; None if none is
        asked for.
    """

    url: str
    ca: Path
    token: str
    kubeconfig: Path
    client: tuple[Path, Path] | None = None


class Ground(Lab):
    """A lab of its own: the tailnet at once, the cluster when it is asked for.

    :ivar tools: paths of the programs in `bench.programs`.
    :ivar instant: an upstream that answers at once.
    :ivar door: certificate and key of TLS doors, and who vouches for them.
    """

    def __init__(self, progress: Progress, *, peer: bool) -> None:
        super().__init__("bench", progress=progress)
        self._tools = [name for name in programs.PARTS if peer or name != "k8s-proxy"]
        self.tools: dict[str, Path] = {}
        self.instant: Upstream
        self.door: tuple[Path, Path, Path]
        self._kube: Upstream | None = None

    def start(self) -> None:
        """Build what is missing; start the tailnet and the upstream that answers at once."""
        binaries = build.ensure(Tailnet.parts, progress=self.progress)
        self.tools = programs.ensure(self._tools, self.progress)
        self._take()
        self.write_state("starting")
        self._certificates()
        self._start_instant()
        # Only the proxies' nodes and the caller's do anything: the fewer wake up, the better.
        self.tailnet = Tailnet(self.run, self.processes, self.ports, binaries, KwokCluster.network)
        self.tailnet.start(self.progress.say)
        for name, node in self.tailnet.nodes.items():
            if name not in {PROXY, CALLER}:
                node.stop()

        def add(policy: dict[str, Any]) -> None:
            policy["nodes"][PEER] = {"tags": ["tag:k8s"]}

        self.tailnet.edit_policy(add)
        self.write_state("ready")

    def _certificates(self) -> None:
        self.pki = self.run / "bench-pki"
        self.pki.mkdir(mode=0o700)
        authority = pki.Authority("bench-ca")
        ca = self.pki / "ca.crt"
        ca.write_bytes(authority.certificate)
        authority.issue("upstream", names=["localhost", "127.0.0.1"]).write(self.pki, "upstream")
        pair = authority.issue("door", names=[DOOR_NAME]).write(self.pki, "door")
        self.door = (*pair, ca)

    def _start_instant(self) -> None:
        port = self.ports.take()
        ca = self.pki / "ca.crt"
        words: list[str | Path] = [self.tools["upstream"], "-listen", f"127.0.0.1:{port}"]
        words += ["-cert", self.pki / "upstream.crt", "-key", self.pki / "upstream.key"]
        self.processes.start("upstream", words)
        self.processes.wait_ready("upstream", lambda: answers(("127.0.0.1", port)), 10)
        url = f"https://127.0.0.1:{port}"
        file = self.run / "instant.kubeconfig"
        user = kubeconfig.with_token("bench")
        kubeconfig.write(file, server=url, ca_file=ca, user=user)
        self.instant = Upstream(url, ca, "bench", file)

    @property
    def kube(self) -> Upstream:
        """The lab's kube-apiserver, started when it is asked for the first time."""
        if self._kube is None:
            binaries = build.ensure(KwokCluster.parts, progress=self.progress)
            self.cluster = KwokCluster(self.run, self.processes, self.ports, binaries)
            self.cluster.start(self.progress.say)
            token = self.cluster.api.token("tailscale", "proxy")
            admin = (self.cluster.pki / "admin.crt", self.cluster.pki / "admin.key")
            file = self.cluster.proxy_kubeconfig
            self._kube = Upstream(
                self.cluster.api_url, self.cluster.ca_file, token, file, client=admin
            )
        return self._kube

    @property
    def caller_address(self) -> str:
        """The caller's IPv4 address on the tailnet."""
        return self.tailnet.nodes[CALLER].addresses[0]

    @property
    def nginx(self) -> str | None:
        """The path of nginx, if this machine has it."""
        return shutil.which("nginx")


def answers(address: tuple[str, int]) -> bool:
    """Whether something accepts connections at *address*."""
    with socket.create_connection(address, timeout=1):
        return True


def first_answer(
    address: tuple[str, int], before: bytes = b"", tls: tuple[Path, str] | None = None
) -> bool:
    """Whether a small GET is answered with 200 at *address*.

    :param before: bytes in front of everything, such as a PROXY header.
    :param tls: who vouches for the server, and its name; None for plain HTTP.
    :raises OSError: nobody answers.
    """
    with socket.create_connection(address, timeout=5) as raw:
        raw.sendall(before)
        sock = raw
        if tls is not None:
            context = ssl.create_default_context(cafile=str(tls[0]))
            sock = context.wrap_socket(raw, server_hostname=tls[1])
        sock.sendall(
            b"GET /api/v1/namespaces/default/configmaps/small HTTP/1.1\r\nHost: bench\r\n"
            b"Connection: close\r\n\r\n"
        )
        return sock.recv(12).endswith(b" 200")
