"""Recordings: asciicast v2 (docs.asciinema.org), with the header that tsrecorder expects.

A recording is lines of JSON: a header, then events with their seconds since the start. What was
typed is never in it (streaming.md 7).
"""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING, Any, Literal

import attrs

from tailproxy.wire.sessionevents import STDERR, STDOUT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

HEADER_SECONDS = 2.0
"""So long the header waits for the first size of a terminal."""
MAX_WAITING = 1 << 16
"""So many bytes of lines wait for the header at most."""

_COLUMNS, _ROWS = 80, 24  # of a terminal that never said
_VERSION = 2
_OWN_KEY = "tailproxy"

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_new_decoder = codecs.getincrementaldecoder("utf-8")


class CastError(ValueError):
    """A line of a recording that cannot be read; the text names it."""


@attrs.frozen
class CastHeader:
    """The first line of a recording (streaming.md 7.1).

    :ivar width: columns at first; 0 without a terminal.
    :ivar height: rows at first; 0 without a terminal.
    :ivar timestamp: when it began, in seconds since 1970.
    :ivar command: its words, joined by blanks; empty for an attach.
    :ivar src_node: the caller's node, without a dot at the end.
    :ivar src_node_id: its stable id.
    :ivar src_node_tags: empty unless it is tagged.
    :ivar src_node_user_id: 0 if it is tagged.
    :ivar src_node_user: login name; empty if it is tagged.
    :ivar pod: name of the pod.
    :ivar container: empty if the client named none.
    :ivar session_type: ``exec`` or ``attach``.
    :ivar tailproxy: what else is known, JSON values by name. Written even if empty: recordings
        without it are by others, who write sizes the other way round (`read_cast`).
    """

    timestamp: int
    src_node: str = ""
    src_node_id: str = ""
    namespace: str = ""
    pod: str = ""
    container: str = ""
    session_type: str = "exec"
    command: str = ""
    src_node_tags: tuple[str, ...] = ()
    src_node_user_id: int = 0
    src_node_user: str = ""
    width: int = 0
    height: int = 0
    tailproxy: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the object to write."""
        header: dict[str, Any] = {
            "version": _VERSION,
            "width": self.width,
            "height": self.height,
            "timestamp": self.timestamp,
            "command": self.command,
            "srcNode": self.src_node,
            "srcNodeID": self.src_node_id,
            "srcNodeTags": list(self.src_node_tags),
            "srcNodeUserID": self.src_node_user_id,
            "srcNodeUser": self.src_node_user,
        }
        for key in ("command", "srcNodeTags", "srcNodeUserID", "srcNodeUser"):
            if not header[key]:
                del header[key]
        # These are for recordings of SSH, and there all the same.
        header |= {"env": None, "sshUser": "", "localUser": "", "connectionID": ""}
        header["kubernetes"] = {
            "PodName": self.pod,
            "Namespace": self.namespace,
            "Container": self.container,
            "SessionType": self.session_type,
        }
        header[_OWN_KEY] = dict(self.tailproxy or {})
        return header


def session_header(
    *,
    node: str,
    node_id: str,
    user_id: int,
    login: str,
    tags: Sequence[str],
    query: Mapping[str, Sequence[str]],
    namespace: str,
    pod: str,
    session_type: str,
    timestamp: int,
    tailproxy: Mapping[str, Any] | None = None,
) -> CastHeader:
    """Return the header for a session, its size left open.

    :param node: name of the caller's node, with or without a dot at the end.
    :param node_id: its stable id.
    :param user_id: of its owner; means nothing if it is tagged.
    :param login: likewise.
    :param tags: empty unless it is tagged.
    :param query: of the request: all values by name, decoded.
    :param session_type: ``exec`` or ``attach``.
    :param timestamp: seconds since 1970.
    """
    container = query.get("container") or ("",)
    return CastHeader(
        timestamp=timestamp,
        src_node=node.removesuffix("."),
        src_node_id=node_id,
        namespace=namespace,
        pod=pod,
        container=container[0],
        session_type=session_type,
        command=" ".join(query.get("command") or ()),
        src_node_tags=tuple(tags),
        src_node_user_id=0 if tags else user_id,
        src_node_user="" if tags else login,
        tailproxy=tailproxy,
    )


class CastWriter:
    """Writes a recording. Every method returns the lines to send now, whole ones, or nothing.

    With a terminal the header waits for its size: until `resize`, `release` (to be called
    `HEADER_SECONDS` after the start), `MAX_WAITING` bytes of other lines, or `end`.

    Seconds are counted from the start; should they go backwards, the last ones are written.

    :param header: with a size only if it is known, as when one recorder takes over from another.
    :param terminal: whether the session has a terminal.
    """

    def __init__(self, header: CastHeader, terminal: bool) -> None:
        self._header = header
        self._terminal = terminal
        self._size = (header.width, header.height)
        self._waiting: list[bytes] | None = []
        self._waiting_bytes = 0
        self._seconds = 0.0
        self._decoders = {STDOUT: _new_decoder("replace"), STDERR: _new_decoder("replace")}

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows as they were written last; 0 and 0 if none were."""
        return self._size

    @property
    def waiting(self) -> bool:
        """Whether the header has not been written."""
        return self._waiting is not None

    def begin(self) -> bytes:
        """Write the header, unless it must wait."""
        if self._terminal and not all(self._size):
            return b""
        return self._begun()

    def release(self) -> bytes:
        """Write the header, and what waited for it, if they still wait."""
        return self._begun() if self.waiting else b""

    def output(self, seconds: float, stream: Literal[1, 2], data: bytes) -> bytes:
        """Write what the user saw.

        :param stream: of which `data` may end in the middle of a character.
        """
        return self._event(seconds, "o", self._decoders[stream].decode(data))

    def resize(self, seconds: float, columns: int, rows: int) -> bytes:
        """Write a size of the terminal, unless it has that size or there is none."""
        if not self._terminal or (columns, rows) == self._size:
            return b""
        self._size = (columns, rows)
        if self.waiting:
            return self._begun()
        return self._event(seconds, "r", f"{columns}x{rows}")

    def marker(self, seconds: float, label: str) -> bytes:
        """Write a marker, which players show in the time line."""
        return self._event(seconds, "m", label.encode(errors="replace").decode())

    def end(self, seconds: float) -> bytes:
        """Write what is left. Characters that were not whole become U+FFFD."""
        rest = b"".join(
            self._event(seconds, "o", decoder.decode(b"", final=True))
            for decoder in self._decoders.values()
        )
        # Where the header had to wait, the rest waits too.
        return rest + self.release()

    def _event(self, seconds: float, code: str, text: str) -> bytes:
        if not text:
            return b""
        self._seconds = max(self._seconds, seconds)
        line = f'[{round(self._seconds, 6)},"{code}",{_encode(text)}]\n'.encode()
        if self._waiting is None:
            return line
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        return self._begun() if self._waiting_bytes >= MAX_WAITING else b""

    def _begun(self) -> bytes:
        if self._terminal and not all(self._size):
            self._size = (_COLUMNS, _ROWS)
        width, height = self._size
        header = attrs.evolve(self._header, width=width, height=height)
        lines = b"".join(self._waiting or ())
        self._waiting = None
        return _encode(header.as_json()).encode(errors="replace") + b"\n" + lines


