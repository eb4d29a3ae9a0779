"""A conversation with a tap: who sends what, and what the tap says to it."""

from __future__ import annotations

from tailproxy.wire.sessionevents import Output

from .encoders import cut


def merged(events):
    """Return the events with neighbouring output of one stream put together."""
    result = []
    for each in events:
        before = result[-1] if result else None
        if isinstance(each, Output) and isinstance(before, Output) and before.stream == each.stream:
            result[-1] = Output(each.stream, before.data + each.data)
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
