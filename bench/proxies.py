"""The proxies that are compared, each as its users would run it."""

from __future__ import annotations

import json
import os
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench import meter
from bench.doors import Door, Way
from bench.ground import CALLER, DOOR_NAME, PEER, PEER_SERVICE, STOP_SECONDS, USER, first_answer
from tests.lab.errors import LabError
from tests.lab.tailnet import DOMAIN, PROXY, QUIET
from tests.proxyheader import proxy_header

if TYPE_CHECKING:
    from bench.ground import Ground, Upstream

START_SECONDS = 40.0
#: What a proxy's memory is looked at after, since its first answer.
SETTLE_SECONDS = 1.0


class Proxy(ABC):
    """One proxy in front of one upstream.

    :ivar started: ``start_s`` and ``rss_mib_idle`` of each start, until they are taken.
    """

    name: ClassVar[str]

    def __init__(self, ground: Ground, upstream: Upstream) -> None:
        self.ground = ground
        self.upstream = upstream
        self.started: list[dict[str, float]] = []

    @abstractmethod
    def door(self, way: Way) -> Door | None:
        """Where clients come in that way; None if the proxy has no such door."""

    @abstractmethod
    def launch(self) -> None:
        """Start its processes."""

    @abstractmethod
    def answering(self) -> bool:
        """Whether a request is answered; an `OSError` counts as no."""

    def start(self) -> None:
        """Start it, wait until it answers, and note how long that took.

        :raises LabError: it ends, or does not answer.
        """
        began = time.monotonic()
        self.launch()
        self.ground.processes.wait_ready(self.name, self.answering, START_SECONDS, every=0.005)
        took = time.monotonic() - began
        time.sleep(SETTLE_SECONDS)
        rss = meter.rss_kib(self.family(Way.PLAIN)) / 1024
        self.started.append({"start_s": took, "rss_mib_idle": rss})

    def stop(self) -> None:
        """End it."""
        self.ground.processes.stop(self.name, STOP_SECONDS)

    def family(self, way: Way) -> list[int]:
        """The processes whose work is counted when clients come that way."""
        return meter.family([self.ground.processes[self.name].pid])

    def forget_log(self) -> None:
        """Make its log empty, that the disk may not run full."""
        os.truncate(self.ground.run / f"{self.name}.log", 0)

    def _source(self) -> str:
        return f"{self.ground.caller_address}:20000"

    def _over_tailnet(self, host: str) -> Door:
        via = self.ground.tailnet.nodes[CALLER].http_proxy.removeprefix("http://")
        return Door(f"https://{host}", f"{host}:443", via=via, ca=self.ground.tailnet.ca_file)

    def _own_tls(self, address: str, port: int, *, source: str | None = None) -> Door:
        return Door(
            f"https://{DOOR_NAME}", f"{address}:{port}", source=source, ca=self.ground.door[2]
        )


class Direct(Proxy):
    """No proxy."""

    name = "direct"

    def launch(self) -> None:
        """Start nothing."""

    def answering(self) -> bool:
        return True

    def start(self) -> None:
        """Note nothing: there is no process."""

    def stop(self) -> None:
        """End nothing."""

    def forget_log(self) -> None:
        """Forget nothing."""

    def family(self, way: Way) -> list[int]:
        return []

    def door(self, way: Way) -> Door:
        up = self.upstream
        return Door(up.url, up.url.removeprefix("https://"), ca=up.ca, client=up.client)


class GoStdlib(Proxy):
    """The reverse proxy of Go's standard library (``go/tools/stdproxy``)."""

    name = "go-stdlib"

    def __init__(self, ground: Ground, upstream: Upstream) -> None:
        super().__init__(ground, upstream)
        self._port = ground.ports.take()

    def launch(self) -> None:
        certificate, key, _ = self.ground.door
        self.ground.processes.start(
            self.name,
            [
                self.ground.tools["stdproxy"],
                "-listen", f"127.0.0.1:{self._port}", "-cert", certificate, "-key", key,
                "-upstream", self.upstream.url, "-ca", self.upstream.ca,
                "-token", self.upstream.token, "-user", USER,
            ],
        )  # fmt: skip

    def answering(self) -> bool:
        return first_answer(("127.0.0.1", self._port), tls=(self.ground.door[2], DOOR_NAME))

    def door(self, way: Way) -> Door | None:
        return self._own_tls("127.0.0.1", self._port) if way is Way.TLS else None


