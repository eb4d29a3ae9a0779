"""``twistd tailproxy`` in the lab, started as its user would start it."""

from __future__ import annotations

import http.client
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab.tailnet import DOMAIN, PROXY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.lab.lab import Lab

READY_SECONDS = 30.0
#: Longer than a drain takes by default (`Tailproxy.Drain.Streams`).
STOP_SECONDS = 30.0
ADDRESSES = {"serve": "127.0.0.2", "loopback": "127.0.0.1"}


class Service:
    """One tailproxy; made by `Lab.start_tailproxy`.

    :ivar config: its whole configuration; change it between `stop` and `start`.
    :ivar file: where that is written.
    :ivar listeners: address and port of each listener, by kind.
    :ivar admin: address and port of the admin listener.
    """

    def __init__(
        self,
        lab: Lab,
        name: str,
        kinds: tuple[str, ...],
        tailproxy: Mapping[str, Any],
        config: Mapping[str, Any],
    ) -> None:
        self._lab = lab
        self.name = name
        self.listeners = {kind: (ADDRESSES[kind], lab.ports.take()) for kind in kinds}
        self.admin = ("127.0.0.2", lab.ports.take())
        self.file = lab.run / f"{name}.hujson"
        self.config: dict[str, Any] = {
            "Version": "v1alpha1",
            **config,
            "Tailproxy": {
                "Listeners": [
                    {"Kind": kind, "Address": f"{address}:{port}"}
                    for kind, (address, port) in self.listeners.items()
                ],
                "Tailscaled": {"Socket": str(lab.tailnet.nodes[PROXY].socket)},
                "Upstream": {"Kubeconfig": str(lab.cluster.proxy_kubeconfig)},
                "Admin": {"Address": self.admin[0], "Port": self.admin[1]},
                "Workers": lab.workers,
                **tailproxy,
            },
        }

    def url(self, kind: str = "serve") -> str:
        """The URL by which callers reach a listener over the tailnet."""
        if kind == "serve":
            return f"https://proxy.{DOMAIN}"
        return f"https://proxy.{DOMAIN}:{self.listeners[kind][1]}"

    @property
    def log(self) -> Path:
        """What it writes on its standard streams."""
        return self._lab.run / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._lab.processes[self.name].pid

    @property
    def pids(self) -> list[int]:
        """The process ids of all its processes: the first one's, and those of its workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [self.pid, *map(int, children.split())]

    @property
    def argv(self) -> list[str]:
        """The command, as its user would type it."""
        twistd = str(Path(sys.executable).with_name("twistd"))
        return [twistd, "-n", "--pidfile=", "tailproxy", "--config", str(self.file)]

    def start(self, *, ready: str | None = "/readyz", env: Mapping[str, str] | None = None) -> None:
        """Write the configuration, make the listeners known to the tailnet, start, wait.

        :param ready: the admin page that must answer 200; None to wait for nothing.
        :raises LabError: it ends, or is not ready in time; with the end of its log.
        """
        self.file.write_text(json.dumps(self.config, indent=1))
        self.announce()
        for kind, (_, port) in self.listeners.items():
            if kind != "serve":
                self._lab.tailnet.allow(f"tcp:{port}")
        self._lab.processes.start(self.name, self.argv, network=self._lab.cluster.network, env=env)
        if ready is not None:
            self._lab.processes.wait_ready(
                self.name,
                lambda: self.get_admin(ready)[0] == 200 and self._complete(),
                READY_SECONDS,
            )

    def _complete(self) -> bool:
        """Whether all of its workers are there."""
        workers = self._lab.workers
        return (
            workers in {None, 1}
            or f"{workers} of {workers} ready" in (self.get_admin("/readyz?verbose")[1])
        )

    def announce(self) -> None:
        """Have port 443 of the proxy node lead here, and no longer to another one."""
        if "serve" in self.listeners:
            address, port = self.listeners["serve"]
            self._lab.tailnet.nodes[PROXY].serve(443, f"{address}:{port}")

    def stop(self, timeout: float = STOP_SECONDS) -> int | None:
        """End it as ``kill`` would (SIGTERM), and SIGKILL after *timeout* s. Its exit status."""
        if self.name not in self._lab.processes:
            return None
        process = self._lab.processes[self.name]
        self._lab.processes.stop(self.name, timeout)
        return process.returncode

    def get_admin(self, path: str) -> tuple[int, str]:
        """A page of the admin listener: status and text.

        :raises OSError: nothing answers there.
        """
        connection = http.client.HTTPConnection(*self.admin)
        connection.sock = self._lab.cluster.network.connect(self.admin)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise OSError(f"admin listener: {error!r}") from error
        finally:
            connection.close()
