"""Container images for the real node, assembled from this machine's busybox: no registry is asked.

The format is the docker-archive, which ``ctr images import`` takes: the layers as tar files, a
configuration (OCI image specification, config.md) and a ``manifest.json`` that names them.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from typing import TYPE_CHECKING

from tests.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

BUSYBOX = "lab.local/busybox:1"
#: What holds a pod's namespaces: the same files under another name.
PAUSE = "lab.local/pause:1"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
#: Waits, and collects what orphans leave behind.
PAUSE_COMMAND = ("sh", "-c", "while :; do sleep 86400 & wait; done")
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Type of the program header that names a dynamic loader, which no image of ours contains.
_PT_INTERP = 3


def is_static(program: Path) -> bool:
    """Whether a 64-bit little-endian ELF program runs without a dynamic loader (elf(5))."""
    data = program.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        return False
    start = int.from_bytes(data[32:40], "little")
    size = int.from_bytes(data[54:56], "little")
    count = int.from_bytes(data[56:58], "little")
    rows = (data[start + n * size :][:4] for n in range(count))
    return all(int.from_bytes(row, "little") != _PT_INTERP for row in rows)


def busybox_layer(busybox: Path) -> bytes:
    """A root file system as a tar file: busybox under all of its names, and little else.

    :raises LabError: it needs libraries, which the image would lack.
    """
    if not is_static(busybox):
        raise LabError(
            f"{busybox} is not a static program, so it cannot be all there is in an image; next "
            f"step: `apt-get install busybox-static`"
        )
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777)):
            _add(tar, folder, mode=mode, kind=tarfile.DIRTYPE)
        _add(tar, "bin/busybox", busybox.read_bytes(), mode=0o755)
        for applet in listed.stdout.split():
            if applet != "busybox":
                _add(tar, f"bin/{applet}", kind=tarfile.SYMTYPE, target="busybox")
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        _add(tar, "etc/group", b"root:x:0:\n")
    return out.getvalue()


def write_archive(path: Path, names: Iterable[str], layer: bytes, command: Sequence[str]) -> None:
    """Write an image of one layer as a docker-archive.

    :param names: its names, each ``REPOSITORY:TAG``.
    :param command: what a container runs if its pod does not say.
    :raises LabError: containers on this kind of machine are not known to us.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise LabError(f"no image can be made for {machine}: known are {', '.join(ARCHITECTURES)}")
    config = json.dumps(
        {
            "architecture": ARCHITECTURES[machine],
            "os": "linux",
            "config": {"Cmd": list(command), "Env": [_PATH]},
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"],
            },
            "history": [{"created": "2026-01-01T00:00:00Z"}],
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": list(names), "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        _add(tar, config_name, config)
        _add(tar, "layer.tar", layer)
        _add(tar, "manifest.json", json.dumps(manifest).encode())


def write_busybox(path: Path, busybox: Path) -> None:
    """Write the one image of the lab, under both of its names.

    :raises LabError: see `busybox_layer` and `write_archive`.
    """
    write_archive(path, (BUSYBOX, PAUSE), busybox_layer(busybox), PAUSE_COMMAND)


def _add(
    tar: tarfile.TarFile,
    name: str,
    data: bytes = b"",
    *,
    mode: int = 0o644,
    kind: bytes = tarfile.REGTYPE,
    target: str = "",
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(data), target
    tar.addfile(entry, io.BytesIO(data))
