"""Commands that run on the proxy's host, as processes of their own: each has its reactor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MAIN = "from tailproxy.cli.main import main; main(prog_name='tailproxy')"


def run(*words: object, code: int = 0) -> str:
    """What a command prints; its errors if it fails as expected."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr or done.stdout