@attrs.frozen
class CastEvent:
    """One line behind the header.

    :ivar seconds: since the start.
    :ivar code: ``o`` output, ``r`` size, ``m`` marker; others are possible.
    :ivar data: text; of a size ``COLUMNSxROWS``.
    """

    seconds: float
    code: str
    data: str


def read_header(line: bytes) -> CastHeader:
    """Read the first line of a recording, by whomever.

    :raises CastError: if it is none.
    """
    header = _json(line, 1)
    if not isinstance(header, dict) or header.get("version") != _VERSION:
        raise CastError("line 1 is no header of an asciicast of version 2")
    kubernetes = header.get("kubernetes")
    if not isinstance(kubernetes, dict):
        kubernetes = {}
    own = header.get(_OWN_KEY)
    tags = header.get("srcNodeTags")
    return CastHeader(
        timestamp=_number(header, "timestamp"),
        src_node=_text(header, "srcNode"),
        src_node_id=_text(header, "srcNodeID"),
        namespace=_text(kubernetes, "Namespace"),
        pod=_text(kubernetes, "PodName"),
        container=_text(kubernetes, "Container"),
        session_type=_text(kubernetes, "SessionType"),
        command=_text(header, "command"),
        src_node_tags=tuple(map(str, tags)) if isinstance(tags, list) else (),
        src_node_user_id=_number(header, "srcNodeUserID"),
        src_node_user=_text(header, "srcNodeUser"),
        width=_number(header, "width"),
        height=_number(header, "height"),
        tailproxy=own if isinstance(own, dict) else None,
    )


def read_cast(lines: Iterable[bytes]) -> tuple[CastHeader, Iterator[CastEvent]]:
    """Read a recording.

    The other writer of this kind of header writes sizes as ``ROWSxCOLUMNS``; they are turned. A
    last line that was cut off in the middle is left out.

    :param lines: each with its line end.
    :raises CastError: from here if there is no header, from the iterator for a bad event.
    """
    rest = iter(lines)
    header = read_header(next(rest, b""))
    turned = header.tailproxy is None and bool(header.src_node_id)
    return header, _events(rest, turned)


def _events(lines: Iterator[bytes], turned: bool) -> Iterator[CastEvent]:
    for number, line in enumerate(lines, 2):
        if not line.endswith(b"\n"):
            try:
                json.loads(line)
            except ValueError:
                return
        if line.strip():
            match _json(line, number):
                case [int() | float() as seconds, str(code), str(data)]:
                    if code == "r" and turned:
                        rows, _, columns = data.partition("x")
                        data = f"{columns}x{rows}"
                    yield CastEvent(float(seconds), code, data)
                case _:
                    raise CastError(f"line {number} is no event")


def _json(line: bytes, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CastError(f"line {number} is no JSON") from error


def _text(header: Mapping[str, Any], key: str) -> str:
    value = header.get(key)
    return value if isinstance(value, str) else ""


def _number(header: Mapping[str, Any], key: str) -> int:
    value = header.get(key)
    return value if isinstance(value, int) else 0
