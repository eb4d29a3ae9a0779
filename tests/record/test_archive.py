"""Copies by `kubectl cp`, noticed as they go by."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
from twisted.logger import globalLogPublisher

from tailproxy.interfaces import RecordedSession
from tailproxy.record.archive import MOST_LINES, Archive
from tailproxy.wire.head import read_head
from tailproxy.wire.sessionevents import STDERR, STDOUT, Input, Output
from tests.proxy.plane import identity


@pytest.fixture
def lines():
    found = []

    def keep(event) -> None:
        if "copied" in str(event.get("log_format")):
            found.append(event)

    globalLogPublisher.addObserver(keep)
    yield found
    globalLogPublisher.removeObserver(keep)


def session() -> RecordedSession:
    target = b"/api/v1/namespaces/prod/pods/web-0/exec"
    head = read_head(b"POST", target, "1.1", [(b"Host", b"k")])
    return RecordedSession("r1", "exec", head, identity(), enforced=False)


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("command", "direction"),
    [
        (["tar", "cf", "-", "/etc/hosts"], "from"),
        (["tar", "-xmf", "-", "-C", "/tmp"], "to"),
        (["tar", "xmf", "-"], "to"),
        (["/bin/tar", "cf", "-", "x"], "from"),
        (["tar", "cf", "file.tar", "x"], None),
        (["tar", "tf", "-"], None),
        (["sh", "-c", "tar cf - x"], None),
        (["tar"], None),
        ([], None),
    ],
)
def test_a_copy_is_known_by_its_command(command, direction):
    archive = Archive.of(session(), command)
    assert (archive.direction if archive else None) == direction


@pytest.mark.parametrize("size", [1, 512, 100_000])
def test_each_file_is_a_line_with_its_size_and_checksum(lines, size):
    files = {"a.txt": b"hello", "dir/b.bin": bytes(1000)}
    archive = Archive.of(session(), ["tar", "cf", "-", "."])
    data = packed(files)
    for at in range(0, len(data), size):
        archive.see(Output(STDERR, b"tar: removing leading slash"))
        archive.see(Output(STDOUT, data[at : at + size]))
    archive.end()
    assert [(line["file"], line["size"], line["sha256"]) for line in lines] == [
        (name, len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()
    ]
    assert {line["direction"] for line in lines} == {"from"}
    assert {line["pod"] for line in lines} == {"web-0"}


def test_what_goes_to_the_pod_is_read_from_the_input(lines):
    archive = Archive.of(session(), ["tar", "xmf", "-"])
    archive.see(Input(packed({"up": b"x"})))
    assert [(line["file"], line["direction"]) for line in lines] == [("up", "to")]


def test_what_is_no_archive_has_no_lines(lines):
    archive = Archive.of(session(), ["tar", "cf", "-", "x"])
    archive.see(Output(STDOUT, b"no archive at all" * 100))
    archive.see(Output(STDOUT, packed({"late": b"x"})))
    archive.end()
    assert lines == []


def test_of_very_many_files_the_number_is_told(lines):
    archive = Archive.of(session(), ["tar", "cf", "-", "x"])
    archive.see(Output(STDOUT, packed({f"f{n}": b"" for n in range(MOST_LINES + 5)})))
    archive.end()
    assert len(lines) == MOST_LINES + 1
    assert lines[-1]["more"] == 5
