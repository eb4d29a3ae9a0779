"""The index of recordings, in SQLite. Everything here waits for the disk: it is for a thread.

It can be made anew of the files at any time. Several processes may have it open.
"""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any

import attrs

from tailproxy.recordings import Recording, RecordingPage, RecordingState

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tailproxy.recordings import RecordingQuery

#: Of the tables. Those of another version are dropped: the files say it all again.
VERSION = 1
_WAIT_SECONDS = 10.0
_FIELDS = tuple(field.name for field in attrs.fields(Recording))
_TABLES = f"""
DROP TABLE IF EXISTS recording;
DROP TABLE IF EXISTS ending;
CREATE TABLE recording (
    {", ".join(f"{name} PRIMARY KEY" if name == "id" else name for name in _FIELDS)}
) WITHOUT ROWID;
CREATE INDEX recording_by_state ON recording (state);
CREATE TABLE ending (id PRIMARY KEY, reason) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""
# What a query's text is looked for in.
_WORDS = ("user", "node", "tags", "namespace", "pod", "container", "command", "session", "proxy")


class Index:
    """Says which recordings there are.

    :param path: of its file.
    :ivar fresh: whether it was empty when it was opened.
    :raises sqlite3.Error: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            self.fresh = version != VERSION
            if self.fresh:
                self._database.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
        except sqlite3.Error:
            self._database.close()
            raise

    def close(self) -> None:
        """Give the file back."""
        self._database.close()

    def put(self, recordings: Iterable[Recording]) -> None:
        """Note what is known of these.

        :raises sqlite3.Error: it cannot be written.
        """
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany(
                f"INSERT OR REPLACE INTO recording VALUES ({', '.join('?' * len(_FIELDS))})",  # noqa: S608 - question marks
                map(_row, recordings),
            )
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def remove(self, identifier: str) -> None:
        """Forget one."""
        self._database.execute("DELETE FROM recording WHERE id = ?", (identifier,))
        self._database.execute("DELETE FROM ending WHERE id = ?", (identifier,))

    def find(self, identifier: str) -> Recording | None:
        """One of them; None if there is none."""
        row = self._database.execute(
            "SELECT * FROM recording WHERE id = ?", (identifier,)
        ).fetchone()
        return None if row is None else _recording(row)

    def search(self, query: RecordingQuery) -> RecordingPage:
        """Some of those that fit, the latest first."""
        terms, values = _condition(query)
        rows = self._database.execute(
            f"SELECT * FROM recording {terms} ORDER BY id DESC LIMIT ?",  # noqa: S608 - our own terms
            (*values, query.limit + 1),
        ).fetchall()
        found = tuple(map(_recording, rows[: query.limit]))
        return RecordingPage(found, more=len(rows) > query.limit)

    def live(self) -> list[str]:
        """IDs of those that are live."""
        rows = self._database.execute(
            "SELECT id FROM recording WHERE state = ?", (RecordingState.LIVE.value,)
        )
        return [identifier for (identifier,) in rows]

    def size(self) -> int:
        """Bytes of all of them."""
        (size,) = self._database.execute("SELECT coalesce(sum(size), 0) FROM recording").fetchone()
        return int(size)

    def oldest(self, before: float | None = None) -> Recording | None:
        """The oldest that is not live.

        :param before: of those that began before that, in seconds since 1970.
        """
        row = self._database.execute(
            "SELECT * FROM recording WHERE state != ? AND start < ? ORDER BY start, id LIMIT 1",
            (RecordingState.LIVE.value, float("inf") if before is None else before),
        ).fetchone()
        return None if row is None else _recording(row)

    def ask_end(self, identifier: str, reason: str) -> bool:
        """Have whoever writes one end it. Whether it is live."""
        changed = self._database.execute(
            "INSERT OR REPLACE INTO ending SELECT id, ? FROM recording WHERE id = ? AND state = ?",
            (reason, identifier, RecordingState.LIVE.value),
        )
        return changed.rowcount > 0

    def take_ends(self) -> list[tuple[str, str]]:
        """What has been asked for so: ID and reason; each is told once."""
        found = self._database.execute("SELECT id, reason FROM ending").fetchall()
        for identifier, _ in found:
            self._database.execute("DELETE FROM ending WHERE id = ?", (identifier,))
        return found


def _row(recording: Recording) -> list[Any]:
    values = attrs.asdict(recording)
    values["state"] = recording.state.value
    values["tags"] = json.dumps(recording.tags)
    return [values[name] for name in _FIELDS]


def _recording(row: tuple[Any, ...]) -> Recording:
    values = dict(zip(_FIELDS, row, strict=True))
    values["state"] = RecordingState(values["state"])
    values["tags"] = tuple(json.loads(values["tags"]))
    values["encrypted"] = bool(values["encrypted"])
    return Recording(**values)


def _condition(query: RecordingQuery) -> tuple[str, list[Any]]:
    terms: list[str] = []
    values: list[Any] = []
    for name in ("user", "node", "namespace", "pod", "container", "session"):
        if getattr(query, name):
            terms.append(f"{name} = ?")
            values.append(getattr(query, name))
    if query.namespaces is not None:
        terms.append(f"namespace IN ({', '.join('?' * len(query.namespaces))})")
        values += query.namespaces
    if query.command:
        terms.append("instr(lower(command), lower(?))")
        values.append(query.command)
    if query.text:
        words = " || ' ' || ".join(_WORDS)
        terms.append(f"instr(lower({words}), lower(?))")
        values.append(query.text)
    if query.state is not None:
        terms.append("state = ?")
        values.append(query.state.value)
    if query.since is not None:
        terms.append("start >= ?")
        values.append(query.since)
    if query.until is not None:
        terms.append("start < ?")
        values.append(query.until)
    if query.after:
        terms.append("id < ?")
        values.append(query.after)
    return f"WHERE {' AND '.join(terms)}" if terms else "", values
