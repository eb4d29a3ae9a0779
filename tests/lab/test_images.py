"""Images made without a registry, and what is asked of the machine before."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import images, node
from tests.lab.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path


def program(*headers: int) -> bytes:
    """The start of an ELF program with program headers of these types."""
    start = struct.pack("<16sHHIQQQIHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 64, 0, 0, 64, 56, 0)
    start = start[:56] + struct.pack("<H", len(headers)) + bytes(6)
    return start + b"".join(struct.pack("<I", kind) + bytes(52) for kind in headers)


@pytest.mark.parametrize(
    ("data", "static"),
    [
        (program(1, 1), True),
        (program(6, 3, 1), False),
        (b"#!/bin/sh\n", False),
        (b"\x7fELF", False),
    ],
)
def test_a_program_that_names_a_loader_is_not_static(
    tmp_path: Path, data: bytes, static: bool
) -> None:
    (tmp_path / "program").write_bytes(data)
    assert images.is_static(tmp_path / "program") is static


def test_a_busybox_with_libraries_is_refused_with_the_package_to_install(tmp_path: Path) -> None:
    (tmp_path / "busybox").write_bytes(program(3))
    with pytest.raises(LabError, match="apt-get install busybox-static"):
        images.busybox_layer(tmp_path / "busybox")


def test_an_archive_names_its_parts_by_their_digests(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    images.write_archive(path, ("one:1", "two:2"), b"layer", ("sh", "-c", "true"))
    with tarfile.open(path) as tar:
        parts = {member.name: read(tar, member) for member in tar}
    (entry,) = json.loads(parts["manifest.json"])
    assert entry["RepoTags"] == ["one:1", "two:2"]
    config: dict[str, Any] = json.loads(parts[entry["Config"]])
    assert entry["Config"] == hashlib.sha256(parts[entry["Config"]]).hexdigest() + ".json"
    assert [parts[name] for name in entry["Layers"]] == [b"layer"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(b'layer').hexdigest()}"]
    assert config["config"]["Cmd"] == ["sh", "-c", "true"]


def read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert isinstance(file, io.BufferedReader)
    return file.read()


def test_without_root_the_real_node_says_so_and_names_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match=r"wants root.*--node kwok"):
        node.machine_programs()


def test_missing_packages_are_all_named_in_one_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(node, "PACKAGES", {"no-such-program": "some-package"})
    monkeypatch.setattr(node, "CNI_FOLDERS", (str(tmp_path),))
    with pytest.raises(
        LabError, match="apt-get install --no-install-recommends containernetworking-plugins some-p"
    ):
        node.machine_programs()
