"""A lab that outlives the command that brought it up: a process of its own keeps it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab import build
from tests.lab.errors import LabError
from tests.lab.lab import Lab, base, cluster_kind
from tests.lab.process import Started, end, leftovers
from tests.lab.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

DOWN_SECONDS = 30.0
CHECKOUT = Path(__file__).parents[2]


class _Report(Progress):
    """Progress that goes to another process, a JSON value per line."""

    def __init__(self, fd: int) -> None:
        self._pipe = os.fdopen(fd, "w", buffering=1)
        super().__init__(self._pipe)

    def say(self, text: str) -> None:
        self.tell("say", text)

    def close(self) -> None:
        """Say no more."""
        self._pipe.close()

    def tell(self, kind: str, text: str) -> None:
        """One event; nobody may be left to hear it."""
        if self._pipe.closed:
            return
        try:
            self._pipe.write(json.dumps([kind, text]) + "\n")
        except BrokenPipeError:
            signal.raise_signal(signal.SIGTERM)


def keep(name: str, node: str, given: Path | None, fd: int) -> None:
    """Be the keeper: run a lab until SIGTERM or SIGINT.

    :param fd: a pipe to who waits for the lab; it is closed when the lab is ready.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    report = _Report(fd)
    try:
        with Lab(name, node=node, given=given, progress=report) as lab:
            report.tell("ready", str(lab.run))
            report.close()
            while True:
                signal.pause()
    except LabError as error:
        report.tell("error", str(error))
        raise SystemExit(1) from None


def up(name: str, node: str, given: Path | None, progress: Progress) -> Path:
    """Bring up a lab that stays; its run folder.

    :raises LabError: it does not come up; nothing of it is left running then.
    """
    build.ensure(Lab(name, node=node, given=given).parts, progress=progress)
    read_end, write_end = os.pipe()
    words = [sys.executable, "-m", "tests.lab", "keep", "--name", name, "--node", node]
    if given:
        words += ["--kubeconfig", str(given)]
    with (base() / f"{name}.keeper.log").open("wb") as log:
        keeper = subprocess.Popen(
            [*words, "--report", str(write_end)],
            pass_fds=[write_end],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=CHECKOUT,
            start_new_session=True,
        )
    os.close(write_end)
    try:
        with os.fdopen(read_end) as events:
            for line in events:
                kind, text = json.loads(line)
                if kind == "ready":
                    return Path(text)
                if kind == "error":
                    keeper.wait()
                    raise LabError(text)
                progress.say(text)
    except BaseException:
        keeper.terminate()
        keeper.wait(DOWN_SECONDS)
        raise
    raise LabError(
        f"the lab's keeper ended with status {keeper.wait()}:\n{Path(log.name).read_text().strip()}"
    )


def state(name: str) -> dict[str, Any] | None:
    """What a lab wrote down about itself, and under ``alive`` whether it runs; None if nothing."""
    try:
        found: dict[str, Any] = json.loads((base() / name / "lab.json").read_text())
    except FileNotFoundError:
        return None
    found["alive"] = _held(name)
    return found


def _held(name: str) -> bool:
    """Whether a process has the lab of that name."""
    with (base() / f".{name}.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def names() -> list[str]:
    """The labs that run, or have left something behind."""
    return sorted(path.name for path in base().iterdir() if (path / "lab.json").exists())


def down(name: str, say: Callable[[str], None]) -> bool:
    """End a lab, and remove what an earlier one of that name has left. False if there was nothing.

    :raises LabError: it does not end.
    """
    found = state(name)
    run = base() / name
    if found is not None and found["alive"]:
        keeper = Started("keeper", found["pid"], found["started"])
        if keeper.running:
            os.kill(keeper.pid, signal.SIGTERM)
        deadline = time.monotonic() + DOWN_SECONDS
        while _held(name):
            if time.monotonic() > deadline:
                raise LabError(
                    f"the lab {name!r} does not end within {DOWN_SECONDS:.0f} s; its keeper is "
                    f"process {keeper.pid}: `kill -9 {keeper.pid}`, then try again"
                )
            time.sleep(0.02)
    lost = leftovers(run)
    for row in lost:
        say(f"ending {row.name} (process {row.pid}), left over from a crash")
    end(lost)
    kind = cluster_kind(found["node"] if found else "kwok")
    remains = kind.remains(run)
    for text in remains:
        say(f"removing the {text}, left over from a crash")
    if remains:
        kind.remove_remains(run)
    shutil.rmtree(run, ignore_errors=True)
    (base() / f"{name}.keeper.log").unlink(missing_ok=True)
    return bool(found or lost or remains)
