"""What people do with kubectl, each as a function that fails with a sentence.

The same list is run straight at the API server and through tailproxy, so that a difference between
the two is tailproxy's. `OPERATIONS` is that list.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
import secrets
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tests.lab.kubectl import CHUNK, SECONDS, Kubectl, Terminal, brief
from tests.lab.kwok import KwokCluster
from tests.lab.node import NodeCluster

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    from tests.lab.lab import Lab
    from tests.lab.network import Network

MIB = 1 << 20
COPY_BYTES = 64 * MIB
FORWARD_BYTES = 16 * MIB


@dataclass(frozen=True)
class Scene:
    """Who does something, and to which pod.

    :ivar folder: a folder for files, empty at first.
    :ivar write_log: lets the pod's first container log a line.
    :ivar pod: name of the pod, in the kubeconfig's namespace.
    :ivar echo_port: a port of the pod where everything comes back.
    :ivar input_container: a container that answers each line with ``got LINE``.
    """

    kubectl: Kubectl
    folder: Path
    write_log: Callable[[str], None]
    pod: str = "shell"
    echo_port: int = 7
    input_container: str = "in"

    @classmethod
    def of(cls, lab: Lab, caller: str, folder: Path, *flags: str, version: str = "1.36") -> Self:
        """A caller of a lab, and the pod that is there on every kind of node.

        :param caller: ``alice`` goes through tailproxy, ``admin`` and ``proxy`` go straight to the
            API server.
        :param flags: flags of kubectl itself, such as ``--as=alice@example.com``.
        :param version: a generation of kubectl, a key of `tests.lab.lab.KUBECTLS`.
        """
        return cls(
            Kubectl(
                tuple(lab.kubectl_words(caller, *flags, version=version)),
                lab.environment,
                lab.cluster.network,
            ),
            folder,
            partial(write_log, lab),
        )

    def exec(self, *words: str, flags: tuple[str, ...] = (), stdin: bytes = b"") -> bytes:
        """What a command in the pod prints."""
        return self.kubectl.output("exec", *flags, self.pod, "--", *words, stdin=stdin)


def write_log(lab: Lab, line: str) -> None:
    """Let the pod ``shell`` log a line, beside whatever is being tested."""
    if isinstance(lab.cluster, KwokCluster):
        now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        with lab.cluster.log_file.open("a") as file:
            file.write(f"{now} stdout F {line}\n")
    else:
        assert isinstance(lab.cluster, NodeCluster), f"nobody knows how a {lab.node} pod logs"
        lab.cluster.write_log(line)


def get(scene: Scene) -> None:
    """``get pods`` shows the pod."""
    table = scene.kubectl.output("get", "pods").decode()
    row = next((line.split() for line in table.splitlines() if line.startswith(scene.pod)), [])
    assert row[2:3] == ["Running"], f"get pods does not show {scene.pod} as Running:\n{table}"


def apply(scene: Scene) -> None:
    """``apply`` creates and changes an object, ``get`` shows it, ``delete`` removes it."""
    name = f"op-{secrets.token_hex(4)}"
    for value, said in (("one", b"created"), ("two", b"configured")):
        output = scene.kubectl.output("apply", "-f", "-", stdin=_config_map(name, value))
        assert said in output, f"apply said {output!r}, not {said!r}"
        found = scene.kubectl.output("get", "configmap", name, "-o", "jsonpath={.data.key}")
        assert found == value.encode(), f"after apply of {value!r} get shows {found!r}"
    scene.kubectl.output("delete", "configmap", name)
    done = scene.kubectl.run("get", "configmap", name)
    assert b"NotFound" in done.stderr, f"after delete, get said {brief(done.stderr)!r}"


def _config_map(name: str, value: str) -> bytes:
    return (
        f'{{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": "{name}"}}, '
        f'"data": {{"key": "{value}"}}}}'
    ).encode()


def get_watch(scene: Scene) -> None:
    """``get -w`` shows changes while they are made."""
    name = f"op-{secrets.token_hex(4)}"
    scene.kubectl.output("apply", "-f", "-", stdin=_config_map(name, "zero"))
    words = ("get", "configmap", name, "-w", "-o", "jsonpath={.data.key}{'\\n'}")
    with scene.kubectl.running(*words) as watch:
        watch.until(rb"^zero\n")
        for value in ("one", "two"):
            scene.kubectl.output("apply", "-f", "-", stdin=_config_map(name, value))
            watch.until(rf"^{value}\n".encode())
    scene.kubectl.output("delete", "configmap", name)


def logs_follow(scene: Scene) -> None:
    """``logs -f`` shows lines as they are logged."""
    with scene.kubectl.running("logs", "-f", scene.pod) as logs:
        for _ in range(2):
            word = secrets.token_hex(8)
            scene.write_log(word)
            logs.until(rf"^{word}\n".encode())


def exec_output(scene: Scene) -> None:
    """``exec`` prints what the command prints."""
    assert scene.exec("echo", "hello  world") == b"hello  world\n"


def exec_large_output(scene: Scene) -> None:
    """``exec`` prints all of a long output."""
    output = scene.exec("sh", "-c", f"yes | head -c {FORWARD_BYTES}")
    assert output == b"y\n" * (FORWARD_BYTES // 2), f"{len(output)} bytes of {FORWARD_BYTES}"


def exec_input(scene: Scene) -> None:
    """``exec -i`` gives the command its input while it runs."""
    with scene.kubectl.running("exec", "-i", scene.pod, "--", "cat") as cat:
        for _ in range(2):
            word = secrets.token_hex(8).encode()
            cat.write(word + b"\n")
            cat.until(rb"^" + word + rb"\n")


def exec_input_end(scene: Scene) -> None:
    """``exec -i`` gives the command all of its input, and the input's end."""
    data = os.urandom(MIB)
    assert scene.exec("cat", flags=("-i",), stdin=data) == data, "cat did not give back its input"


