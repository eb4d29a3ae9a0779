"""Kills a process at each of its system calls, one after the other, and looks at what is left.

A program of its own (`python -m tests.client.killing FOLDER`), since it forks: it changes a
kubeconfig in FOLDER over and over, and prints what it found, a JSON object for each kill.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from functools import partial
from itertools import count
from pathlib import Path

from tailproxy.client.kubeconfigfile import change
from tailproxy.wire.kubeconfig import Entry, add

TRACEME, SYSCALL = 0, 24  # <sys/ptrace.h>
OLD = f"apiVersion: v1\nkind: Config\nlong: {'x' * 10_000}\n"

_ptrace = ctypes.CDLL(None, use_errno=True).ptrace
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_edit = partial(add, entry=Entry("https://kube", "kube", "kube"))


def killed(file: Path, stop: int) -> bool:
    """Change the file in a process that is killed at a stop: before or behind a system call.

    :returns: False if it came to its end before.
    """
    pid = os.fork()
    if pid == 0:
        _ptrace(TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        change(file, _edit, patience=0.0)
        os._exit(0)
    os.waitpid(pid, 0)
    for _ in range(stop):
        if _ptrace(SYSCALL, pid, None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise RuntimeError(f"it failed before stop {stop}")
            return False
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def content(file: Path) -> str | None:
    return file.read_text() if file.exists() else None


def main(folder: Path, old: str | None) -> None:
    new = _edit(old or "").text
    for stop in count(1):
        file = folder / str(stop) / "config"
        if old is not None:
            file.parent.mkdir()
            file.write_text(old)
            file.chmod(0o600)
        if not killed(file, stop):
            break
        found = content(file)
        left = "old" if found == old else "new" if found == new else "other"
        mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
        # Whoever comes next is not kept out by what is left, and ends with the new file.
        change(file, _edit, patience=0.0)
        row = {"left": left, "mode": mode, "then": content(file) == new}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), OLD if sys.argv[2:] == ["old"] else None)
