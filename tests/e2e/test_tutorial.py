"""The tutorial's second terminal: what it shows is what happens."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.docs.pages import code
from tests.lab.kubectl import SECONDS

PAGE = "docs/tutorial.md"


@pytest.fixture
def fresh(lab, proxy):
    """A tailproxy of its own: it has not warned anybody yet, and its log is empty."""
    yield lab.start_tailproxy("serve", name="tutorial")
    lab.processes.stop("tutorial", 30)
    proxy.announce()


@pytest.fixture
def policy(lab):
    """The tailnet's policy, put back at the end."""
    before = lab.tailnet.policy
    yield lab.tailnet.edit_policy
    lab.tailnet.set_policy(before)


def plain(output: str) -> str:
    """What is the same each time: ages, times and addresses are not, nor the widths of columns."""
    output = re.sub(r"\b\d+[smh](\d+s)?\b", "AGE", output)
    output = re.sub(r"\b\d+(\.\d+)? ms\b", "TIME", output)
    output = re.sub(r"127\.0\.0\.1:\d+|\b100\.64\.0\.\d+", "ADDRESS", output)
    output = re.sub(r"\b([12])/\1\b", "READY", output)  # the real node's pod has two containers
    return re.sub(r" +", " ", output).strip()


def type_in(lab, command: str) -> str:
    """A command, typed in the lab's folder with the programs on the path."""
    programs = (lab.binary("kubectl").parent, Path(sys.executable).parent)
    path = ":".join([*map(str, programs), lab.environment["PATH"]])
    done = subprocess.run(
        [*lab.cluster.kubectl_prefix, "bash", "-c", f"exec 2>&1; {command}"],
        cwd=lab.run,
        env={**lab.environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return done.stdout


def shows(lab, command: str, wanted: str) -> None:
    """A command shows what it should; one that reads the log does so when the line is written."""
    deadline = time.monotonic() + (10 if command.startswith("grep ") else 0)
    while (seen := plain(type_in(lab, command))) != plain(wanted):
        assert time.monotonic() < deadline, (command, seen)
        time.sleep(0.1)


def await_change(lab) -> None:
    deadline = time.monotonic() + 10
    while "platform-team" not in lab.kubectl("mallory", "auth", "whoami").stdout:
        assert time.monotonic() < deadline


def test_what_the_page_shows_is_what_happens(lab, fresh, policy):
    shown = 0
    for language, block in code(PAGE):
        if language == "json":
            grant = json.loads(block)

            def edit(policy, grant=grant):
                (place,) = (n for n, each in enumerate(policy["grants"]) if "app" in each)
                policy["grants"][place] = grant

            policy(edit)
            await_change(lab)
        elif language == "console":
            for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = entry.partition("\n")
                command = command.replace("tailproxy.log", fresh.log.name)
                shows(lab, command, output)
                shown += 1
    assert shown