def exec_errors(scene: Scene) -> None:
    """``exec`` keeps standard output and standard error apart."""
    words = ("exec", scene.pod, "--", "sh", "-c", "echo output; echo errors >&2")
    done = scene.kubectl.run(*words)
    assert done.stdout == b"output\n", f"standard output is {brief(done.stdout)!r}"
    # Some generations (1.30 to 1.33) complain there about a race of their own, now and then, also
    # straight at the API server: "Unknown stream id 1, discarding message".
    errors = re.sub(rb"^[EIW]\d{4} .*\n", b"", done.stderr, flags=re.MULTILINE)
    assert errors == b"errors\n", f"standard error is {brief(done.stderr)!r}"


def exec_exit_codes(scene: Scene) -> None:
    """``exec`` ends with the command's own status."""
    for status in (0, 7):
        done = scene.kubectl.run("exec", scene.pod, "--", "sh", "-c", f"exit {status}")
        assert done.returncode == status, (
            f"exit {status} arrived as {done.returncode}: {brief(done.stderr)}"
        )


def exec_terminal(scene: Scene) -> None:
    """``exec -it`` gives the command a terminal, and takes what is typed."""
    with Terminal(scene.kubectl, "exec", "-it", scene.pod, "--", "sh") as terminal:
        terminal.type(b"tty\n")
        terminal.expect(rb"/dev/pts/\d+\r?\n")
        terminal.type(b"exit\n")
        assert terminal.wait() == 0, f"the shell ended with status {terminal.wait()}"


def exec_terminal_exit_code(scene: Scene) -> None:
    """``exec -it`` ends with the command's own status."""
    words = ("exec", "-it", scene.pod, "--", "sh", "-c", "tty; exit 7")
    with Terminal(scene.kubectl, *words) as terminal:
        terminal.expect(rb"/dev/pts/\d+\r?\n")
        assert terminal.wait() == 7, f"exit 7 arrived as {terminal.wait()}"


def exec_resize(scene: Scene) -> None:
    """``exec -it`` tells the command each size that the terminal gets."""
    with Terminal(scene.kubectl, "exec", "-it", scene.pod, "--", "sh") as terminal:
        for rows, columns in ((24, 80), (33, 111), (50, 40)):
            terminal.resize(rows, columns)
            size = rf"\b{rows} {columns}\r?\n".encode()
            deadline = time.monotonic() + SECONDS
            terminal.type(b"stty size\n")
            # The size takes a way of its own, so it may come after the question.
            while not terminal.until(size, timeout=0.5):
                assert time.monotonic() < deadline, (
                    f"the size {rows}x{columns} did not arrive in {SECONDS:.0f} s; the terminal "
                    f"shows: {brief(terminal.seen)!r}"
                )
                terminal.type(b"stty size\n")


