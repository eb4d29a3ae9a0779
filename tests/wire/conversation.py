"""A conversation with a reader: who sends what, and what the reader says to it."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tailproxy.wire.channels import Part
from tailproxy.wire.sessionevents import Input, Output
from tailproxy.wire.spdy import Data
from tailproxy.wire.websocket import Piece

from .encoders import cut


def merged(events):
    """Return the events with neighbouring output of one stream, or input, put together."""
    result = []
    for each in events:
        before = result[-1] if result else None
        if isinstance(each, Output) and isinstance(before, Output) and before.stream == each.stream:
            result[-1] = Output(each.stream, before.data + each.data)
        elif isinstance(each, Input) and isinstance(before, Input):
            result[-1] = Input(before.data + each.data)
        else:
            result.append(each)
    return result


def play(tap, steps, places=None):
    """Let both sides send.

    :param steps: pairs of ``">"`` (up) or ``"<"`` (down) and bytes.
    :param places: cut the bytes of every step there; without, at every byte.
    """
    events = []
    for way, data in steps:
        side = tap.up if way == ">" else tap.down
        pieces = cut(data, *(range(len(data)) if places is None else places))
        for piece in pieces:
            events += side(piece)
    return merged([*events, *tap.end()])


def joined(frames):
    """Return the frames with neighbouring pieces of data of one stream put together."""
    result = []
    for each in frames:
        before = result[-1] if result else None
        if (
            isinstance(each, Data)
            and isinstance(before, Data)
            and before.stream == each.stream
            and not before.last
        ):
            result[-1] = Data(each.stream, before.data + each.data, each.last)
        else:
            result.append(each)
    return result


def whole_frames(events):
    """Return the frames with the pieces of each put together and unmasked."""
    frames, payload = [], b""
    for each in events:
        if isinstance(each, Piece):
            payload += each.payload()
            if each.frame_ends:
                frames.append((each.opcode, payload, bool(each.key), each.message_ends))
                payload = b""
        else:
            frames.append(each)
    return [*frames, payload]


def whole_messages(events):
    """Return the messages with the parts of each put together."""
    messages, data = [], b""
    for each in events:
        if isinstance(each, Part):
            data += each.data
            if each.last:
                messages.append((each.channel, data))
                data = b""
        else:
            messages.append(each)
    return [*messages, data]


def size_of(value, seen=None):
    """Return how many bytes a value and all that it refers to takes, as far as is ours."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return 0
    seen.add(id(value))
    size = sys.getsizeof(value)
    if isinstance(value, Mapping):
        size += sum(size_of(each, seen) for pair in value.items() for each in pair)
    elif isinstance(value, list | tuple | set | frozenset):
        size += sum(size_of(each, seen) for each in value)
    elif type(value).__module__.startswith("tailproxy"):
        names = getattr(value, "__slots__", None) or vars(value)
        size += sum(size_of(getattr(value, name), seen) for name in names)
    return size
