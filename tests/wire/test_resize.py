"""Sizes of a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.resize import MAX_TEXT, SizeStream
from tailproxy.wire.sessionevents import Resized

from .encoders import cut


def read(*chunks):
    sizes = SizeStream()
    return [size for chunk in chunks for size in sizes.feed(chunk)]


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (b'{"Width":120,"Height":40}\n', [Resized(120, 40)]),
        (b'{"width":1,"HEIGHT":65535}', [Resized(1, 65535)]),
        (b'{"Width":9,"Height":8}{"Width":7,"Height":6}', [Resized(9, 8), Resized(7, 6)]),
        (b'{"Width":9,"width":5,"Height":8,"x":"y"}', [Resized(5, 8)]),
        (b'not json{"Width":9,"Height":8}', [Resized(9, 8)]),
        (b'{"Wid {"Width":9,"Height":8}', [Resized(9, 8)]),
        (b'{"Width":65536,"Height":8}', []),
        (b'{"Width":0,"Height":8}', []),
        (b'{"Width":-1,"Height":8}', []),
        (b'{"Width":8.0,"Height":8}', []),
        (b'{"Width":true,"Height":8}', []),
        (b'{"Width":"8","Height":8}', []),
        (b'{"Width":8}', []),
        (b"{}[]null", []),
        (b'{"Width":' + b"9" * 4070 + b"}", []),
        (b'{"x":' + b"[" * 4000 + b"}", []),
        (b"\xff{\xff}", []),
        (b"{\0}", []),
    ],
)
def test_sizes_are_found(text, sizes):
    assert read(text) == sizes
    assert read(*(text[at : at + 1] for at in range(len(text)))) == sizes


def test_a_stream_without_end_is_not_listened_to_any_more():
    good = b'{"Width":9,"Height":8}'
    sizes = SizeStream()
    assert sizes.feed(good + b"{" + b" " * MAX_TEXT + good) == [Resized(9, 8)]
    assert sizes.feed(good) == []


def test_what_is_kept_is_bounded():
    sizes = SizeStream()
    for _ in range(5000):
        sizes.feed(b"x{")
        sizes.feed(b" " * 7)
    assert len(sizes._text) == 8


texts = st.lists(
    st.sampled_from(
        [b'{"Width":', b"12", b',"Height":', b"34", b"}", b"{", b" " * 1500, b"x", b"\n"]
    ),
    max_size=20,
).map(b"".join)


@given(texts, st.lists(st.integers(0, 1 << 16), max_size=10))
def test_any_split_gives_the_same_sizes(text, places):
    assert read(*cut(text, *places)) == read(text)
