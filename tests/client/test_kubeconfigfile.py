"""The file: which one, its lock, and what is left when somebody pulls the plug."""

from __future__ import annotations

import base64
import errno
import json
import os
import stat
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import yaml

from tailproxy.client.kubeconfigfile import (
    KubeconfigFileError,
    change,
    choose,
    read_authority,
)
from tailproxy.kubeconfig import kubeconfig_paths
from tailproxy.wire.kubeconfig import Edit, Entry, KubeconfigError, add
from tests.kube.tls import pem
from tests.proxy.servers import Authority

HEAD = "apiVersion: v1\nkind: Config\n"


def entry(name: str) -> Entry:
    return Entry(f"https://{name}", name, name)


def put(name: str):
    return partial(add, entry=entry(name))


def names(file: Path) -> list[str]:
    return [each["name"] for each in yaml.safe_load(file.read_text())["clusters"]]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "config"
    path.write_text(f"{HEAD}# mine\n")
    path.chmod(0o640)
    return path


class TestChoice:
    def test_dp_K11_the_first_file_that_is_there_and_no_folder(self, tmp_path):
        (tmp_path / "dir").mkdir()
        (tmp_path / "b").touch()
        (tmp_path / "c").touch()
        listed = os.pathsep.join([*(str(tmp_path / each) for each in ("no", "dir", "b", "c"))])
        assert choose(kubeconfig_paths(None, {"KUBECONFIG": listed})) == tmp_path / "b"

    def test_dp_K12_the_last_one_where_none_is_there(self, tmp_path):
        listed = f"{tmp_path}/no/a:{tmp_path}/no/b"
        file = choose(kubeconfig_paths(None, {"KUBECONFIG": listed}))
        change(file, put("kube"))
        assert left(tmp_path / "no") == ["b"]
        assert names(tmp_path / "no" / "b") == ["kube"]

    @pytest.mark.parametrize("environ", [{}, {"KUBECONFIG": ""}, {"KUBECONFIG": ":"}])
    def test_without_a_list_it_is_the_one_in_the_home_folder(self, environ, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert choose(kubeconfig_paths(None, environ)) == tmp_path / ".kube" / "config"

    def test_one_that_cannot_be_looked_at_is_taken_and_refused(self, tmp_path):
        (tmp_path / "loop").symlink_to("loop")
        (tmp_path / "b").touch()
        file = choose([tmp_path / "loop", tmp_path / "b"])
        assert file == tmp_path / "loop"
        with pytest.raises(KubeconfigFileError, match=f"cannot .* {file}: .*--kubeconfig"):
            change(file, put("kube"))
        assert left(tmp_path) == ["b", "loop"]


class TestChange:
    def test_a_new_file_and_its_folders_are_made_for_its_user_alone(self, tmp_path):
        file = tmp_path / "home" / ".kube" / "config"
        change(file, put("kube"))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert left(file.parent) == ["config"]

    def test_the_mode_of_a_file_stays(self, file):
        change(file, put("kube"))
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        assert left(file.parent) == ["config"]

    def test_the_owner_of_a_file_stays(self, file):
        root = os.geteuid() == 0
        owner, group = (1234, 5678) if root else (os.geteuid(), [os.getegid(), *os.getgroups()][-1])
        os.chown(file, owner, group)
        change(file, put("kube"))
        assert (file.stat().st_uid, file.stat().st_gid) == (owner, group)

    @pytest.mark.parametrize("there", [True, False])
    def test_a_symbolic_link_stays_one(self, tmp_path, there):
        (tmp_path / "real").mkdir()
        if there:
            (tmp_path / "real" / "config").write_text(HEAD)
        link = tmp_path / "config"
        link.symlink_to("real/config")
        change(link, put("kube"))
        assert link.is_symlink()
        assert names(tmp_path / "real" / "config") == ["kube"]
        assert (left(tmp_path), left(tmp_path / "real")) == (["config", "real"], ["config"])

    def test_nothing_is_written_where_nothing_changes(self, file):
        change(file, put("kube"))
        before = file.stat()
        assert change(file, put("kube")).changes == ()
        assert file.stat() == before

    def test_a_file_that_is_no_kubeconfig_stays_as_it_is(self, file):
        file.write_text("kind: Pod\n")
        with pytest.raises(KubeconfigError, match="invalid kubeconfig"):
            change(file, put("kube"))
        assert file.read_text() == "kind: Pod\n"
        assert left(file.parent) == ["config"]

    def test_a_file_that_is_not_utf_8_is_refused(self, file):
        file.write_bytes(b"\xff\xfe")
        with pytest.raises(KubeconfigFileError, match="is not UTF-8"):
            change(file, put("kube"))

    @pytest.mark.parametrize("path", ["/dev/null", "/dev/full"])
    def test_a_device_is_not_replaced(self, path):
        with pytest.raises(KubeconfigFileError, match=f"{path} is no regular file"):
            change(Path(path), put("kube"))
        assert Path(path).is_char_device()

    def test_what_stands_in_the_way_of_a_folder_is_named(self, file):
        with pytest.raises(KubeconfigFileError, match=r"cannot create the folder of .*/config/a"):
            change(file / "a", put("kube"))

    def test_line_ends_and_marks_stay_byte_for_byte(self, file):
        file.write_bytes(b"\xef\xbb\xbfapiVersion: v1\r\nkind: Config\r\nx: \xc3\xa4\r\n")
        change(file, put("kube"))
        content = file.read_bytes()
        assert content.startswith(b"\xef\xbb\xbfapiVersion: v1\r\n")
        assert b"x: \xc3\xa4\r\n" in content
        assert content.count(b"\n") == content.count(b"\r\n")

    def test_who_writes_without_a_lock_meanwhile_loses_nothing(self, file):
        seen = []

        def edit(text: str) -> Edit:
            seen.append(text)
            if len(seen) == 1:
                file.write_text(add(text, entry("theirs")).text)
            return add(text, entry("ours"))

        change(file, edit)
        assert names(file) == ["theirs", "ours"]
        assert len(seen) == 2


class TestLock:
    def test_kubectls_lock_is_waited_for(self, file):
        lock = file.with_name("config.lock")
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0))  # as client-go does
        timer = threading.Timer(0.3, lock.unlink)
        timer.start()
        change(file, put("kube"))
        timer.join()
        assert names(file) == ["kube"]
        assert left(file.parent) == ["config"]

    @pytest.mark.parametrize("mode", [0, 0o600])
    def test_a_lock_that_stays_is_named(self, file, mode):
        lock = file.with_name("config.lock")
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL, mode))
        before = file.read_bytes()
        with pytest.raises(KubeconfigFileError, match=rf"{lock} is there: .*remove it"):
            change(file, put("kube"), patience=0.1)
        assert file.read_bytes() == before
        assert lock.exists()

    def test_kubectl_is_kept_out_while_we_write(self, file):
        def edit(text: str) -> Edit:
            with pytest.raises(FileExistsError):
                os.open(file.with_name("config.lock"), os.O_CREAT | os.O_EXCL, 0)
            return add(text, entry("kube"))

        change(file, edit)
        assert names(file) == ["kube"]

    def test_writers_at_once_lose_nothing(self, file):
        """Eight processes, one of them by way of a symbolic link."""
        link = file.with_name("link")
        link.symlink_to(file)
        program = (
            "import sys; from pathlib import Path; from tests.client.test_kubeconfigfile import *\n"
            "for n in range(5): change(Path(sys.argv[1]), put(f'{sys.argv[2]}-{n}'), patience=60)"
        )
        writers = [
            subprocess.Popen([sys.executable, "-c", program, str(file if n else link), f"w{n}"])
            for n in range(8)
        ]
        assert [writer.wait(100) for writer in writers] == [0] * 8
        assert sorted(names(file)) == sorted(f"w{n}-{m}" for n in range(8) for m in range(5))
        assert left(file.parent) == ["config", "link"]


