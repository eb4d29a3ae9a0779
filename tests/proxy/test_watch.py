"""Where events end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.proxy.watch import FramedEvents, JSONEvents, events_of

EVENTS = st.lists(st.binary(max_size=30), max_size=8)
PIECES = st.lists(st.integers(1, 40), max_size=60)


def split(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [piece for piece in (*pieces, data) if piece]


def check(reader: JSONEvents | FramedEvents, events: list[bytes], sizes: list[int]) -> None:
    ends = {0}
    for event in events:
        ends.add(max(ends) + len(event))
    position = 0
    assert reader.between
    for piece in split(b"".join(events), sizes):
        end = reader.last_end(piece)
        inside = [e - position for e in ends if position < e <= position + len(piece)]
        assert end == max(inside, default=0)
        position += len(piece)
        assert reader.between == (position in ends)


@given(events=EVENTS, sizes=PIECES)
def test_ends_of_lines_are_found_however_the_stream_is_cut(events, sizes):
    check(JSONEvents(), [event.replace(b"\n", b"") + b"\n" for event in events], sizes)


@given(events=EVENTS, sizes=PIECES)
def test_ends_of_frames_are_found_however_the_stream_is_cut(events, sizes):
    check(FramedEvents(), [len(event).to_bytes(4) + event for event in events], sizes)


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ([(b"Content-Type", b"application/json")], JSONEvents),
        ([(b"content-type", b"Application/JSON; charset=utf-8")], JSONEvents),
        (
            [(b"Content-Type", b"application/vnd.kubernetes.protobuf;stream=watch")],
            FramedEvents,
        ),
        ([(b"Content-Type", b"application/cbor-seq")], type(None)),
        ([(b"Content-Type", b"application/json"), (b"Content-Encoding", b"gzip")], type(None)),
        ([], type(None)),
    ],
)
def test_kind_of_events_is_known_by_the_headers(headers, kind):
    assert type(events_of(headers)) is kind
