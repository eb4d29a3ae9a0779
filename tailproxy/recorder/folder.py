"""The files of a recorder. Everything here waits for the disk: it is for a thread.

A recording is `DAY/ID.cast`, the lines as they came, and beside it `DAY/ID.json`, what is known of
it. While it is live the lines are in `DAY/ID.cast.part`. Whatever ends a process, what was said to
be kept is there afterwards: `recover` makes recordings of the parts that it left.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

from tailproxy.recorder.lines import Lines, describe
from tailproxy.recordings import Recording, RecordingState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tailproxy.recorder.seal import Seal

_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{16}")
_CAST, _PART, _SEALED, _KNOWN = ".cast", ".cast.part", ".cast.age", ".json"
#: What one read gives at most.
PIECE_BYTES = 256 * 1024


def new_id(start: float) -> str:
    """An ID for a recording.

    :param start: when it begins, in seconds since 1970.
    """
    return f"{datetime.fromtimestamp(start, UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(8)}"


class Part:
    """A recording that is being written.

    :ivar recording: what is known of it by now.
    """

    def __init__(self, path: Path, recording: Recording) -> None:
        self.path = path
        self.recording = recording
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def append(self, lines: bytes, **known: Any) -> None:
        """Add lines; once this is back, nothing loses them.

        :param known: what is known of the recording now, by the names of `Recording`.
        :raises OSError: they are not kept; those before are.
        """
        size = self.recording.size
        try:
            view = memoryview(lines)
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, size)
            os.lseek(self._file, size, os.SEEK_SET)
            raise
        self.recording = attrs.evolve(self.recording, size=size + len(lines), **known)

    def close(self) -> None:
        """There are no more lines."""
        os.close(self._file)


class Folder:
    """All recordings.

    :param path: of the folder; made if it is not there.
    :param seal: encrypts what is finished; None to leave it as it is.
    """

    def __init__(self, path: Path, seal: Seal | None = None) -> None:
        self.path = path
        self._seal = seal

    def prepare(self) -> None:
        """Make the folder, for our eyes only.

        :raises OSError: it cannot be made.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def free(self) -> int:
        """Bytes that are left on the disk.

        :raises OSError: the folder has gone, or is none.
        """
        return shutil.disk_usage(f"{self.path}/").free

    def _file(self, identifier: str, kind: str) -> Path:
        if not _ID.fullmatch(identifier):
            raise FileNotFoundError(identifier)
        day = f"{identifier[:4]}-{identifier[4:6]}-{identifier[6:8]}"
        return self.path / day / f"{identifier}{kind}"

    def begin(self, recording: Recording) -> Part:
        """Begin one.

        :raises OSError: the disk does not let us.
        """
        path = self._file(recording.id, _PART)
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _settle(self.path)
        part = Part(path, recording)
        try:
            self._note(recording)
        except OSError:
            part.close()
            path.unlink()
            raise
        return part

    def finish(self, part: Part, state: RecordingState, detail: str) -> Recording:
        """End one: it is a recording now.

        :param detail: why it is not complete.
        :raises OSError: the disk does not let us; `recover` will.
        """
        part.close()
        return self._finish(attrs.evolve(part.recording, state=state, detail=detail))

    def _finish(self, recording: Recording) -> Recording:
        if self._seal is not None:
            return self._sealed(recording, self._seal)
        self._note(recording)
        self._file(recording.id, _PART).rename(self._file(recording.id, _CAST))
        _settle(self._file(recording.id, _CAST).parent)
        return recording

    def _sealed(self, recording: Recording, seal: Seal) -> Recording:
        part, sealed = self._file(recording.id, _PART), self._file(recording.id, _SEALED)
        fresh = sealed.with_suffix(".new")
        seal.encrypt(part, fresh)
        recording = attrs.evolve(recording, encrypted=True, size=fresh.stat().st_size)
        self._note(recording)
        fresh.rename(sealed)
        _settle(sealed.parent)
        part.unlink()
        return recording

    def _note(self, recording: Recording) -> None:
        path = self._file(recording.id, _KNOWN)
        fresh = path.with_suffix(".new")
        known = attrs.asdict(recording)
        with fresh.open("w", encoding="utf-8") as file:
            json.dump({**known, "state": recording.state.value}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        _settle(path.parent)

    def recover(self) -> Iterator[Recording]:
        """Make recordings of what a process has left that ended in the middle: every whole and
        good line is kept.

        :raises OSError: the disk does not let us.
        """
        for path in sorted(self.path.glob(f"*/*{_PART}")):
            identifier = path.name.removesuffix(_PART)
            known = self.known(identifier)
            if known is None:
                path.unlink()
                continue
            lines = Lines()
            size = 0
            with path.open("r+b") as file:
                while data := file.read(PIECE_BYTES):
                    size += len(lines.feed(data))
                if known.state is not RecordingState.LIVE and (
                    known.encrypted or known.size == size
                ):
                    pass  # all was said but for the file's name
                elif lines.header is None:
                    path.unlink()
                    path.with_name(f"{identifier}{_KNOWN}").unlink()
                    continue
                else:
                    file.truncate(size)
                    os.fsync(file.fileno())
                    known = attrs.evolve(
                        known,
                        size=size,
                        duration=lines.duration,
                        exit_code=lines.exit_code,
                        state=RecordingState.INTERRUPTED,
                        detail="the recorder was stopped",
                    )
            yield self._finish(known)

    def known(self, identifier: str) -> Recording | None:
        """What is known of one; None if there is none."""
        try:
            text = self._file(identifier, _KNOWN).read_text(encoding="utf-8")
        except FileNotFoundError:
            return self._looked_at(identifier)
        try:
            return _recording(json.loads(text))
        except (ValueError, TypeError):
            return self._looked_at(identifier)

    def _looked_at(self, identifier: str) -> Recording | None:
        """What the lines themselves say, for want of anything better."""
        for kind, state in ((_CAST, RecordingState.COMPLETE), (_PART, RecordingState.LIVE)):
            try:
                path = self._file(identifier, kind)
                with path.open("rb") as file:
                    lines, size = Lines(), 0
                    while data := file.read(PIECE_BYTES):
                        size += len(lines.feed(data))
                    start = path.stat().st_mtime
            except FileNotFoundError:
                continue
            if lines.header is not None:
                return attrs.evolve(
                    describe(lines.header, identifier, start),
                    size=size,
                    duration=lines.duration,
                    exit_code=lines.exit_code,
                    state=RecordingState.DAMAGED if lines.damage else state,
                    detail=lines.damage,
                )
        return None

    def all(self) -> Iterator[Recording]:
        """What is known of each."""
        kinds = (_CAST, _PART, _SEALED)
        for path in sorted(path for kind in kinds for path in self.path.glob(f"*/*{kind}")):
            known = self.known(path.name.partition(".")[0])
            if known is not None:
                yield known

    def read(self, identifier: str, offset: int, *, encrypted: bool = False) -> bytes:
        """A piece of one from there on; nothing at its end, or if there is none.

        Of one that is live: whole lines.

        :param encrypted: whether to read those that are encrypted, and no others.
        """
        # It may be finished between two looks.
        for kind in (_SEALED,) if encrypted else (_CAST, _PART, _CAST):
            try:
                with self._file(identifier, kind).open("rb") as file:
                    file.seek(offset)
                    data = file.read(PIECE_BYTES)
            except FileNotFoundError:
                continue
            return data if kind != _PART or len(data) == PIECE_BYTES else _whole(data)
        return b""

    def delete(self, identifier: str) -> None:
        """Keep it no longer.

        :raises OSError: the disk does not let us.
        """
        path = self._file(identifier, _CAST)
        path.unlink(missing_ok=True)
        path.with_name(f"{identifier}{_SEALED}").unlink(missing_ok=True)
        path.with_name(f"{identifier}{_KNOWN}").unlink(missing_ok=True)
        with suppress(OSError):  # others are there
            path.parent.rmdir()


def _whole(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


def _recording(known: Any) -> Recording:
    """What a file says.

    :raises ValueError: that makes no sense.
    :raises TypeError: nor does that.
    """
    names = {field.name for field in attrs.fields(Recording)}
    values = {name: value for name, value in dict(known).items() if name in names}
    values["state"] = RecordingState(values.get("state"))
    values["tags"] = tuple(map(str, values.get("tags", ())))
    if any(isinstance(value, list | dict) for value in values.values()):
        raise ValueError("it has other values than a recording")
    return Recording(**values)


def _settle(folder: Path) -> None:
    """Have the names in a folder outlive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
