"""A recorder's acknowledgements, whole, cut, and other than they should be."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.acks import Acknowledged, AckReader, Ended, Garbled, Refused
from tests.wire.golden import cases

NAMES = {
    "ack": lambda rest: Acknowledged(*rest),
    "error": lambda rest: Refused(*rest),
    "bad": lambda _: Garbled(),
    "eof": lambda _: Ended(),
}


def read(chunks):
    reader = AckReader()
    return [event for chunk in chunks for event in reader.receive(chunk)] + reader.end()


@pytest.mark.parametrize(("chunks", "events"), cases("acks", Path(__file__).parent / "acks.jsonl"))
def test_golden(chunks, events):
    expected = [NAMES[name](rest) for name, *rest in events]
    assert read(chunk.encode() for chunk in chunks) == expected


@given(
    st.lists(st.integers(0, 2**40)),
    st.none() | st.text(min_size=1),
    st.lists(st.integers(0, 300)),
    st.booleans(),
)
def test_any_split_gives_the_same(counts, error, cuts, escaped):
    objects = [{"ack": count} for count in counts]
    events = [Acknowledged(count) for count in counts]
    if error is not None:
        error = error.encode(errors="replace").decode()
        objects.append({"error": error})
        events.append(Refused(error))
    else:
        events.append(Ended())
    text = "\n".join(json.dumps(each, ensure_ascii=escaped) for each in objects).encode()
    borders = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    assert read(text[a:b] for a, b in pairwise(borders)) == events


@given(st.lists(st.binary()))
def test_any_bytes_end_somehow_and_never_raise(chunks):
    *before, last = read(chunks)
    assert all(isinstance(event, Acknowledged) for event in before)
    assert isinstance(last, Refused | Garbled | Ended)


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"7",
        b'"ack"',
        b'{"ack":"7"}',
        b'{"ack":-1}',
        b'{"ack":true}',
        b'{"ack":1.5}',
        b'{"error":7}',
        b"HTTP/1.1 200 OK",
        b'{"ack":' + b"9" * 5000 + b"}",
        b'{"a":' * 100_000,
        b'{"error":"' + b"x" * (64 << 10),
        b'{"error":"' + b"x" * (64 << 10) + b'"}',
    ],
)
def test_anything_else_is_garbled_at_once(text):
    assert AckReader().receive(b'{"ack":1}' + text)[-1:] == [Garbled()]


def test_after_garbage_nothing_counts():
    reader = AckReader()
    assert reader.receive(b'{"ack":1}]{"ack":2}') == [Acknowledged(1), Garbled()]
    assert reader.receive(b'{"ack":3}') == []
    assert reader.end() == []


def test_null_and_unknown_keys_are_as_if_they_were_not_there():
    assert AckReader().receive(b'{"ack":null,"error":null,"x":[1]}') == [Acknowledged(0)]


def test_wrong_bytes_do_not_hide_an_error():
    assert AckReader().receive(b'{"error":"\xff \\ud800"}') == [Refused("\ufffd ?")]


@pytest.mark.parametrize(("end", "ends"), [("true", True), ("false", False), ("1", False)])
def test_a_recorder_may_end_the_session(end, ends):
    said = b'{"error":"ended by ada","end":%b}' % end.encode()
    assert AckReader().receive(said) == [Refused("ended by ada", end=ends)]


def test_an_error_counts_more_than_an_acknowledgement_beside_it():
    assert AckReader().receive(b'{"ack":5,"error":"disk full"}') == [Refused("disk full")]
