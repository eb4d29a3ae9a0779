"""Sizes of a terminal, as clients send them: JSON objects one after the other, cut anywhere."""

from __future__ import annotations

import json
import re

from tailproxy.wire.sessionevents import Resized

MAX_TEXT = 4096
"""So many bytes that make no size are kept; then the stream is not listened to any more."""

# Objects without others in them: that is all that sizes are, and cannot be nested into trouble.
_RUN = re.compile(rb"\{[^{}]*\}?")
_SIZES = range(1, 1 << 16)


class SizeStream:
    """Reads a stream of sizes (streaming.md 4.1). What is no size is passed over."""

    def __init__(self) -> None:
        self._text: bytes | None = b""

    def feed(self, data: bytes) -> list[Resized]:
        """Take the next bytes."""
        if self._text is None:
            return []
        sizes: list[Resized] = []
        rest = b""
        for each in _RUN.finditer(self._text + data):
            rest = each[0]
            if len(rest) > MAX_TEXT:
                self._text = None
                return sizes
            if rest.endswith(b"}"):
                size = _size(rest)
                if size is not None:
                    sizes.append(size)
                rest = b""
        # What another brace follows makes no size any more, so the last one is all to keep.
        self._text = rest
        return sizes


def _size(text: bytes) -> Resized | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    # The API server matches names without case, and the last one counts.
    fields = {key.lower(): number for key, number in value.items()}
    columns, rows = fields.get("width"), fields.get("height")
    if type(columns) is int and type(rows) is int and columns in _SIZES and rows in _SIZES:
        return Resized(columns, rows)
    return None
