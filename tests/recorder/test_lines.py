"""Which lines are good, however they are split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.recorder.lines import LINE_BYTES, Lines, describe
from tests.recorder.place import HEADER, event, header

CAST = header() + event(0.5, "hello") + event(1, "120x40", "r") + event(7.5, "grüße 🎈")

BAD = {
    b"\n": "is not JSON",
    b"nonsense\n": "is not JSON",
    b"\xff\n": "is not JSON",
    b"[1,\n": "is not JSON",
    b'[NaN,"o","x"]\n': "is not JSON",
    b"[" * 100_000 + b"\n": "is not JSON",
    b"{}\n": "is not an event",
    b"[]\n": "is not an event",
    b'[1,"o"]\n': "is not an event",
    b'[1,"o","x",2]\n': "is not an event",
    b'["1","o","x"]\n': "is not an event",
    b'[true,"o","x"]\n': "is not an event",
    b'[-1,"o","x"]\n': "is not an event",
    b'[1e999,"o","x"]\n': "is not an event",
    b'[1,2,"x"]\n': "is not an event",
    b'[1,"o",2]\n': "is not an event",
    b'[1,"","x"]\n': "is not an event",
}
NO_HEADERS = {
    event(1, "x"): "is not the header of a recording",
    b'"x"\n': "is not the header of a recording",
    b"{}\n": "is not the header of a recording",
    b'{"version":3}\n': "is a header, but not of version 2",
    b'{"version":"2"}\n': "is a header, but not of version 2",
    b'{"version":2,"width":"80"}\n': "is a header whose width is not a number",
    b'{"version":2,"height":-1}\n': "is a header whose height is not a number",
    b'{"version":2,"timestamp":1e999}\n': "is a header whose timestamp is not a number",
}


def fed(pieces) -> tuple[Lines, bytes]:
    lines = Lines()
    whole = b"".join([lines.feed(piece) for piece in pieces])
    return lines, whole + lines.end()


def test_good_lines_are_all_there():
    lines, whole = fed([CAST])
    assert whole == CAST
    assert (lines.damage, lines.duration, lines.exit_code) == ("", 7.5, None)
    assert lines.header["srcNodeID"] == "n1"


def test_only_whole_lines_come_back():
    lines = Lines()
    assert lines.feed(CAST[:10]) == b""
    first = CAST.index(b"\n") + 1
    assert lines.feed(CAST[10 : first + 5]) == CAST[:first]


@pytest.mark.parametrize(("line", "reason"), BAD.items())
def test_a_bad_line_is_the_last(line, reason):
    lines, whole = fed([CAST + line + event(9, "after it")])
    assert whole == CAST
    assert lines.damage.startswith(f"line 5 {reason}")


@pytest.mark.parametrize(("line", "reason"), NO_HEADERS.items())
def test_the_first_line_must_be_a_header(line, reason):
    lines, whole = fed([line + CAST])
    assert whole == b""
    assert lines.damage == f"line 1 {reason}"


@pytest.mark.parametrize("ended", [True, False])
def test_a_line_that_is_too_long_is_not_waited_for(ended):
    lines = Lines()
    assert lines.feed(CAST) == CAST
    for _ in range(LINE_BYTES // 65536 + 1):
        assert lines.feed(b"x" * 65536) == b""
    if ended:
        lines.feed(b"\n")
    assert lines.damage == f"line 5 is longer than {LINE_BYTES} bytes"
    assert lines.end() == b""


def test_a_marker_tells_the_exit_code():
    lines, _ = fed([CAST + event(8, "exit 137", "m")])
    assert lines.exit_code == 137
    lines, _ = fed([CAST + event(8, "exit 137", "o")])
    assert lines.exit_code is None


@given(st.data())
def test_any_split_gives_the_same(data):
    bad = data.draw(st.sampled_from([b"", *BAD]))
    text = CAST + bad + event(9, "after it")
    if data.draw(st.booleans()):
        text = text[: data.draw(st.integers(0, len(text)))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    one, whole = fed([text])
    many, again = fed(pieces)
    assert again == whole
    assert many.damage == one.damage
    assert many.duration == one.duration
    assert (text + b"\n").startswith(whole)


@given(st.binary(max_size=200))
def test_no_bytes_break_it(data):
    _, whole = fed([CAST, data])
    assert (CAST + data + b"\n").startswith(whole)
    assert whole.startswith(CAST)


@given(
    st.dictionaries(
        st.sampled_from([*HEADER, "tailproxy", "srcNodeTags"]),
        st.one_of(st.none(), st.integers(), st.text(), st.lists(st.text()), st.just({"x": 1})),
    )
)
def test_a_header_is_described_or_refused(changes):
    lines, _ = fed([header(**changes)])
    if not lines.damage:
        described = describe(lines.header, "x", 5.0)
        assert described.start in {5.0, float(lines.header.get("timestamp") or 5)}
        assert all(isinstance(tag, str) for tag in described.tags)


def test_text_that_is_no_unicode_is_cleaned():
    lines, _ = fed([b'{"version":2,"command":"\\ud800x"}\n'])
    assert describe(lines.header, "x", 5.0).command == "?x"
