"""The example of a plugin, installed from its files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT

EXAMPLE = ROOT / "docs/example-plugin"


def install(scratch: Path) -> tuple[Path, Path]:
    """Build and install it, without its dependencies and without the network.

    :param scratch: an empty folder.
    :returns: the copy of its source, and the folder for `PYTHONPATH`.
    """
    source, target = scratch / "source", scratch / "installed"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
            "--disable-pip-version-check", "--target", str(target), str(source),
        ],
        check=True,
    )  # fmt: skip
    return source, target
