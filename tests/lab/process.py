"""The processes of a lab: started, watched, ended.

No process outlives the lab. Each is ended in order by `Processes.close`; and should the lab's own
process die without a chance to do that, the kernel ends them (PR_SET_PDEATHSIG, prctl(2)). What
such a process had started itself carries a mark in its environment, by which `leftovers` finds it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.errors import LabError
from tests.lab.network import MACHINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tests.lab.network import Network

#: The variable that every process of a lab inherits; its value is the lab's run folder.
MARK = "TAILPROXY_LAB_RUN"
#: Runs a command that ends when its parent does. Its arguments: the parent's process id, the
#: command's words. It is a program of its own since Python code between fork and exec is unsafe
#: in a process with threads.
_LEASH = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the lab has ended")
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""
STOP_SECONDS = 5.0


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot (proc_pid_stat(5), field 22).

    With the process id it names one process for good, while ids alone are used again.
    None if there is no such process, or only its remains (a zombie).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True)
class Started:
    """A process as it is written down in the run folder: which one, whatever happens later."""

    name: str
    pid: int
    started: int

    @property
    def running(self) -> bool:
        """Whether this very process still runs."""
        return start_time(self.pid) == self.started


def leashed(words: Sequence[str]) -> list[str]:
    """The words of a command, in front of them what makes it end when this process does.

    More exactly: when the *thread* that starts it does.
    """
    return [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), *words]


class Process:
    """One process of the lab, with its log."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, popen: subprocess.Popen[bytes]):
        self.name = name
        self.argv = tuple(argv)
        self.log = log
        self._popen = popen
        self.started = start_time(popen.pid)

    @property
    def pid(self) -> int:
        """The process id; with a prefix such as ``ip netns exec`` it is the command's as well."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._popen.poll()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.returncode is None

    def tail(self, lines: int = 15) -> str:
        """The last *lines* of its log, indented."""
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(f"    {line[:400]}" for line in text) or "    (the log is empty)"

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def wait(self, timeout: float) -> int:
        """Its exit status, once it ends by itself.

        :param timeout: seconds.
        :raises LabError: it still runs then.
        """
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(
                f"{self.name} still runs after {timeout:.0f} s:\n{self.tail()}"
            ) from None

    def stop(self, timeout: float = STOP_SECONDS) -> int:
        """End it: SIGTERM, and SIGKILL after *timeout* seconds. Its exit status."""
        if self.running:
            self._popen.terminate()
            try:
                self._popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        return self._popen.wait()


class Processes:
    """All processes of one lab.

    :param run: the lab's run folder: logs as ``NAME.log``, the list as ``processes.json``.

    A process is ended by the kernel when the *thread* that started it ends; so start processes
    in the main thread, or in one that lives as long as the lab.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._all: dict[str, Process] = {}

    def __getitem__(self, name: str) -> Process:
        return self._all[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all

    def __iter__(self) -> Iterator[Process]:
        return iter(list(self._all.values()))

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        network: Network = MACHINE,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Process:
        """Start a process in the background, its output in ``NAME.log`` (appended).

        :param network: where it lives; its prefix goes in front of the command.
        :param env: variables besides those of this process.
        :raises LabError: a process of that name runs already.
        """
        if name in self._all and self._all[name].running:
            raise LabError(f"{name} is already running (process {self._all[name].pid})")
        words = [*network.prefix, *map(str, argv)]
        log = self.run / f"{name}.log"
        with log.open("ab") as output:
            popen = subprocess.Popen(
                leashed(words),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {}), MARK: str(self.run)},
                cwd=cwd or self.run,
                start_new_session=True,
            )
        process = self._all[name] = Process(name, words, log, popen)
        self._write_down()
        return process

    def wait_ready(
        self, name: str, ready: Callable[[], bool], timeout: float, *, every: float = 0.05
    ) -> None:
        """Wait until *ready* says True.

        :param ready: called again and again; an `OSError` of it counts as not ready.
        :param timeout: seconds.
        :raises LabError: the process ended, or it was not ready in time; with the end of its log.
        """
        process = self._all[name]
        last = ""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if not process.running:
                raise LabError(
                    f"{name} ended with status {process.returncode} before it was ready; the end "
                    f"of {process.log}:\n{process.tail()}"
                )
            try:
                if ready():
                    return
            except OSError as error:
                last = f" (last: {error})"
            time.sleep(every)
        raise LabError(
            f"{name} is not ready after {timeout:.0f} s{last}; the end of {process.log}:\n"
            f"{process.tail()}"
        )

    def stop(self, name: str, timeout: float = STOP_SECONDS) -> None:
        """End one process and forget it; it is fine if it has ended already."""
        process = self._all.pop(name, None)
        if process is not None:
            process.stop(timeout)
            self._write_down()

    def close(self) -> None:
        """End all processes, the last one first, and whatever they had started and left behind."""
        while self._all:
            self.stop(next(reversed(self._all)))
        end(leftovers(self.run))

    def _write_down(self) -> None:
        rows = [
            asdict(Started(process.name, process.pid, process.started))
            for process in self._all.values()
            if process.started is not None
        ]
        replace(self.run / "processes.json", json.dumps(rows, indent=1))


def replace(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file so that a reader sees the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        file.write(text)
    temporary.rename(path)


def written_down(run: Path) -> list[Started]:
    """The processes that the lab of a run folder had at last, running or not."""
    try:
        return [Started(**row) for row in json.loads((run / "processes.json").read_text())]
    except FileNotFoundError:
        return []


def leftovers(run: Path) -> list[Started]:
    """Every process on the machine that a lab of this run folder started, by the mark it carries.

    This process is not among them, and its own children are only found while they run.
    """
    mark = f"{MARK}={run}".encode()
    names = {(row.pid, row.started): row.name for row in written_down(run)}
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # another user's, or gone
        started = start_time(int(folder.name))
        if mark in environment and started is not None:
            pid = int(folder.name)
            name = names.get((pid, started)) or Path(os.fsdecode(words[0])).name
            found.append(Started(name, pid, started))
    return found


def end(processes: Iterable[Started], timeout: float = STOP_SECONDS) -> None:
    """End processes that are not children of this one: SIGTERM, then SIGKILL after *timeout* s."""
    waiting = list(processes)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in waiting:
            if process.running:
                os.kill(process.pid, number)
        deadline = time.monotonic() + timeout
        while waiting and time.monotonic() < deadline:
            waiting = [process for process in waiting if process.running]
            if waiting:
                time.sleep(0.02)
