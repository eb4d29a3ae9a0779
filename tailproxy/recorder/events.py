"""Events of API requests, as lines of JSON in one file for each day.

For a thread: it waits for the disk.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from tailproxy.policy.identity import Identity

#: A larger event is refused. A request's body may be part of it.
EVENT_BYTES = 4 * 1024 * 1024
_SUFFIX = ".jsonl"


class EventError(ValueError):
    """This is no event; the text says why."""


def read_event(body: bytes) -> dict[str, Any]:
    """An event as a proxy sends it (spec/streaming.md 8.2).

    :raises EventError: it is something else.
    """
    try:
        event = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise EventError("the body is not JSON") from None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise EventError("the body is not an event: an object with a type")
    return event


class Events:
    """The events of all days.

    :param path: of their folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._whole: Path | None = None

    def add(self, event: dict[str, Any], proxy: Identity, now: float) -> None:
        """Keep one; once this is back, nothing loses it. It gets an ID if it has none.

        :param proxy: who sends it.
        :param now: seconds since 1970; says the day.
        :raises OSError: it is not kept.
        """
        kept = {
            **event,
            "id": event.get("id") or secrets.token_hex(16),
            "recorder": {"received": now, "node": proxy.node, "nodeID": proxy.node_id},
        }
        path = self._path / f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d}{_SUFFIX}"
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            end = self._end(path, descriptor)
            line = json.dumps(kept).encode() + b"\n"
            try:
                if os.pwrite(descriptor, line, end) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fdatasync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)

    def _end(self, path: Path, descriptor: int) -> int:
        """Where the next line goes. A process that was killed may have left half of one."""
        end = os.fstat(descriptor).st_size
        if path != self._whole:
            while end and os.pread(descriptor, 1, end - 1) != b"\n":
                end -= 1
            os.ftruncate(descriptor, end)
            self._whole = path
        return end

    def delete(self, age: float, now: float) -> None:
        """Keep the days no longer that are older than that.

        :param age: in seconds.
        :param now: seconds since 1970.
        """
        first = datetime.fromtimestamp(now, UTC) - timedelta(seconds=age)
        for path in self._path.glob(f"*{_SUFFIX}"):
            if path.name.removesuffix(_SUFFIX) < f"{first:%Y-%m-%d}":
                path.unlink()
