"""Writers of what the readers read: the other side of a conversation in tests."""

from __future__ import annotations

import zlib
from itertools import pairwise
from struct import pack

from wsproto.frame_protocol import FrameProtocol

from tailproxy.wire.spdy import DICTIONARY


class SpdyWriter:
    """One direction of a SPDY connection; its header blocks share one compressor."""

    def __init__(self):
        self._compressor = zlib.compressobj(zdict=DICTIONARY)

    def block(self, pairs):
        text = pack(">I", len(pairs))
        for name, value in pairs:
            text += pack(">I", len(name)) + name.encode("latin-1")
            text += pack(">I", len(value)) + value.encode("latin-1")
        return self.deflated(text)

    def deflated(self, text):
        return self._compressor.compress(text) + self._compressor.flush(zlib.Z_SYNC_FLUSH)

    def control(self, kind, payload, flags=0, version=3):
        return pack(">HHI", 0x8000 | version, kind, flags << 24 | len(payload)) + payload

    def open(self, stream, headers, flags=0):
        pairs = headers.items() if isinstance(headers, dict) else headers
        payload = pack(">IIBB", stream, 0, 0, 0) + self.block(list(pairs))
        return self.control(1, payload, flags)

    def reply(self, stream, headers=()):
        return self.control(2, pack(">I", stream) + self.block(list(headers)))

    def headers(self, stream, headers):
        return self.control(8, pack(">I", stream) + self.block(list(headers)))

    def reset(self, stream, status=5):
        return self.control(3, pack(">II", stream, status))

    def ping(self, number):
        return self.control(6, pack(">I", number))

    def goaway(self, last, status=0):
        return self.control(7, pack(">II", last, status))

    def data(self, stream, data=b"", last=False):
        return pack(">II", stream, last << 24 | len(data)) + data

    def open_all(self, *kinds):
        """Open streams 1, 3, 5, ... as clients do."""
        return b"".join(
            self.open(2 * at + 1, {"streamtype": kind}) for at, kind in enumerate(kinds)
        )


class WebSocketWriter:
    """One direction of a WebSocket connection, written by wsproto."""

    def __init__(self, client):
        self._protocol = FrameProtocol(client=client, extensions=[])

    def binary(self, data, last=True):
        return bytes(self._protocol.send_data(data, fin=last))

    def text(self, text, last=True):
        return bytes(self._protocol.send_data(text, fin=last))

    def ping(self, data=b""):
        return bytes(self._protocol.ping(data))

    def pong(self, data=b""):
        return bytes(self._protocol.pong(data))

    def close(self, code=1000):
        return bytes(self._protocol.close(code))


def cut(data, *places):
    """Cut bytes at these places, in any order and even outside."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(edges)]