class GoPeer(Proxy):
    """The Go peer, as it is released. Its port for tailscaled's connections is fixed: 80."""

    name = "go-peer"
    address: ClassVar[tuple[str, int]] = ("127.0.0.1", 80)

    def __init__(self, ground: Ground, upstream: Upstream) -> None:
        super().__init__(ground, upstream)
        self._health = ground.ports.take()

    def launch(self) -> None:
        folder = self.ground.run / PEER
        folder.mkdir(mode=0o700, exist_ok=True)
        control = self.ground.tailnet.control_url
        config = {
            "version": "v1alpha1",
            "AuthKey": "lab",
            "ServerURL": control,
            "Hostname": PEER,
            "State": str(folder / "state"),
            "LogLevel": "info",
            "LocalAddr": "127.0.0.1",
            "LocalPort": self._health,
            "MetricsEnabled": True,
            "HealthCheckEnabled": True,
            "AdvertiseServices": [PEER_SERVICE],
            "APIServerProxy": {
                "Enabled": True,
                "Mode": "auth",
                "ServiceName": PEER_SERVICE,
                "IssueCerts": True,
            },
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        self.ground.processes.start(
            self.name,
            [self.ground.tools["k8s-proxy"]],
            env={
                **QUIET,
                "TS_K8S_PROXY_CONFIG": str(folder / "config.json"),
                "TS_DEBUG_ACME_DIRECTORY_URL": f"{control}/acme/directory",
                "KUBECONFIG": str(self.upstream.kubeconfig),
                "HOME": str(folder),
                "XDG_CONFIG_HOME": str(folder),
            },
        )

    def answering(self) -> bool:
        return first_answer(self.address, proxy_header(self.ground.caller_address))

    def door(self, way: Way) -> Door | None:
        if way is Way.PLAIN:
            authority = "{}:{}".format(*self.address)
            return Door(f"http://{authority}", authority, source=self._source())
        if way is Way.TAILNET:
            return self._over_tailnet(f"{PEER_SERVICE.removeprefix('svc:')}.{DOMAIN}")
        return None


class Nginx(Proxy):
    """nginx with one worker, set to pass on at once; it impersonates one user for all."""

    name = "nginx"

    def __init__(self, ground: Ground, upstream: Upstream) -> None:
        super().__init__(ground, upstream)
        self._port = ground.ports.take()

    def launch(self) -> None:
        folder = self.ground.run / self.name
        folder.mkdir(mode=0o700, exist_ok=True)
        certificate, key, _ = self.ground.door
        file = folder / "nginx.conf"
        file.write_text(
            (Path(__file__).parent / "nginx.conf")
            .read_text(encoding="utf-8")
            .replace("@FOLDER@", str(folder))
            .replace("@LISTEN@", f"127.0.0.1:{self._port}")
            .replace("@CERTIFICATE@", str(certificate))
            .replace("@KEY@", str(key))
            .replace("@UPSTREAM@", self.upstream.url.removeprefix("https://"))
            .replace("@CA@", str(self.upstream.ca))
            .replace("@TOKEN@", self.upstream.token)
            .replace("@USER@", USER)
        )
        nginx = self.ground.nginx
        assert nginx is not None
        self.ground.processes.start(self.name, [nginx, "-p", folder, "-c", file])

    def answering(self) -> bool:
        return first_answer(("127.0.0.1", self._port), tls=(self.ground.door[2], DOOR_NAME))

    def door(self, way: Way) -> Door | None:
        return self._own_tls("127.0.0.1", self._port) if way is Way.TLS else None


class Tailproxy(Proxy):
    """``twistd tailproxy`` as it is shipped: identity, impersonation, metrics, access log.

    :cvar workers: how many.
    :param socket: LocalAPI of the tailscaled to ask; the proxy node's, unless told.
    """

    workers: ClassVar[int]
    address = "127.0.0.2"

    def __init__(self, ground: Ground, upstream: Upstream, socket: Path | None = None) -> None:
        super().__init__(ground, upstream)
        self._plain = ground.ports.take()
        self._tls = ground.ports.take()
        self._admin = ground.ports.take()
        self._socket = socket or ground.tailnet.nodes[PROXY].socket

    def config(self) -> dict[str, Any]:
        """Its whole configuration."""
        certificate, key, _ = self.ground.door
        return {
            "Version": "v1alpha1",
            "Tailproxy": {
                "Listeners": [
                    {"Name": "plain", "Kind": "serve", "Address": f"{self.address}:{self._plain}"},
                    {
                        "Name": "tls",
                        "Kind": "serve",
                        "Address": f"{self.address}:{self._tls}",
                        "TLS": "own",
                    },
                ],
                "Tailscaled": {"Socket": str(self._socket)},
                "Upstream": {"Kubeconfig": str(self.upstream.kubeconfig)},
                "Certificates": {"Source": "files", "Chain": str(certificate), "Key": str(key)},
                "Admin": {"Address": self.address, "Port": self._admin},
                "Workers": self.workers,
            },
        }

    def launch(self) -> None:
        file = self.ground.run / f"{self.name}.hujson"
        file.write_text(json.dumps(self.config(), indent=1))
        twistd = Path(sys.executable).with_name("twistd")
        self.ground.processes.start(
            self.name, [twistd, "-n", "--pidfile=", "tailproxy", "--config", file]
        )

    def answering(self) -> bool:
        header = proxy_header(self.ground.caller_address)
        return first_answer((self.address, self._plain), header)

    def door(self, way: Way) -> Door | None:
        if way is Way.PLAIN:
            authority = f"{self.address}:{self._plain}"
            return Door(f"http://{authority}", authority, source=self._source())
        if way is Way.TLS:
            return self._own_tls(self.address, self._tls, source=self._source())
        # There is one port 443, and it leads to whoever is asked for it last.
        node = self.ground.tailnet.nodes[PROXY]
        node.serve(443, f"{self.address}:{self._plain}")
        return self._over_tailnet(node.fqdn)

    def family(self, way: Way) -> list[int]:
        roots = [self.ground.processes[self.name].pid]
        if way is Way.TAILNET:
            roots.append(self.ground.processes[self.ground.tailnet.nodes[PROXY].process].pid)
        return meter.family(roots)


class Tailproxy1(Tailproxy):
    """With one worker: one process."""

    name = "tailproxy-1"
    workers = 1


class Tailproxy2(Tailproxy):
    """With two workers."""

    name = "tailproxy-2"
    workers = 2


PROXIES: dict[str, type[Proxy]] = {
    kind.name: kind for kind in (Direct, GoStdlib, GoPeer, Nginx, Tailproxy1, Tailproxy2)
}


def available(ground: Ground, name: str) -> str | None:
    """Why a proxy cannot be measured here; None if it can.

    :raises LabError: there is none of that name.
    """
    if name not in PROXIES:
        raise LabError(f"there is no proxy {name!r}; there are {', '.join(PROXIES)}")
    if name == "nginx" and ground.nginx is None:
        return "nginx is not installed"
    return None
