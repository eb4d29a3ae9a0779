"""The cluster of the default lab: its nodes are simulated by kwok. Needs no root, only Linux.

Pods go Running at once. ``exec`` runs its command on this machine, ``logs`` and ``attach`` show a
file, and ``port-forward`` arrives at an echo server of the lab, whatever the port; all of them
stream for real. What kwok cannot do: exit codes of ``exec``, the end of its input (``cat`` waits
for ever), and input of ``attach``.
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tests.lab.cluster import MANIFESTS, Cluster
from tests.lab.network import MACHINE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.lab.network import Ports
    from tests.lab.process import Processes

LOG_LINES = 100


class KwokCluster(Cluster):
    """etcd, the control plane and kwok on loopback, at free ports."""

    kind = "kwok"
    parts: ClassVar[tuple[str, ...]] = (
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubectl",
        "kwok",
    )
    network = MACHINE

    def __init__(
        self, run: Path, processes: Processes, ports: Ports, binaries: Mapping[str, Path]
    ) -> None:
        super().__init__(run, processes, ports, binaries)
        self.api_address = ("127.0.0.1", ports.take())
        self._kubelet_port = ports.take()
        self._echo_port = ports.take()

    def start(self, say: Callable[[str], None]) -> None:
        self.write_pki()
        self.start_etcd()
        self.start_apiserver()
        say("kube-apiserver is ready")
        self.start_controller_manager()
        self.start_scheduler()
        self._start_kwok()
        self.apply("access.yaml", "kwok-objects.yaml")
        self.write_proxy_kubeconfig()
        self.wait_access()
        self.wait_pods("shell")
        say("the cluster is ready")

    def stop(self) -> None:
        for name in (
            "kwok",
            "echo",
            "kube-scheduler",
            "kube-controller-manager",
            "kube-apiserver",
            "etcd",
        ):
            self.processes.stop(name, timeout=2)

    def apiserver_arguments(self) -> list[str | Path]:
        return [
            *super().apiserver_arguments(),
            "--bind-address", "127.0.0.1",
            "--advertise-address", "127.0.0.1",
            "--endpoint-reconciler-type", "none",
            "--authorization-mode", "RBAC",
        ]  # fmt: skip

    def _start_kwok(self) -> None:
        pod = self.run / "pod"
        pod.mkdir(exist_ok=True)
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        lines = (f"{now} stdout F line {number}\n" for number in range(1, LOG_LINES + 1))
        self.log_file.write_text("".join(lines))
        config = (MANIFESTS / "kwok.yaml").read_text()
        config = config.replace("@POD@", str(pod)).replace("@ECHO@", str(self._echo_port))
        (self.run / "kwok.yaml").write_text(config)
        self.processes.start(
            "echo",
            [sys.executable, "-m", "tests.lab.echo", str(self._echo_port)],
            network=self.network,
            cwd=Path(__file__).parents[2],
        )
        self.processes.start(
            "kwok",
            [
                self.binaries["kwok"],
                "--kubeconfig", self.admin_kubeconfig,
                "--config", self.run / "kwok.yaml",
                "--node-lease-duration-seconds", "40",
                "--manage-all-nodes",
                "--node-ip", "127.0.0.1",
                "--node-port", str(self._kubelet_port),
                "--server-address", f"127.0.0.1:{self._kubelet_port}",
                "--tls-cert-file", self.pki / "kubelet.crt",
                "--tls-private-key-file", self.pki / "kubelet.key",
            ],
            network=self.network,
        )  # fmt: skip

    @property
    def log_file(self) -> Path:
        """What ``logs`` of any pod shows, in the format of the CRI: ``TIME stdout F TEXT``."""
        return self.run / "pod" / "log"
