"""The cluster of the real node: a kubelet, containerd and runc, with pods of real containers.

It wants root, Linux, and a few packages of the distribution (`PACKAGES`). It lives in namespaces
of its own: network (no way out, see `tests.lab.packets`), mounts and process ids. The last two have
a first process, the *holder*: with it the kernel ends every container and drops every mount. The
control plane shares the network namespace only; it ends as all processes of a lab do.

What the kernel does not take back are cgroups. All of them are below one whose name is the lab's,
so a lab that was killed can be recognised and cleaned up, and several labs can run at once.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tests.lab import images
from tests.lab.cluster import MANIFESTS, READY_SECONDS, Cluster
from tests.lab.errors import LabError
from tests.lab.network import Network
from tests.lab.packets import PacketWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.lab.network import Ports
    from tests.lab.process import Processes

#: Each program that is taken from the machine, and the package of Debian and Ubuntu it is in.
PACKAGES = {
    "busybox": "busybox-static",
    "containerd": "containerd",
    "ctr": "containerd",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "runc": "runc",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
#: Where distributions put the CNI plugins, and the plugins that `CNI_CONFIG` names.
CNI_FOLDERS = ("/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin")
CNI_PLUGINS = ("bridge", "host-local", "loopback")
CNI_PACKAGE = "containernetworking-plugins"
CNI_CONFIG = """\
{"cniVersion": "0.4.0", "name": "lab", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "@STATE@/cni", "ranges": [[{"subnet": "@PODS@"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "loopback"}]}
"""
ADDRESS = "10.77.0.1"
PODS = "10.78.0.0/24"
#: The address of the Service ``kubernetes``. The API server itself has it; so no kube-proxy.
SERVICE = "10.96.0.1"
#: The device of `ADDRESS`, and where packets go that are for nobody in the namespace.
DEVICE = "node0"
#: The holder: prepares mounts and network, then collects what orphans leave behind. Its arguments:
#: the folder of the state, and a file that it makes when it is done.
_HOLDER = f"""\
mount --make-rshared /
mount -t tmpfs tmpfs "$1"
# What is written here stays inside; the machine's own files can still be read.
for folder in /var/lib /var/log; do
  mkdir -p "$1/overlay$folder/upper" "$1/overlay$folder/work"
  mount -t overlay overlay "$folder" \
    -o "lowerdir=$folder,upperdir=$1/overlay$folder/upper,workdir=$1/overlay$folder/work"
done
mkdir -p /run/netns /run/containerd
# The last two: a machine's systemd must not be asked to make our mounts.
for folder in /run/netns /run/containerd /run/systemd /run/dbus; do
  [ ! -d "$folder" ] || mount -t tmpfs tmpfs "$folder"
done
# The kubelet insists on these and would set them for the whole machine.
while read -r name value; do
  [ -e "/proc/sys/$name" ] || continue
  echo "$value" >"$1/sysctl"
  mkdir -p "$1/${{name%/*}}"
  mv "$1/sysctl" "$1/$name"
  mount --bind "$1/$name" "/proc/sys/$name"
done <<END
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END
ip link set lo up
ip addr add {SERVICE}/32 dev lo
ip link add {DEVICE} type bridge
ip link set {DEVICE} arp off up
ip addr add {ADDRESS}/24 dev {DEVICE}
ip route add default dev {DEVICE}
if [ "$(cat /proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6 2>/dev/null)" = 0 ]; then
  ip addr add fd00:77::1/64 dev {DEVICE} nodad
  ip -6 route add default dev {DEVICE}
fi
echo 1 >/proc/sys/net/ipv4/ip_forward
: >"$2"
while :; do sleep 3600 & wait; done
"""
END_SECONDS = 10.0


def _path() -> str:
    """Where programs are looked for; a user's PATH often lacks the folders of root's programs."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def cgroup_name(run: Path) -> str:
    """The name of the cgroup of a lab, by its run folder."""
    return f"tailproxy-lab-{run.name}"


def cgroup_roots() -> dict[Path, str]:
    """Where cgroups are on this machine, each with ``cgroup`` (version 1) or ``cgroup2``."""
    rows = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return {Path(row[1]): row[2] for row in rows if row[2] in {"cgroup", "cgroup2"}}


def make_cgroup(name: str) -> None:
    """Make a cgroup in every hierarchy.

    :raises LabError: this is a container that may not make any.
    """
    roots = cgroup_roots()
    if not roots:
        raise LabError("no cgroups are mounted here; the real node wants /sys/fs/cgroup")
    for root, version in roots.items():
        # Beside version 1 the unified hierarchy has no controller that matters to containers.
        if version == "cgroup2" and "cgroup" not in roots.values():
            _hand_down_controllers(root)
        try:
            (root / name).mkdir(exist_ok=True)
        except OSError as error:
            raise LabError(
                f"no cgroup can be made in {root} ({error.strerror}); run the real node on the "
                f"machine itself, or in a container that may (`docker run --privileged`)"
            ) from error


def _hand_down_controllers(root: Path) -> None:
    for controller in (root / "cgroup.controllers").read_text().split():
        try:
            (root / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError as error:
            raise LabError(
                f"cgroup controller {controller} cannot be handed on below {root} "
                f"({error.strerror}): only a cgroup without processes of its own can be divided, "
                f"the machine's root excepted. Run the real node on the machine itself, or first "
                f"move this container's processes: `mkdir {root}/init; for p in $(cat "
                f"{root}/cgroup.procs); do echo $p >{root}/init/cgroup.procs; done`"
            ) from error


def cgroups(name: str) -> list[Path]:
    """The folders of a cgroup and those below it, in all hierarchies, the deepest first."""
    tops = (root / name for root in cgroup_roots())
    return [
        Path(folder) for top in tops if top.exists() for folder, _, _ in os.walk(top, topdown=False)
    ]


def remove_cgroups(name: str) -> None:
    """Remove a cgroup and those below it, whose processes end just now or have ended.

    :raises LabError: there are processes in it that go on.
    """
    deadline = time.monotonic() + END_SECONDS
    while folders := cgroups(name):
        last = ""
        for folder in folders:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                last = f"{folder}: {error.strerror}"
        if time.monotonic() > deadline:
            raise LabError(
                f"cgroup {name} cannot be removed ({last}); `cat {folders[0]}/cgroup.procs` lists "
                f"its processes: end them, then try again"
            )
        if last:
            time.sleep(0.05)


def machine_programs() -> dict[str, Path]:
    """The paths of the programs in `PACKAGES`, and under ``cni`` the folder of the CNI plugins.

    :raises LabError: this process is not root's, or packages are missing; all of them are named.
    """
    if os.geteuid() != 0:
        raise LabError(
            "the real node wants root (namespaces, cgroups, containers); next step: run this with "
            "sudo, or take the default node, --node kwok"
        )
    found = {name: shutil.which(name, path=_path()) for name in PACKAGES}
    cni = (Path(folder) for folder in CNI_FOLDERS)
    plugins = next((f for f in cni if all((f / name).exists() for name in CNI_PLUGINS)), None)
    missing = {PACKAGES[name] for name, path in found.items() if path is None}
    if plugins is None:
        missing.add(CNI_PACKAGE)
    if missing:
        raise LabError(
            f"the real node lacks packages of the distribution; next step: `apt-get install "
            f"--no-install-recommends {' '.join(sorted(missing))}` (the names of Debian and "
            f"Ubuntu), or take the default node, --node kwok"
        )
    assert plugins is not None
    return {**{name: Path(path) for name, path in found.items() if path}, "cni": plugins}


class NodeCluster(Cluster):
    """etcd, the control plane and a real node in namespaces of their own.

    :ivar packets: sees what was sent to an address outside the namespace, since the start.
    """

    kind = "kubelet"
    parts: ClassVar[tuple[str, ...]] = (
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubectl",
        "kubelet",
    )
    api_address = (ADDRESS, 443)
    packets: PacketWatch

    def __init__(
        self, run: Path, processes: Processes, ports: Ports, binaries: Mapping[str, Path]
    ) -> None:
        super().__init__(run, processes, ports, binaries)
        self.cgroup = cgroup_name(run)
        self._programs = machine_programs()
        self._state = run / "state"  # a tmpfs that only the node sees
        self._socket = run / "containerd.sock"
        self._inside: Network

    def start(self, say: Callable[[str], None]) -> None:
        self._start_holder()
        self._write_configuration()
        self.write_pki(SERVICE, ADDRESS)
        self.start_etcd()
        self._start_containerd()
        images.write_busybox(self.run / "images.tar", self._programs["busybox"])
        with self._import_images():
            self.start_apiserver()
        say("kube-apiserver is ready, images are imported")
        self.start_controller_manager()
        self.start_scheduler()
        self._start_kubelet()
        self._wait("node lab", self._node_ready)
        say("the node is ready")
        self.apply("access.yaml", "node-objects.yaml")
        self.write_proxy_kubeconfig()
        self.wait_access()
        self.wait_pods("shell")
        say("the cluster is ready")

    def stop(self) -> None:
        if hasattr(self, "packets"):
            self.packets.close()
        if "holder" in self.processes:
            # Its parent takes no SIGTERM, and ends when every process of the namespace has.
            for child in self._holder_children():
                os.kill(child, signal.SIGKILL)
        for name in (
            "holder",
            "kubelet",
            "containerd",
            "kube-scheduler",
            "kube-controller-manager",
            "kube-apiserver",
            "etcd",
        ):
            self.processes.stop(name, timeout=2)
        remove_cgroups(self.cgroup)

    @classmethod
    def check_machine(cls) -> None:
        super().check_machine()
        machine_programs()

    @classmethod
    def remains(cls, run: Path) -> list[str]:
        found = cgroups(cgroup_name(run))
        return [f"cgroup {cgroup_name(run)} ({len(found)} folders)"] if found else []

    @classmethod
    def remove_remains(cls, run: Path) -> None:
        remove_cgroups(cgroup_name(run))

    def apiserver_arguments(self) -> list[str | Path]:
        return [
            *super().apiserver_arguments(),
            "--bind-address", "0.0.0.0",
            "--advertise-address", ADDRESS,
            "--authorization-mode", "Node,RBAC",
            "--enable-admission-plugins", "NodeRestriction",
        ]  # fmt: skip

    def _start_kubelet(self) -> None:
        self.processes.start(
            "kubelet",
            [
                self.binaries["kubelet"],
                "--config", self.run / "kubelet.yaml",
                "--kubeconfig", self.run / "kubelet.kubeconfig",
                "--hostname-override", "lab",
                "--node-ip", ADDRESS,
                "--root-dir", self._state / "kubelet",
                "--cert-dir", self.pki,
            ],
            network=self._inside,
            env={"PATH": _path()},
        )  # fmt: skip

    def write_log(self, line: str) -> None:
        """Let the container ``shell`` of the pod ``shell`` log a line."""
        # echo, since busybox's cat splices into the pipe, and one line in twenty is lost so.
        self.kubectl("exec", "shell", "--", "sh", "-c", 'echo "$0" >/proc/1/fd/1', line)

    def _start_holder(self) -> None:
        make_cgroup(self.cgroup)
        self._state.mkdir()
        ready = self.run / "holder-ready"
        self.processes.start(
            "holder",
            [
                self._programs["unshare"], "--net", "--mount", "--pid", "--fork", "--kill-child",
                "--mount-proc", "--propagation", "private",
                "sh", "-euc", _HOLDER, "holder", self._state, ready,
            ],
            env={"PATH": _path()},
        )  # fmt: skip
        self.processes.wait_ready("holder", ready.exists, READY_SECONDS)
        namespaces = Path(f"/proc/{self.processes['holder'].pid}/ns")
        enter = (str(self._programs["nsenter"]), f"--net={namespaces / 'net'}")
        self.network = Network(prefix=(*enter, "--"), namespace=namespaces / "net")
        # nsenter stays as the parent, so the end of nsenter must be the command's.
        self._inside = Network(
            prefix=(
                *enter,
                f"--mount={namespaces / 'mnt'}",
                f"--pid={namespaces / 'pid_for_children'}",
                "--",
                str(self._programs["setpriv"]),
                "--pdeathsig=TERM",
                "--",
            ),
        )
        self.packets = PacketWatch(self.network, DEVICE)

    def _holder_children(self) -> list[int]:
        pid = self.processes["holder"].pid
        try:
            return [
                int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            ]
        except OSError:
            return []  # it has ended

    def _write_configuration(self) -> None:
        words = {
            "ADDRESS": ADDRESS,
            "CGROUP": self.cgroup,
            "CNI": self._programs["cni"],
            "PAUSE": images.PAUSE,
            "PKI": self.pki,
            "PODS": PODS,
            "RUN": self.run,
            "SOCKET": self._socket,
            "STATE": self._state,
        }
        (self.run / "cni").mkdir()
        for text, path in (
            ((MANIFESTS / "node-containerd.toml").read_text(), "containerd.toml"),
            ((MANIFESTS / "node-kubelet.yaml").read_text(), "kubelet.yaml"),
            (CNI_CONFIG, "cni/10-lab.conflist"),
        ):
            filled = text
            for word, value in words.items():
                filled = filled.replace(f"@{word}@", str(value))
            (self.run / path).write_text(filled)

    def _start_containerd(self) -> None:
        self.processes.start(
            "containerd",
            [self._programs["containerd"], "--config", self.run / "containerd.toml"],
            network=self._inside,
            env={"PATH": _path()},
        )

    def _ctr(self, *words: str | Path) -> list[str]:
        ctr = (self._programs["ctr"], "--address", self._socket, "--namespace", "k8s.io", *words)
        return list(map(str, ctr))

    def _containerd_ready(self) -> bool:
        return (
            subprocess.run(self._ctr("version"), capture_output=True, check=False).returncode == 0
        )

    @contextmanager
    def _import_images(self) -> Iterator[None]:
        """Import the images while something else is done."""
        self.processes.wait_ready("containerd", self._containerd_ready, READY_SECONDS)
        with subprocess.Popen(
            self._ctr("images", "import", self.run / "images.tar"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as running:
            yield
            said, _ = running.communicate()
        if running.returncode != 0:
            raise LabError(f"the images cannot be imported into containerd:\n{said.strip()}")

    def _node_ready(self) -> bool:
        status, _ = self.api.send("GET", path := "/api/v1/nodes/lab")
        conditions = status == 200 and self.api.call("GET", path)["status"].get("conditions")
        return any(row["type"] == "Ready" and row["status"] == "True" for row in conditions or ())
