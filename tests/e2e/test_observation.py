"""What the audit trail knows of sessions that are not recorded."""

from __future__ import annotations

import hashlib
import json
import os
import time

import pytest

from tests.e2e.test_recording import scene
from tests.lab.operations import port_forward

__all__ = ["scene"]


def lines(proxy, before: int, key: str, count: int = 1) -> list[dict]:
    """Log lines with a key, once there are so many."""
    deadline = time.monotonic() + 10
    while True:
        found = [
            line
            for line in map(json.loads, proxy.log.read_text().splitlines()[before:])
            if line.get(key) is not None
        ]
        if len(found) >= count:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.fixture
def before(proxy) -> int:
    return len(proxy.log.read_text().splitlines())


def test_each_connection_to_a_forwarded_port_is_a_line(proxy, scene, before):
    port_forward(scene)
    found = lines(proxy, before, "port")
    assert {(line["user"], line["pod"], line["port"]) for line in found} == {
        ("alice@example.com", "shell", scene.echo_port)
    }
    assert all(line["sent"] == line["received"] > 0 for line in found)


@pytest.mark.node
def test_the_exit_code_is_in_the_audit_line(proxy, scene, before):
    done = scene.kubectl.run("exec", scene.pod, "--", "sh", "-c", "exit 7")
    assert done.returncode == 7
    (line,) = lines(proxy, before, "exit_code")
    assert line["exit_code"] == 7
    assert line["recorded"] == ""


@pytest.mark.node
def test_a_copy_is_a_line_for_each_file(proxy, scene, before, tmp_path):
    file = tmp_path / "data.bin"
    file.write_bytes(os.urandom(100_000))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    scene.kubectl.output("cp", str(file), f"{scene.pod}:/tmp/data.bin")
    scene.kubectl.output("cp", f"{scene.pod}:/tmp/data.bin", str(tmp_path / "back"))
    found = lines(proxy, before, "sha256", 2)
    assert [(line["direction"], line["size"], line["sha256"]) for line in found] == [
        ("to", 100_000, digest),
        ("from", 100_000, digest),
    ]