class TestCrash:
    @pytest.mark.parametrize("there", [["old"], []], ids=["old", "new"])
    def test_killed_at_any_system_call_the_old_file_or_the_new_one_is_left(self, tmp_path, there):
        done = subprocess.run(
            [sys.executable, "-m", "tests.client.killing", str(tmp_path), *there],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        # Not in order: runs differ by a call or two before they come to the file.
        assert {row["left"] for row in rows} == {"old", "new"}
        assert {row["mode"] for row in rows} == {0o600}
        assert all(row["then"] for row in rows)

    @pytest.mark.parametrize("step", ["fsync", "fchmod", "replace", "write", "mkstemp"])
    def test_a_step_that_fails_leaves_the_old_file_and_nothing_else(self, file, step, monkeypatch):
        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.EIO, "the disk is on fire")

        before = file.read_bytes()
        if step == "mkstemp":
            monkeypatch.setattr("tempfile.mkstemp", fail)
        elif step == "write":
            monkeypatch.setattr("os.fdopen", fail)
        else:
            monkeypatch.setattr(os, step, fail)
        with pytest.raises(KubeconfigFileError, match=rf"cannot write {file}: the disk is on fire"):
            change(file, put("kube"))
        assert file.read_bytes() == before
        assert left(file.parent) == ["config"]

    @pytest.mark.parametrize("room", [0, 1, 100, 4096, 70_000])
    def test_a_full_disk_leaves_the_old_file_and_nothing_else(self, file, room):
        """The kernel writes as much as there is room for, and then refuses."""
        file.write_text(f"{HEAD}x: {'y' * 80_000}\n")
        before = file.read_bytes()
        program = (
            "import resource, sys; from tests.client.test_kubeconfigfile import *\n"
            "limit = int(sys.argv[2]); resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
            "change(Path(sys.argv[1]), put('kube'))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(file), str(room)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert f"cannot write {file}: File too large" in done.stderr
        assert file.read_bytes() == before
        assert left(file.parent) == ["config"]

    def test_the_content_is_on_the_disk_before_it_has_its_name(self, file, monkeypatch):
        steps = []
        for step in ("fsync", "replace"):
            real = getattr(os, step)
            monkeypatch.setattr(os, step, lambda *a, s=step, r=real: (steps.append(s), r(*a))[1])
        change(file, put("kube"))
        assert steps == ["fsync", "replace", "fsync"]


class TestAuthority:
    def test_certificates_alone_are_taken(self, tmp_path):
        one, two = Authority(), Authority()
        file = tmp_path / "ca.pem"
        certificates = [pem(each.certificate) for each in (one, two)]
        file.write_bytes(b"# ours\n" + certificates[0] + pem(one.key) + certificates[1])
        embedded = base64.b64decode(read_authority(file))
        assert embedded == b"".join(certificates)

    @pytest.mark.parametrize("content", [b"", b"no certificate"])
    def test_a_file_without_any_is_refused(self, tmp_path, content):
        file = tmp_path / "ca.pem"
        file.write_bytes(content)
        with pytest.raises(KubeconfigFileError, match=f"{file} holds no certificate"):
            read_authority(file)

    def test_a_file_that_is_not_there_is_refused(self, tmp_path):
        with pytest.raises(KubeconfigFileError, match="is not there"):
            read_authority(tmp_path / "ca.pem")
