"""kubectl as a process of a test: run to its end, followed while it runs, or at a terminal."""

from __future__ import annotations

import os
import re
import select
import struct
import subprocess
import termios
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from fcntl import ioctl
from typing import IO, TYPE_CHECKING, Any

from tests.lab.network import MACHINE
from tests.lab.process import leashed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

    from tests.lab.network import Network

#: How long anything may take; a machine that builds something at the same time is slow.
SECONDS = 60.0
CHUNK = 65536


def brief(data: bytes) -> str:
    """Output as text for a message, its middle left out if it is long."""
    text = data.decode(errors="replace").strip()
    return text if len(text) <= 1000 else f"{text[:500]} ... {text[-500:]}"


@dataclass(frozen=True)
class Kubectl:
    """kubectl as one caller.

    :ivar words: the command up to kubectl's own verb: what puts it into the right network, the
        program, ``--kubeconfig FILE``. `Lab.kubectl_words` gives them.
    :ivar env: its environment; `Lab.environment`.
    :ivar network: where it runs, and so where `port_forward` finds its port.
    :ivar name: what messages call it; another program that takes words likewise has its own.
    """

    words: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    network: Network = MACHINE
    name: str = "kubectl"

    def run(
        self, *words: str, stdin: bytes = b"", timeout: float = SECONDS
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end, whatever its status.

        :raises AssertionError: it does not end in *timeout* seconds.
        """
        try:
            return subprocess.run(
                [*self.words, *words],
                input=stdin,
                capture_output=True,
                env=dict(self.env),
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise AssertionError(
                f"{self.name} {' '.join(words)} did not end in {timeout:.0f} s; so far it said: "
                f"{brief(error.stdout or b'')!r}, and as errors: {brief(error.stderr or b'')!r}"
            ) from None

    def output(self, *words: str, stdin: bytes = b"", timeout: float = SECONDS) -> bytes:
        """What it prints.

        :raises AssertionError: it failed.
        """
        done = self.run(*words, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, (
            f"{self.name} {' '.join(words)} ended with status {done.returncode}: "
            f"{brief(done.stderr) or brief(done.stdout)}"
        )
        return done.stdout

    @contextmanager
    def running(self, *words: str, **popen: Any) -> Iterator[Running]:
        """Start it with pipes as its streams; it is ended when the block is left.

        :param popen: arguments of `subprocess.Popen` that differ.
        """
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(
            leashed([*self.words, *words]), **{**streams, "env": dict(self.env), **popen}
        ) as process:
            try:
                yield Running(f"{self.name} {' '.join(words)}", process)
            finally:
                process.kill()


class Running:
    """A kubectl that runs, with its streams read until something is seen."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.process = process
        self.seen = b""

    def write(self, data: bytes) -> None:
        """Write to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def until(self, pattern: bytes, *, timeout: float = SECONDS) -> re.Match[bytes]:
        """Read standard output until a regular expression is found; what was before it is gone.

        :raises AssertionError: the output ends before, or it takes longer than *timeout* seconds.
        """
        assert self.process.stdout is not None
        return self._until(self.process.stdout, pattern, timeout)

    def _until(self, stream: IO[bytes], pattern: bytes, timeout: float) -> re.Match[bytes]:
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.seen, re.MULTILINE)):
            left = max(deadline - time.monotonic(), 0)
            if not select.select([stream], [], [], left)[0]:
                raise AssertionError(
                    f"{self.name} did not say {pattern!r} in {timeout:.0f} s, but: "
                    f"{brief(self.seen)!r}"
                )
            data = os.read(stream.fileno(), CHUNK)
            if not data:
                raise AssertionError(
                    f"{self.name} ended with status {self.wait()} before it said {pattern!r}; it "
                    f"said {brief(self.seen)!r}, and as errors: {brief(self.errors())!r}"
                )
            self.seen += data
        self.seen = self.seen[found.end() :]
        return found

    def errors(self) -> bytes:
        """All of its standard error, once it has ended."""
        return self.process.stderr.read() if self.process.stderr else b""

    def wait(self, timeout: float = SECONDS) -> int:
        """Its exit status.

        :raises AssertionError: it does not end in *timeout* seconds.
        """
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end in {timeout:.0f} s") from None


class Terminal:
    """A kubectl at a terminal of ours: it has the size that we say, and what is typed is echoed.

    :param rows, columns: the size at the start.
    """

    def __init__(self, kubectl: Kubectl, *words: str, rows: int = 24, columns: int = 80) -> None:
        self._master, slave = os.openpty()
        self.resize(rows, columns)
        self.name = f"{kubectl.name} {' '.join(words)}"
        self.seen = b""
        # setsid makes the terminal the controlling one: that is who gets SIGWINCH.
        self._process = subprocess.Popen(
            leashed(["setsid", "--ctty", *kubectl.words, *words]),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**kubectl.env, "TERM": "xterm"},
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size, as a user does who pulls at the window."""
        ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, data: bytes) -> None:
        """Type something."""
        os.write(self._master, data)

    def until(self, pattern: bytes, *, timeout: float = SECONDS) -> re.Match[bytes] | None:
        """Read until a regular expression is found; None if it is not in *timeout* seconds.

        :raises AssertionError: the terminal is closed before.
        """
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.seen, re.MULTILINE)):
            data = self.read(max(deadline - time.monotonic(), 0))
            if data is None:
                return None
            if not data:
                raise AssertionError(
                    f"{self.name} ended with status {self.wait()} before it showed {pattern!r}; "
                    f"the terminal shows: {brief(self.seen)!r}"
                )
            self.seen += data
        self.seen = self.seen[found.end() :]
        return found

    def read(self, timeout: float) -> bytes | None:
        """What it writes next; None if that takes longer than *timeout* s; nothing at its end."""
        if not select.select([self._master], [], [], timeout)[0]:
            return None
        try:
            return os.read(self._master, CHUNK)
        except OSError:  # how Linux says that nobody has the other side
            return b""

    def expect(self, pattern: bytes) -> re.Match[bytes]:
        """Read until a regular expression is found.

        :raises AssertionError: it is not.
        """
        found = self.until(pattern)
        assert found, f"{self.name} does not show {pattern!r}, but: {brief(self.seen)!r}"
        return found

    def wait(self) -> int:
        """The exit status of kubectl.

        :raises AssertionError: it does not end.
        """
        try:
            return self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end in {SECONDS:.0f} s") from None
