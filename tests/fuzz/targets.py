"""What must hold of each reader, whatever bytes it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO

from tailproxy.wire.acks import Acknowledged, AckReader, Ended, Garbled, Refused
from tailproxy.wire.cast import CastError, CastHeader, CastWriter, read_cast
from tailproxy.wire.channels import ChannelReader
from tailproxy.wire.outcome import read_outcome
from tailproxy.wire.resize import SizeStream
from tailproxy.wire.session import FrameHolder, Unreadable, forward_tap, tap
from tailproxy.wire.spdy import MAX_CONTROL, SpdyReader
from tailproxy.wire.tarstream import TarReader
from tailproxy.wire.websocket import WebSocketReader
from tests.wire.conversation import (
    joined,
    play,
    size_of,
    whole_frames,
    whole_messages,
)
from tests.wire.encoders import SpdyWriter, cut

Step = tuple[str, bytes]

EXEC = [
    ("SPDY/3.1", "v4.channel.k8s.io"),
    ("SPDY/3.1", "v3.channel.k8s.io"),
    ("websocket", "v5.channel.k8s.io"),
    ("websocket", "v4.base64.channel.k8s.io"),
    ("websocket", ""),
    ("websocket", "base64.channel.k8s.io"),
]
FORWARD = [
    ("SPDY/3.1", "portforward.k8s.io"),
    ("websocket", "SPDY/3.1+portforward.k8s.io"),
    ("websocket", "v4.channel.k8s.io"),
    ("websocket", "v4.base64.channel.k8s.io"),
]
KINDS = ["error", "stdin", "stdout", "stderr", "resize", "data", "other", "error\0data"]
MAX_STATE = 4 * MAX_CONTROL


def _agree(make: Callable[[], object], show: Callable[[list], object], data: bytes) -> None:
    """Read the bytes in three ways, which must give the same."""
    middle = data[0] * len(data) // 256 if data else 0
    every = range(len(data)) if len(data) < 2048 else range(0, len(data), 7)
    seen = []
    for places in ((), (middle,), every):
        reader = make()
        events = [each for piece in cut(data, *places) for each in reader.feed(piece)]
        assert not any(isinstance(each, Unreadable) for each in events[:-1])
        assert size_of(reader) < MAX_STATE
        if not events or not isinstance(events[-1], Unreadable):
            assert 0 <= getattr(reader, "pending", 0) <= len(data)
        seen.append(show(events))
    assert seen[0] == seen[1] == seen[2]


def spdy(data: bytes) -> None:
    """Read one direction of SPDY."""
    _agree(SpdyReader, joined, data)


def websocket(data: bytes) -> None:
    """Read one direction of WebSocket."""
    _agree(WebSocketReader, whole_frames, data)


def channels(data: bytes) -> None:
    """Read one direction of WebSocket with channels; the first byte chooses the subprotocol."""
    if data:
        subprotocol = EXEC[2 + data[0] % 4][1]
        _agree(lambda: ChannelReader(subprotocol), whole_messages, data[1:])


def sizes(data: bytes) -> None:
    """Read sizes of a terminal."""
    _agree(SizeStream, list, data)


def outcome(data: bytes) -> None:
    """Read an error stream."""
    said = read_outcome(data)
    said.message.encode()
    assert (said.code is None) == (said.kind in {"failure", "protocol-error"})


def acks(data: bytes) -> None:
    """Read a recorder's acknowledgements."""
    every = range(len(data)) if len(data) < 2048 else range(0, len(data), 7)
    seen = []
    for places in ((), (len(data) // 3,), every):
        reader = AckReader()
        events = [each for piece in cut(data, *places) for each in reader.receive(piece)]
        assert size_of(reader) < MAX_STATE
        events += reader.end()
        assert all(isinstance(each, Acknowledged) for each in events[:-1])
        assert isinstance(events[-1], Refused | Ended | Garbled)
        seen.append(events)
    assert seen[0] == seen[1] == seen[2]


def tarstream(data: bytes) -> None:
    """Read an archive."""
    _agree(TarReader, list, data)


def cast(data: bytes) -> None:
    """Read a recording; and write one of the same bytes."""
    try:
        _, events = read_cast(BytesIO(data))
        for _ in events:
            pass
    except CastError:
        pass
    writer = CastWriter(CastHeader(timestamp=1), terminal=True)
    written = writer.begin()
    for at, piece in enumerate(cut(data, len(data) // 3, len(data) // 2)):
        written += writer.output(at, 1 + at % 2, piece)
    header, events = read_cast(BytesIO(written + writer.end(9)))
    assert header == CastHeader(timestamp=1, width=80, height=24, tailproxy={})
    assert all(event.code == "o" for event in events)


def remotecommand(data: bytes) -> None:
    """Follow an exec; the first byte chooses the protocol, the others are a script."""
    if data:
        protocol = EXEC[data[0] % len(EXEC)]
        _follow(
            lambda: tap(*protocol, terminal=data[0] < 128, with_input=data[0] & 64 > 0),
            protocol[0],
            data[1:],
        )


def portforward(data: bytes) -> None:
    """Follow a port-forward; the first byte chooses the protocol, the others are a script."""
    if data:
        protocol = FORWARD[data[0] % len(FORWARD)]
        _follow(lambda: forward_tap(*protocol), protocol[0], data[1:])


def _follow(make: Callable[[], object], protocol: str, script: bytes) -> None:
    steps = list(_spdy_steps(script) if protocol == "SPDY/3.1" else _raw_steps(script))
    whole = play(make(), steps, places=())
    assert play(make(), steps, places=(3, 9, 40)) == whole
    assert not any(isinstance(each, Unreadable) for each in whole[:-1])
    followed, holder, came, sent = make(), FrameHolder(), b"", b""
    for way, data in steps:
        if way == ">":
            followed.up(data)
        else:
            followed.down(data)
            came += data
            sent += holder.take(data, followed.down_border)
    assert size_of(followed) < MAX_STATE
    assert came.startswith(sent)
    last_words = followed.farewell("bye", b"{}", holder.held)
    if last_words:
        # Whoever was sent this much can read how it ends.
        client = make()
        assert not any(isinstance(each, Unreadable) for each in client.down(sent + last_words))


def _raw_steps(script: bytes) -> Iterator[Step]:
    """Read a script: way and length in one byte, then so many bytes to send."""
    at = 0
    while at < len(script):
        way, length = "<>"[script[at] >> 7], script[at] & 0x7F
        yield way, script[at + 1 : at + 1 + length]
        at += 1 + length


def _spdy_steps(script: bytes) -> Iterator[Step]:
    """Read a script of frames, so that header blocks can be deflated: four bytes each, and data.

    The first byte is the way and what to send, the second the stream, the third more of it, the
    fourth how many bytes of data follow.
    """
    writers = {way: SpdyWriter() for way in "<>"}
    at = 0
    while at + 4 <= len(script):
        first, stream, more, length = script[at : at + 4]
        data = script[at + 4 : at + 4 + length]
        at += 4 + length
        way = "<>"[first >> 7]
        writer = writers[way]
        text = data.decode("latin-1")
        pairs = [("streamtype", KINDS[more % len(KINDS)]), ("port", text), ("requestid", text[:2])]
        match first % 8:
            case 0:
                yield way, writer.open(stream, pairs[: 1 + more // 64], flags=more >> 5 & 1)
            case 1:
                yield way, writer.data(stream, data, last=bool(more & 1))
            case 2:
                yield way, writer.reply(stream, pairs[: more % 4])
            case 3:
                yield way, writer.headers(stream, pairs[: more % 4])
            case 4:
                yield way, writer.reset(stream, more)
            case 5:
                yield way, writer.goaway(stream) + writer.ping(more)
            case 6:
                yield way, writer.control(more, data)
            case 7:
                yield way, data


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        spdy,
        websocket,
        channels,
        sizes,
        outcome,
        acks,
        tarstream,
        cast,
        remotecommand,
        portforward,
    )
}
