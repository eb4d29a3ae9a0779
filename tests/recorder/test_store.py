"""What is kept stays, whatever ends the process; and goes when it is too old or too much."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import attrs
import pyrage
import pytest

from tailproxy.policy.grants import Grants
from tailproxy.policy.identity import Identity
from tailproxy.recorder.events import Events
from tailproxy.recorder.folder import new_id
from tailproxy.recorder.lines import Lines, describe
from tailproxy.recorder.seal import Seal, SealError
from tailproxy.recorder.store import INDEX, Bounds, Store
from tailproxy.recordings import RecordingQuery, RecordingState
from tests.recorder.place import event, header

COMPLETE = RecordingState.COMPLETE
CAST = header() + event(0.5, "hello") + event(4, "bye")
PROXY = Identity("p", (), "proxy.ts.net", "n9", None, ("tag:k8s",), (), Grants())


def opened(path: Path) -> Store:
    store = Store(path)
    store.open()
    return store


def begun(store: Store, lines: bytes = CAST, start: float = 1760000000.0):
    judged = Lines()
    judged.feed(lines)
    recording = attrs.evolve(describe(judged.header, new_id(start), start), start=start)
    part = store.begin(recording)
    store.append(part, lines, told=False, duration=judged.duration)
    return part


def kept(store: Store, **values):
    return store.finish(begun(store, **values), COMPLETE, "")


def listed(store: Store):
    return store.index.search(RecordingQuery()).recordings


@pytest.fixture
def store(tmp_path):
    made = opened(tmp_path)
    yield made
    made.close()


def test_files_are_for_nobody_else(store, tmp_path):
    kept(store)
    modes = {path.stat().st_mode & 0o077 for path in tmp_path.glob("2*/*.cast")}
    assert modes == {0}


@pytest.mark.parametrize("tail", [b"", b"[5", b'[5,"o","x"]', b"\0" * 100, b"nonsense\n[7,"])
def test_the_next_start_keeps_whole_lines_of_what_was_interrupted(tmp_path, tail):
    first = opened(tmp_path)
    part = begun(first)
    with part.path.open("ab") as file:
        file.write(tail)
    first.close()
    second = Store(tmp_path)
    assert second.open() == 1
    (found,) = listed(second)
    assert (found.state, found.size) == (RecordingState.INTERRUPTED, len(CAST))
    assert found.duration == 4
    assert second.folder.read(found.id, 0) == CAST
    assert not list(tmp_path.glob("*/*.part"))
    second.close()


def test_what_was_begun_without_a_line_is_forgotten(tmp_path):
    first = opened(tmp_path)
    part = begun(first)
    part.path.write_bytes(CAST[:20])
    first.close()
    second = Store(tmp_path)
    assert second.open() == 0
    assert listed(second) == ()
    assert not list(tmp_path.glob("2*/*"))
    second.close()


def test_the_last_step_is_made_up_for(tmp_path):
    first = opened(tmp_path)
    done = kept(first)
    path = next(tmp_path.glob("*/*.cast"))
    path.rename(path.with_suffix(".cast.part"))
    first.index.put([attrs.evolve(done, state=RecordingState.LIVE)])
    first.close()
    second = opened(tmp_path)
    assert listed(second) == (done,)
    second.close()


def test_the_index_learns_what_it_missed(tmp_path):
    first = opened(tmp_path)
    done = kept(first)
    first.index.put([attrs.evolve(done, state=RecordingState.LIVE)])
    gone = attrs.evolve(done, id=new_id(0), state=RecordingState.LIVE)
    first.index.put([gone])
    first.close()
    second = opened(tmp_path)
    assert listed(second) == (done,)
    second.close()


@pytest.mark.parametrize("damage", ["removed", "garbage"])
def test_the_index_is_made_again_of_the_files(tmp_path, damage):
    first = opened(tmp_path)
    before = [kept(first, start=1760000000.0 + n) for n in range(3)]
    first.close()
    for path in tmp_path.glob(f"{INDEX}*"):
        path.unlink()
    if damage == "garbage":
        (tmp_path / INDEX).write_bytes(b"this is no database" * 1000)
    second = opened(tmp_path)
    assert listed(second) == tuple(reversed(before))
    second.close()


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"state":"odd"}'])
def test_without_what_was_known_the_lines_say_it(tmp_path, text):
    first = opened(tmp_path)
    done = kept(first)
    first.close()
    known = next(tmp_path.glob("*/*.json"))
    if text is None:
        known.unlink()
    else:
        known.write_text(text)
    (tmp_path / INDEX).unlink()
    second = opened(tmp_path)
    (found,) = listed(second)
    assert (found.id, found.user, found.size) == (done.id, done.user, done.size)
    assert (found.state, found.duration) == (COMPLETE, 4)
    second.close()


def test_a_write_that_fails_leaves_what_was_there(store, monkeypatch):
    part = begun(store)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fdatasync", full)
        with pytest.raises(OSError, match="No space"):
            store.append(part, event(9, "lost"), told=False)
    store.append(part, event(9, "kept"), told=False)
    done = store.finish(part, COMPLETE, "")
    assert store.folder.read(done.id, 0) == CAST + event(9, "kept")


def test_too_old_is_deleted_and_what_is_live_is_not(store):
    old = kept(store, start=1000.0)
    live = begun(store, start=1000.0)
    young = kept(store, start=5000.0)
    swept = store.sweep(Bounds(age=2000.0), 6000.0)
    assert swept.deleted == 1
    assert store.folder.read(old.id, 0) == b""
    assert {each.id for each in listed(store)} == {live.recording.id, young.id}
    assert store.sweep(Bounds(age=2000.0), 6000.0).deleted == 0
    store.finish(live, COMPLETE, "")
    assert store.sweep(Bounds(age=2000.0), 6000.0).deleted == 1


def test_too_much_is_deleted_the_oldest_first(store, tmp_path):
    every = [kept(store, start=1000.0 * n) for n in range(1, 6)]
    swept = store.sweep(Bounds(size=len(CAST) * 2), 9000.0)
    assert (swept.deleted, swept.size) == (3, len(CAST) * 2)
    assert listed(store) == (every[4], every[3])
    assert len(list(tmp_path.glob("1970-*/*"))) == 4
    assert swept.free > 0


def test_what_is_live_counts_and_is_not_deleted(store):
    live = begun(store)
    assert store.sweep(Bounds(size=1), 9000.0).deleted == 0
    store.finish(live, COMPLETE, "")


@pytest.mark.parametrize("name", ["../index", "x", "20260101T000000-../../../../etc/passwd", ""])
def test_only_ids_are_looked_for(store, name):
    assert store.folder.read(name, 0) == b""
    assert store.folder.known(name) is None
    assert store.index.find(name) is None


def test_events_go_on_behind_the_last_whole_line(tmp_path):
    events = Events(tmp_path)
    events.add({"type": "a"}, PROXY, 0.0)
    (path,) = tmp_path.iterdir()
    with path.open("ab") as file:
        file.write(b'{"type":"ha')
    again = Events(tmp_path)
    again.add({"type": "b"}, PROXY, 1.0)
    again.add({"type": "c", "id": "mine"}, PROXY, 2.0)
    kept_events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [each["type"] for each in kept_events] == ["a", "b", "c"]
    assert kept_events[2]["id"] == "mine"


def test_days_of_events_that_are_too_old_are_deleted(tmp_path):
    events = Events(tmp_path)
    for day in (0, 5, 6):
        events.add({"type": "a"}, PROXY, day * 86400.0)
    events.delete(86400.0, 6.5 * 86400)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "1970-01-06.jsonl",
        "1970-01-07.jsonl",
    ]


@pytest.fixture
def key():
    return pyrage.x25519.Identity.generate()


def sealed_store(path: Path, key) -> Store:
    store = Store(path, Seal([str(key.to_public())]))
    store.open()
    return store


def test_with_a_key_what_is_finished_is_for_its_owner_alone(tmp_path, key):
    store = sealed_store(tmp_path, key)
    done = kept(store)
    assert done.encrypted
    (path,) = tmp_path.glob("*/*.cast.age")
    assert path.stat().st_mode & 0o077 == 0
    assert b"hello" not in path.read_bytes()
    assert pyrage.decrypt(path.read_bytes(), [key]) == CAST
    assert store.folder.read(done.id, 0, encrypted=True) == path.read_bytes()
    assert done.size == path.stat().st_size
    assert not list(tmp_path.glob("*/*.part"))
    assert store.folder.read(done.id, 0) == b""
    assert listed(store) == (done,)
    store.close()
    (tmp_path / INDEX).unlink()
    again = sealed_store(tmp_path, key)
    assert listed(again) == (done,)
    assert again.sweep(Bounds(size=1), 0.0).deleted == 1
    assert not list(tmp_path.glob("2*/*"))
    again.close()


@pytest.mark.parametrize("encrypted_already", [True, False])
def test_the_next_start_encrypts_what_was_interrupted(tmp_path, key, encrypted_already):
    first = sealed_store(tmp_path, key)
    part = begun(first)
    if encrypted_already:
        first.folder.finish(part, COMPLETE, "")
        part.path.write_bytes(CAST)  # it was killed before it could delete this
    first.close()
    second = sealed_store(tmp_path, key)
    (found,) = listed(second)
    assert found.encrypted
    assert found.state is (COMPLETE if encrypted_already else RecordingState.INTERRUPTED)
    (path,) = (path for path in tmp_path.glob("2*/*") if path.suffix != ".json")
    assert pyrage.decrypt(path.read_bytes(), [key]) == CAST
    second.close()


def test_what_is_no_key_is_refused():
    with pytest.raises(SealError, match="'age1x' is no public key of age"):
        Seal(["age1x"])


def test_without_the_extra_that_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrage", None)
    with pytest.raises(SealError, match=r"pip install 'tailproxy\[age\]'"):
        Seal(["age1x"])


def test_a_part_that_nobody_knows_is_no_recording(tmp_path):
    day = tmp_path / "2026-01-01"
    day.mkdir()
    (day / "20260101T000000-0000000000000001.cast.part").write_bytes(b"what is this")
    store = opened(tmp_path)
    assert listed(store) == ()
    store.close()
