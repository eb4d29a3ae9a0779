"""The command `tailproxy` as it is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lab.lab import Lab


def tailproxy(lab: Lab, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end in the lab's network, at a terminal that is wide; its status unchecked."""
    program = Path(sys.executable).with_name("tailproxy")
    return subprocess.run(
        [*lab.cluster.kubectl_prefix, str(program), *words],
        env={**lab.environment, "COLUMNS": "400", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
