"""One lab: a cluster, a tailnet, and the people who call."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tests.lab import build, kubeconfig
from tests.lab.cluster import Cluster, GivenCluster
from tests.lab.errors import LabError
from tests.lab.kwok import KwokCluster
from tests.lab.network import Ports
from tests.lab.process import (
    MARK,
    Processes,
    leashed,
    leftovers,
    replace,
    start_time,
)
from tests.lab.progress import Progress
from tests.lab.service import Service
from tests.lab.tailnet import CALLERS, DOMAIN, PROXY, Tailnet

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

NODES = ("kwok", "kubelet")
SERVER = f"https://proxy.{DOMAIN}"
#: kubectl by its generation, with the name of the program in `tests.lab.build`.
KUBECTLS = {"1.36": "kubectl", "1.27": "kubectl-1.27"}
KUBECTL_SECONDS = 60.0


def base() -> Path:
    """The folder of all labs of this user.

    It is short, since a unix socket's path may have 107 bytes.

    :raises LabError: somebody else owns a folder of that name.
    """
    folder = Path(tempfile.gettempdir()) / f"tailproxy-lab-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise LabError(f"{folder} is somebody else's; set TMPDIR to a folder of yours")
    return folder


def cluster_kind(node: str) -> type[Cluster]:
    """The class of a kind of node, ``kwok`` or ``kubelet``."""
    if node == KwokCluster.kind:
        return KwokCluster
    from tests.lab.node import NodeCluster  # noqa: PLC0415 - it wants root and Linux packages

    return NodeCluster


def _lock(file: IO[bytes]) -> bool:
    """Lock a file as this process's own; False if another process has it.

    It is tried for a moment, since others look whether it is locked by locking it.
    """
    for _ in range(10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False


class Lab:
    """A lab that lives as long as this object: ``with Lab("mine") as lab:``.

    :param name: tells apart labs that run at once; of one name there is one.
    :param node: ``kwok`` or ``kubelet``.
    :param workers: `Workers` of every tailproxy in it; None leaves the choice to tailproxy.
    :param given: a kubeconfig of a cluster that is there already; then only the tailnet is ours.
    :ivar run: folder of everything it writes; gone when it ends, unless told otherwise.
    """

    def __init__(
        self,
        name: str = "default",
        *,
        node: str = "kwok",
        workers: int | None = None,
        given: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.name = name
        self.node = node
        self.workers = workers
        self.given = given
        self.progress = progress or Progress()
        self.run = base() / name
        self.processes = Processes(self.run)
        self.ports = Ports(base() / ".ports")
        self._lock: IO[bytes] | None = None
        self.cluster: Cluster
        self.tailnet: Tailnet

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException as error:
            self.close(keep=isinstance(error, Exception))
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(keep=isinstance(error, Exception))

    @property
    def parts(self) -> list[str]:
        """The programs it runs, by their names in `tests.lab.build`."""
        kind = GivenCluster if self.given else cluster_kind(self.node)
        return [*Tailnet.parts, *kind.parts]

    def start(self) -> None:
        """Build what is missing, start everything, and return when it is ready.

        :raises LabError: a part is missing or does not start, a lab of this name runs, or one
            has left something behind.
        """
        if not self.given:
            cluster_kind(self.node).check_machine()
        binaries = build.ensure(self.parts, progress=self.progress)
        self._take()
        self.write_state("starting")
        if self.given:
            self.cluster = GivenCluster(
                self.run, self.processes, self.ports, binaries, given=self.given
            )
        else:
            kind = cluster_kind(self.node)
            self.cluster = kind(self.run, self.processes, self.ports, binaries)
        self.cluster.start(self.progress.say)
        self.tailnet = Tailnet(self.run, self.processes, self.ports, binaries, self.cluster.network)
        self.tailnet.start(self.progress.say)
        for caller in CALLERS:
            self.kubeconfig(caller)
        self.write_state("ready")

    def _take(self) -> None:
        """Make the run folder this lab's own."""
        lock = (base() / f".{self.name}.lock").open("ab")
        if not _lock(lock):
            lock.close()
            raise LabError(
                f"the lab {self.name!r} is up already (`python -m tests.lab status` shows it); "
                f"end it with `python -m tests.lab down --name {self.name}`, or choose another "
                f"--name"
            )
        self._lock = lock
        if found := [
            *(f"{row.name} (process {row.pid})" for row in leftovers(self.run)),
            *cluster_kind(self.node).remains(self.run),
        ]:
            self._lock.close()
            self._lock = None
            raise LabError(
                f"an earlier lab {self.name!r} has left behind: {', '.join(found)}; remove that "
                f"with `python -m tests.lab down --name {self.name}`"
            )
        shutil.rmtree(self.run, ignore_errors=True)
        self.run.mkdir(mode=0o700)

    def write_state(self, state: str) -> None:
        """Write down what other processes may want to know of the lab."""
        facts = {
            "name": self.name,
            "node": self.node,
            "state": state,
            "pid": os.getpid(),
            "started": start_time(os.getpid()),
        }
        replace(self.run / "lab.json", json.dumps(facts, indent=1))

    def close(self, *, keep: bool = False) -> None:
        """End all of it.

        :param keep: whether the run folder, with the logs, stays.
        """
        if self._lock is None:
            return
        if hasattr(self, "cluster"):
            self.cluster.stop()
        self.processes.close()
        self.ports.close()
        if keep:
            self.write_state("failed")
            self.progress.say(f"the logs are in {self.run}")
        else:
            shutil.rmtree(self.run, ignore_errors=True)
        self._lock.close()
        self._lock = None

    def kubeconfig(self, caller: str, server: str = SERVER, path: Path | None = None) -> Path:
        """The kubeconfig of a caller, written anew; ``admin`` and ``proxy`` have theirs already.

        It goes through the caller's tailnet node and shows a token that means nothing: who the
        caller is says the tailnet.

        :param server: URL of tailproxy.
        :param path: default: ``NAME.kubeconfig`` in the run folder.
        """
        if caller == "admin":
            return self.cluster.admin_kubeconfig
        if caller == PROXY:
            return self.cluster.proxy_kubeconfig
        return kubeconfig.write(
            path or self.run / f"{caller}.kubeconfig",
            server=server,
            ca_file=self.tailnet.ca_file,
            user=kubeconfig.with_token("unused"),
            proxy_url=self.tailnet.nodes[caller].http_proxy,
        )

    def binary(self, name: str) -> Path:
        """The path of a program of `tests.lab.build`, built if it is missing."""
        return build.ensure([name], progress=self.progress)[name]

    def kubectl_words(self, caller: str, *words: str, version: str = "1.36") -> list[str]:
        """The words of a kubectl command as a caller, for whoever starts it in their own way."""
        file = self.run / f"{caller}.kubeconfig"
        return [
            *self.cluster.kubectl_prefix,
            str(self.binary(KUBECTLS[version])),
            "--kubeconfig",
            str(file if file.exists() else self.kubeconfig(caller)),
            *words,
        ]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of kubectl: nothing of the user's own configuration counts."""
        mine = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
        return {**mine, "KUBECACHEDIR": str(self.run / "kubectl-cache"), MARK: str(self.run)}

    def kubectl(
        self,
        caller: str,
        *words: str,
        version: str = "1.36",
        stdin: str | bytes | None = None,
        timeout: float = KUBECTL_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as a caller to its end; its output as text, its status unchecked.

        :param version: a key of `KUBECTLS`.
        :param timeout: seconds, after which it is ended and `subprocess.TimeoutExpired` raised.
        """
        done = subprocess.run(
            self.kubectl_words(caller, *words, version=version),
            input=stdin.encode() if isinstance(stdin, str) else stdin or b"",
            capture_output=True,
            env=self.environment,
            timeout=timeout,
            check=False,
        )
        return subprocess.CompletedProcess(
            done.args,
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )

    def kubectl_process(
        self,
        caller: str,
        *words: str,
        version: str = "1.36",
        **popen: Any,
    ) -> subprocess.Popen[bytes]:
        """Start kubectl as a caller, with pipes as its streams; the lab's end is its own.

        :param popen: arguments of `subprocess.Popen` that differ, such as ``stdin`` for a terminal.
        """
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(
            leashed(self.kubectl_words(caller, *words, version=version)),
            **{**streams, "env": self.environment, **popen},
        )

    def start_tailproxy(
        self,
        *kinds: str,
        name: str = "tailproxy",
        tailproxy: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        ready: str | None = "/readyz",
        env: Mapping[str, str] | None = None,
    ) -> Service:
        """Start ``twistd tailproxy`` as its user would, on the lab's cluster and proxy node.

        :param kinds: its listeners, ``serve`` (the default) and ``loopback``. ``serve`` is made
            known to the proxy node, port 443; for ``loopback`` the port is granted by the policy.
        :param name: of the process.
        :param tailproxy: what to put into the object ``Tailproxy`` of its configuration.
        :param config: the same for the top level.
        :param ready: the admin page to wait for; None to wait for nothing.
        :raises LabError: it does not become ready.
        """
        service = Service(self, name, kinds or ("serve",), tailproxy or {}, config or {})
        service.start(ready=ready, env=env)
        return service
