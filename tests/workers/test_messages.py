"""The control protocol, in one piece and in many."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.workers import messages
from tailproxy.workers.messages import (
    Adopt,
    Adopted,
    AskMetrics,
    Connection,
    ControlError,
    Failed,
    Figures,
    Leave,
    Leaving,
    Load,
    MessageReader,
    Ready,
    Standings,
    Start,
    encode,
)

TEXT = st.text(max_size=40)
NUMBER = st.integers(min_value=0, max_value=2**53)
MESSAGES = st.one_of(
    st.builds(Adopt, TEXT, TEXT, st.sampled_from(["json", "text"])),
    st.builds(Adopted, TEXT),
    st.builds(Start, NUMBER, TEXT, TEXT, TEXT, st.sampled_from(["json", "text"])),
    st.builds(Connection, TEXT),
    st.builds(AskMetrics, NUMBER),
    st.builds(Leave, st.floats(min_value=0, max_value=10)),
    st.builds(Ready),
    st.builds(Failed, TEXT),
    st.builds(Leaving),
    st.builds(Load, NUMBER, NUMBER),
    st.builds(Standings, st.lists(st.tuples(TEXT, st.booleans(), TEXT), max_size=3)),
    st.builds(Figures, NUMBER, st.lists(st.lists(TEXT, max_size=2), max_size=2)),
)


@given(MESSAGES)
def test_a_message_comes_out_as_it_went_in(message):
    assert MessageReader().receive_data(encode(message)) == [message]


@given(st.lists(MESSAGES, max_size=5), st.lists(st.integers(min_value=1, max_value=60)))
def test_however_the_bytes_are_split_the_messages_are_the_same(sent, sizes):
    stream = b"".join(map(encode, sent))
    reader, got, start = MessageReader(), [], 0
    for size in [*sizes, len(stream) or 1]:
        got += reader.receive_data(stream[start : start + size])
        start += size
    assert got == sent


def framed(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!I", messages.LIMIT + 1),
        framed(b"not json"),
        framed(b"[]"),
        framed(b"{}"),
        framed(json.dumps({"kind": "Nothing"}).encode()),
        framed(json.dumps({"kind": "Load", "taken": 1}).encode()),
        framed(json.dumps({"kind": "Ready", "more": 1}).encode()),
        framed(json.dumps({"kind": "Standings", "checks": [1]}).encode()),
    ],
)
def test_what_is_no_message_is_an_error(data):
    with pytest.raises(ControlError):
        MessageReader().receive_data(data)


def test_a_message_that_may_hold_secrets_does_not_show_them():
    text = '{"AuthKey":"tskey-1"}'
    assert "tskey" not in repr(Start(1, "1", "file", text, "json"))
    assert "tskey" not in repr(Adopt("file", text, "json"))
