"""The programs that a measurement takes beside tailproxy: our own in Go, and the Go peer.

They are built and kept as those of the lab are (`tests.lab.build`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import build
from tests.lab.build import Part

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.lab.progress import Progress

GO = Path(__file__).parent / "go"
PARTS = {
    **{
        name: Part(name, "tools", f"./{name}", GO)
        for name in ("load", "upstream", "stdproxy", "whois")
    },
    "k8s-proxy": Part("k8s-proxy", "peer", "tailscale.com/cmd/k8s-proxy", GO),
}


def ensure(names: Iterable[str], progress: Progress) -> dict[str, Path]:
    """The paths of programs by name; those that are missing are built first.

    :param names: names in `PARTS`.
    :raises LabError: there is no fitting Go, or a build failed.
    """
    parts = [PARTS[name] for name in names]
    missing = [part for part in parts if not part.binary.exists()]
    for number, part in enumerate(missing, 1):
        with progress.step(f"building {part.name}", number, len(missing)):
            build.build(part)
    return {part.name: part.binary for part in parts}
