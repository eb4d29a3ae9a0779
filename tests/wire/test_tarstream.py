"""Archives as they go by."""

from __future__ import annotations

import io
import subprocess
import tarfile
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.sessionevents import Unreadable
from tailproxy.wire.tarstream import MAX_EXTENSION, Member, TarReader

from .conversation import size_of
from .encoders import cut

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def read(*chunks):
    reader = TarReader()
    return [each for chunk in chunks for each in reader.feed(chunk)]


def member(name, contents):
    return Member(name, "file", len(contents), sha256(contents).hexdigest())


def archive(form, *members):
    """Write an archive with Python's tarfile.

    :param members: name with contents in bytes, or with a type.
    """
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=form) as tar:
        for name, contents in members:
            info = tarfile.TarInfo(name)
            if isinstance(contents, bytes):
                info.size = len(contents)
                tar.addfile(info, io.BytesIO(contents))
            else:
                info.type = contents.encode()
                info.linkname = "l" * 150 if form != tarfile.USTAR_FORMAT else "l"
                tar.addfile(info)
    return written.getvalue()


def header(name=b"a", size=b"0", kind=b"0", magic=b"ustar\x0000"):
    block = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.ljust(12, b"\0")
    block += b"00000000000\0" + b" " * 8 + kind + bytes(100) + magic
    block = block.ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def extension(kind, text):
    return header(size=b"%o" % len(text), kind=kind) + text + bytes(-len(text) % 512)


class TestTarReader:
    @pytest.mark.parametrize("form", FORMATS)
    def test_files_folders_and_links(self, form):
        data = archive(
            form,
            ("folder/", "5"),
            ("folder/empty", b""),
            ("folder/some", b"x" * 513),
            ("folder/block", b"y" * 1024),
            ("link", "2"),
            ("hard", "1"),
            ("pipe", "6"),
        )
        assert read(data + b"and more") == [
            Member("folder/", "folder", 0, ""),
            member("folder/empty", b""),
            member("folder/some", b"x" * 513),
            member("folder/block", b"y" * 1024),
            Member("link", "link", 0, ""),
            Member("hard", "link", 0, ""),
            Member("pipe", "other", 0, ""),
        ]

    @pytest.mark.parametrize("form", FORMATS)
    def test_names_may_be_long(self, form):
        name = "d" * 90 + "/" + "n" * 90
        assert read(archive(form, (name, b"x"), ("b", b"y"))) == [
            member(name, b"x"),
            member("b", b"y"),
        ]

    @pytest.mark.parametrize("form", FORMATS[1:])
    def test_names_may_be_very_long_and_in_any_script(self, form):
        name = "é/" * 800
        assert read(archive(form, (name, b"x"))) == [member(name, b"x")]

    def test_sizes_may_be_large(self):
        large = 1 << 34
        for data in (
            header(size=b"\x80" + large.to_bytes(11)),
            extension(b"x", b"20 size=17179869184\n") + header(size=b"7"),
        ):
            reader = TarReader()
            assert reader.feed(data + bytes(65536)) == []
            assert reader._remaining == large - 65536

    def test_what_tar_itself_writes_can_be_read(self, tmp_path):
        (tmp_path / "f").mkdir()
        (tmp_path / "f" / ("n" * 200)).write_bytes(b"contents")
        data = subprocess.run(
            ["tar", "cf", "-", "f"], cwd=tmp_path, stdout=subprocess.PIPE, check=True
        ).stdout
        assert read(data) == [Member("f/", "folder", 0, ""), member("f/" + "n" * 200, b"contents")]

    def test_one_block_of_zeros_is_not_the_end(self):
        reader = TarReader()
        assert reader.feed(bytes(512) + header(b"a")) == [member("a", b"")]
        assert not reader.ended
        reader.feed(bytes(1024))
        assert reader.ended

    def test_a_field_that_means_something_else_is_no_prefix(self):
        block = bytearray(header(magic=b"ustar  \0"))
        block[345:348] = b"123"
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        assert read(bytes(block)) == [member("a", b"")]

    def test_an_extension_of_a_link_or_of_all_is_passed_over(self):
        data = (
            extension(b"K", b"target\0") + extension(b"g", b"11 a=bcdef\n") + extension(b"x", b"")
        )
        assert read(data + header(b"name")) == [member("name", b"")]

    def test_what_is_no_utf8_is_shown_as_such(self):
        assert read(header(b"\xff")) == [member("\ufffd", b"")]

    @pytest.mark.parametrize(
        ("reason", "data"),
        [
            ("wrong checksum", header()[:-1] + b"x"),
            ("wrong checksum", b"hello".ljust(512, b"\0")),
            ("a sparse file", header(kind=b"S")),
            ("a number that is none", header(size=b"9")),
            ("a number that is none", header(size=b"-1")),
            ("a number that is too large", header(size=b"\x81" + bytes(11))),
            ("a number that is too large", header(size=b"\x80" + b"\xff" * 11)),
            (f"of {MAX_EXTENSION + 1} bytes", header(size=b"%o" % (MAX_EXTENSION + 1), kind=b"x")),
            ("for all members", extension(b"g", b"10 path=x\n")),
            ("a size that is none", extension(b"x", b"11 size=-1\n")),
            ("an extension that is none", extension(b"x", b"nonsense")),
            ("an extension that is none", extension(b"x", b"99 path=x\n")),
            ("an extension that is none", extension(b"x", b"5 path=x\n")),
            ("an extension that is none", extension(b"x", b"10 path=xy")),
        ],
    )
    def test_what_cannot_be_read_says_why_and_is_the_last(self, reason, data):
        good = header(b"good")
        reader = TarReader()
        first, last = reader.feed(good + data + good)
        assert first == member("good", b"")
        assert isinstance(last, Unreadable)
        assert reason in last.reason
        assert reader.feed(good) == []

    def test_state_is_bounded(self):
        reader = TarReader()
        reader.feed(extension(b"L", b"n" * MAX_EXTENSION) + header(size=b"77777777777"))
        for _ in range(100):
            reader.feed(bytes(65536))
        assert size_of(reader) < 4 * MAX_EXTENSION


@given(
    st.sampled_from(FORMATS[1:]),
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1),
            st.binary(max_size=1100),
        ),
        max_size=4,
    ),
    st.binary(max_size=3),
    st.integers(0, 1 << 13),
    st.lists(st.integers(0, 1 << 16), max_size=9),
)
def test_any_split_gives_the_same_members(form, members, junk, at, places):
    data = archive(form, *members)
    assert [each.size for each in read(data)] == [len(contents) for _, contents in members]
    changed = data[: at % len(data)] + junk + data[at % len(data) + len(junk) :]
    expected = read(changed)
    assert read(*cut(changed, *places)) == expected
    assert read(*(changed[at : at + 1] for at in range(len(changed)))) == expected
