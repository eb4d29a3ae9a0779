"""The cluster of a lab: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, and nodes.

What stands in for nodes is the difference between the kinds: `tests.lab.kwok` simulates them
(no root), `tests.lab.node` runs a kubelet with containers (root).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

from tests.lab import kubeconfig, pki
from tests.lab.api import Api
from tests.lab.errors import LabError
from tests.lab.network import MACHINE, Network, Ports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.lab.process import Processes

MANIFESTS = Path(__file__).parent / "manifests"
#: Everything about every request but its body, once it is answered.
AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
"""
READY_SECONDS = 60.0


class Cluster(ABC):
    """A cluster with the lab's people in its RBAC.

    :param run: the lab's run folder; what is named below is in it.
    :param processes: starts and ends the cluster's processes.
    :param ports: where free ports come from.
    :param binaries: paths of the programs, by the names in `parts`.
    :ivar network: where the API server can be reached.
    :ivar api_address: numeric address and port of the API server.
    """

    #: ``kwok`` or ``kubelet``.
    kind: ClassVar[str]
    #: The programs it runs, by their names in `tests.lab.build`.
    parts: ClassVar[tuple[str, ...]]
    network: Network
    api_address: tuple[str, int]

    def __init__(
        self, run: Path, processes: Processes, ports: Ports, binaries: Mapping[str, Path]
    ) -> None:
        self.run = run
        self.processes = processes
        self.ports = ports
        self.binaries = binaries
        self.pki = run / "pki"
        self.ca_file = self.pki / "ca.crt"
        self.admin_kubeconfig = run / "admin.kubeconfig"
        self.proxy_kubeconfig = run / "proxy.kubeconfig"
        self.audit_log = run / "audit.log"
        self.etcd_ports = (ports.take(), ports.take())

    @abstractmethod
    def start(self, say: Callable[[str], None]) -> None:
        """Start everything; return when the lab's pods are ready and its people have their rights.

        :param say: is told what is done, in short lines.
        :raises LabError: a part does not start.
        """

    @abstractmethod
    def stop(self) -> None:
        """End the cluster's processes and remove what they left outside the run folder."""

    @classmethod
    def check_machine(cls) -> None:
        """Look whether this machine can run it at all, before anything is built.

        :raises LabError: something is missing; with the next step.
        """
        if sys.platform != "linux":
            raise LabError(f"the lab runs on Linux only, and this is {sys.platform}")

    @classmethod
    def remains(cls, run: Path) -> list[str]:  # noqa: ARG003 - most kinds leave nothing
        """What a cluster that crashed has left on the machine outside *run*, processes aside.

        Each in words for the user, such as ``network namespace labnode``.
        """
        return []

    @classmethod
    def remove_remains(cls, run: Path) -> None:
        """Remove what `remains` names; the processes of *run* have been ended before."""
        raise NotImplementedError(f"{cls.__name__} leaves nothing outside {run}")

    @property
    def api_url(self) -> str:
        """``https://ADDRESS:PORT`` of the API server."""
        return "https://{}:{}".format(*self.api_address)

    @property
    def kubectl_prefix(self) -> list[str]:
        """Words to put before a command so that it runs where the API server can be reached."""
        return list(self.network.prefix)

    @property
    def api(self) -> Api:
        """The API server as its administrator sees it."""
        return Api(
            self.network,
            self.api_address,
            self.ca_file,
            self.pki / "admin.crt",
            self.pki / "admin.key",
        )

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """Run kubectl as the administrator; what it prints.

        :raises LabError: it failed; with its own words.
        """
        argv = [
            *self.kubectl_prefix,
            str(self.binaries["kubectl"]),
            "--kubeconfig",
            str(self.admin_kubeconfig),
            *words,
        ]
        env = {**os.environ, "KUBECACHEDIR": str(self.run / "kubectl-cache")}
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, env=env, check=False
        )
        if done.returncode != 0:
            raise LabError(f"kubectl {' '.join(words)} failed:\n{done.stderr.strip()}")
        return done.stdout

    def start_etcd(self, data: Path | None = None) -> None:
        """Start etcd, its data in *data* (default: the run folder)."""
        client, peer = (f"http://127.0.0.1:{port}" for port in self.etcd_ports)
        self.processes.start(
            "etcd",
            [
                self.binaries["etcd"],
                "--data-dir", data or self.run / "etcd",
                "--unsafe-no-fsync",
                "--log-level", "warn",
                "--listen-client-urls", client,
                "--advertise-client-urls", client,
                "--listen-peer-urls", peer,
            ],
            network=self.network,
        )  # fmt: skip

    def apiserver_arguments(self) -> list[str | Path]:
        """Arguments of kube-apiserver that the kinds have in common."""
        return [
            "--etcd-servers", f"http://127.0.0.1:{self.etcd_ports[0]}",
            "--secure-port", str(self.api_address[1]),
            "--cert-dir", self.run / "apiserver",
            "--tls-cert-file", self.pki / "apiserver.crt",
            "--tls-private-key-file", self.pki / "apiserver.key",
            "--client-ca-file", self.ca_file,
            "--kubelet-client-certificate", self.pki / "admin.crt",
            "--kubelet-client-key", self.pki / "admin.key",
            "--kubelet-certificate-authority", self.ca_file,
            "--kubelet-preferred-address-types", "InternalIP",
            "--service-account-issuer", "https://kubernetes.default.svc",
            "--service-account-key-file", self.pki / "sa.pub",
            "--service-account-signing-key-file", self.pki / "sa.key",
            "--api-audiences", "https://kubernetes.default.svc",
            "--service-cluster-ip-range", "10.96.0.0/16",
            "--allow-privileged",
            "--max-requests-inflight", "4000",
            "--max-mutating-requests-inflight", "2000",
            "--audit-policy-file", self.run / "audit-policy.yaml",
            "--audit-log-path", self.audit_log,
        ]  # fmt: skip

    def start_apiserver(self) -> None:
        """Start kube-apiserver (again, with the same data) and wait for it."""
        (self.run / "audit-policy.yaml").write_text(AUDIT_POLICY)
        self.processes.start(
            "kube-apiserver",
            [self.binaries["kube-apiserver"], *self.apiserver_arguments()],
            network=self.network,
        )
        self.processes.wait_ready("kube-apiserver", self.api.ready, READY_SECONDS)

    def stop_apiserver(self) -> None:
        """End kube-apiserver alone. It does not wait for open watches."""
        self.processes.stop("kube-apiserver", timeout=1)

    def start_controller_manager(self) -> None:
        """Start kube-controller-manager; it is not waited for."""
        self.processes.start(
            "kube-controller-manager",
            [
                self.binaries["kube-controller-manager"],
                "--kubeconfig", self.run / "controller-manager.kubeconfig",
                "--secure-port", "0",
                "--leader-elect=false",
                "--service-account-private-key-file", self.pki / "sa.key",
                "--root-ca-file", self.ca_file,
                "--use-service-account-credentials",
                # One token per controller: at the default rate that alone takes seconds.
                "--kube-api-qps", "500",
                "--kube-api-burst", "500",
            ],
            network=self.network,
        )  # fmt: skip

    def start_scheduler(self) -> None:
        """Start kube-scheduler; it is not waited for."""
        self.processes.start(
            "kube-scheduler",
            [
                self.binaries["kube-scheduler"],
                "--kubeconfig", self.run / "scheduler.kubeconfig",
                "--secure-port", "0",
                "--leader-elect=false",
            ],
            network=self.network,
        )  # fmt: skip

    def write_pki(self, *server_names: str) -> None:
        """Keys, certificates and the administrators' kubeconfigs.

        :param server_names: DNS names and addresses of the API server besides the usual ones.
        """
        pki.write_cluster(self.pki, (self.api_address[0], *server_names))
        for name in ("admin", "controller-manager", "scheduler", "kubelet"):
            kubeconfig.write(
                self.run / f"{name}.kubeconfig",
                server=self.api_url,
                ca_file=self.ca_file,
                user=kubeconfig.with_certificate(
                    self.pki / f"{name}.crt", self.pki / f"{name}.key"
                ),
            )

    def write_proxy_kubeconfig(self) -> None:
        """The kubeconfig of the service account that tailproxy uses (``access.yaml``)."""
        kubeconfig.write(
            self.proxy_kubeconfig,
            server=self.api_url,
            ca_file=self.ca_file,
            user=kubeconfig.with_token(self.api.token("tailscale", "proxy")),
        )

    def apply(self, *names: str) -> None:
        """Create the objects of manifests, by their file names in ``manifests/``."""
        files = [word for name in names for word in ("-f", str(MANIFESTS / name))]
        self.kubectl("apply", "--validate=false", *files)

    def wait_access(self) -> None:
        """Wait until RBAC knows alice and the engineers.

        The roles ``edit`` and ``view`` are put together by kube-controller-manager.
        """
        engineers = ("tag:engineering",)
        self._wait(
            "the roles edit and view",
            lambda: (
                self.api.allowed("create", "pods", user="alice@example.com", namespace="default")
                and self.api.allowed("list", "pods", groups=engineers)
            ),
        )

    def wait_pods(self, *names: str) -> None:
        """Wait until pods of the default namespace are ready."""

        def ready(name: str) -> bool:
            status, _ = self.api.send("GET", path := f"/api/v1/namespaces/default/pods/{name}")
            conditions = status == 200 and self.api.call("GET", path)["status"].get("conditions")
            return any(
                row["type"] == "Ready" and row["status"] == "True" for row in conditions or ()
            )

        self._wait(f"pods {', '.join(names)}", lambda: all(map(ready, names)))

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise LabError(
                    f"{what}: not ready after {READY_SECONDS:.0f} s; the logs are in {self.run}, "
                    f"try `kubectl --kubeconfig {self.admin_kubeconfig} get events -A`"
                )
            for process in self.processes:
                if not process.running:
                    raise LabError(
                        f"{process.name} ended with status {process.returncode}; the end of "
                        f"{process.log}:\n{process.tail()}"
                    )
            time.sleep(0.05)


class GivenCluster(Cluster):
    """A cluster that is there already: nothing of it is started or ended.

    :param given: a kubeconfig whose identity may impersonate users and groups.
    """

    kind = "given"
    parts = ("kubectl",)
    network = MACHINE

    def __init__(
        self,
        run: Path,
        processes: Processes,
        ports: Ports,
        binaries: Mapping[str, Path],
        given: Path,
    ) -> None:
        super().__init__(run, processes, ports, binaries)
        if not given.is_file():
            raise LabError(f"kubeconfig {given}: no such file")
        self.admin_kubeconfig = self.proxy_kubeconfig = given.absolute()
        url = urlsplit(self.kubectl("config", "view", "--minify", "-o", "jsonpath={..server}"))
        self.api_address = (url.hostname or "", url.port or 443)

    def start(self, say: Callable[[str], None]) -> None:
        say(f"the cluster is the one of {self.admin_kubeconfig}")

    def stop(self) -> None:
        """Leave it as it is."""