def attach_input(scene: Scene) -> None:
    """``attach -i`` carries lines to a running container, and its answers back."""
    words = ("attach", "-i", scene.pod, "-c", scene.input_container)
    with scene.kubectl.running(*words) as attached:
        for _ in range(2):
            word = secrets.token_hex(8).encode()
            attached.write(word + b"\n")
            attached.until(rb"^got " + word + rb"\n")


def debug(scene: Scene) -> None:
    """``debug`` runs a new container in the pod, which sees the processes of another."""
    word = secrets.token_hex(8)
    # It waits for a line, since what it says before kubectl has attached would be lost to us. And
    # it lives on for a while: the kubelet may lose the last output of a container that ends at
    # once (7 of 100 straight at a busy API server).
    script = f"read line; ls /proc/1/root/www; echo $line {word}; sleep 2"
    with scene.kubectl.running(
        "debug", scene.pod,
        "--image", "lab.local/busybox:1", "--image-pull-policy", "Never",
        "--target", "shell", "-i",
        "--", "sh", "-c", script,
    ) as debugger:  # fmt: skip
        debugger.write(b"debugged\n")
        debugger.until(rf"^index.html\ndebugged {word}\n".encode())


def copy(scene: Scene) -> None:
    """``cp`` carries a large random file into the pod and back, unchanged."""
    here, back = scene.folder / "here", scene.folder / "back"
    there = f"copied-{secrets.token_hex(4)}"
    with here.open("wb") as file:
        for _ in range(COPY_BYTES // MIB):
            file.write(os.urandom(MIB))
    scene.kubectl.output("cp", str(here), f"{scene.pod}:{there}", timeout=2 * SECONDS)
    sum_here, sum_there = _checksum(here), scene.exec("sha256sum", there).split()[0].decode()
    assert sum_there == sum_here, f"copied into the pod: SHA-256 {sum_there}, not {sum_here}"
    scene.kubectl.output("cp", f"{scene.pod}:{there}", str(back), timeout=2 * SECONDS)
    scene.exec("rm", there)
    sum_back = _checksum(back)
    here.unlink()
    back.unlink()
    assert sum_back == sum_here, f"copied out of the pod: SHA-256 {sum_back}, not {sum_here}"


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def port_forward(scene: Scene) -> None:
    """``port-forward`` carries a long random text there and back, on several connections."""
    words = ("port-forward", f"pod/{scene.pod}", f":{scene.echo_port}")
    with scene.kubectl.running(*words) as forward:
        port = int(forward.until(rb"^Forwarding from 127.0.0.1:(\d+) ->")[1])
        for size in (1, FORWARD_BYTES, 1000):
            echo(scene.kubectl.network, ("127.0.0.1", port), os.urandom(size))


def echo(network: Network, address: tuple[str, int], data: bytes) -> None:
    """Send *data* to an echo server and compare what comes back.

    :raises AssertionError: it is not the same.
    """
    with network.connect(address, timeout=SECONDS) as sock:
        sender = threading.Thread(target=sock.sendall, args=(data,), daemon=True)
        sender.start()
        back = bytearray()
        while len(back) < len(data):
            chunk = sock.recv(CHUNK)
            assert chunk, f"the connection ended after {len(back)} of {len(data)} bytes"
            back += chunk
        sender.join()
    assert bytes(back) == data, f"{len(data)} bytes came back changed"


@dataclass(frozen=True)
class Operation:
    """One of `OPERATIONS`; its name is the function's.

    :ivar kwok: whether kwok can do it too.
    """

    do: Callable[[Scene], None]
    kwok: bool = True

    @property
    def name(self) -> str:
        """What it is called in the ids of tests."""
        return self.do.__name__

    def __call__(self, scene: Scene) -> None:
        """Do it.

        :raises AssertionError: something is not as it should be.
        """
        self.do(scene)


OPERATIONS = (
    Operation(get),
    Operation(get_watch),
    Operation(apply),
    Operation(logs_follow),
    Operation(exec_output),
    Operation(exec_large_output),
    Operation(exec_input),
    Operation(exec_errors),
    Operation(exec_terminal),
    Operation(exec_resize),
    Operation(port_forward),
    # kwok has one container, ends no input, and knows of no exit codes.
    Operation(copy, kwok=False),
    Operation(exec_input_end, kwok=False),
    Operation(exec_exit_codes, kwok=False),
    Operation(exec_terminal_exit_code, kwok=False),
    Operation(attach_input, kwok=False),
    Operation(debug, kwok=False),
)
