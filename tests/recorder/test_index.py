"""Recordings are found by what is known of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import attrs
import pytest

from tailproxy.recorder.index import VERSION, Index
from tailproxy.recordings import Recording, RecordingQuery, RecordingState

ONE = Recording(
    id="20260101T000000-0000000000000001",
    start=1000.0,
    state=RecordingState.COMPLETE,
    session="s-1",
    duration=5.0,
    user="ada@corp.example",
    node="laptop.ts.net",
    node_id="n1",
    namespace="shop",
    pod="web-0",
    container="app",
    command="sh -c 'ls -l'",
    kind="exec",
    size=100,
    exit_code=0,
    proxy="proxy.ts.net",
)
TWO = attrs.evolve(
    ONE,
    id="20260102T000000-0000000000000002",
    start=2000.0,
    session="s-2",
    user="",
    node="ci.ts.net",
    tags=("tag:ci", "tag:big"),
    pod="web-1",
    container="",
    command="",
    kind="attach",
    state=RecordingState.LIVE,
    exit_code=None,
)
THREE = attrs.evolve(
    ONE,
    id="20260103T000000-0000000000000003",
    start=3000.0,
    session="s-3",
    namespace="100%_[x]",
    command="RM -rf",
    state=RecordingState.DAMAGED,
)
ALL = (ONE, TWO, THREE)


@pytest.fixture
def index(tmp_path):
    with closing(Index(tmp_path / "index.sqlite")) as opened:
        opened.put(ALL)
        yield opened


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (RecordingQuery(), (THREE, TWO, ONE)),
        (RecordingQuery(user="ada@corp.example"), (THREE, ONE)),
        (RecordingQuery(user="ada"), ()),
        (RecordingQuery(node="ci.ts.net"), (TWO,)),
        (RecordingQuery(namespace="shop", pod="web-1"), (TWO,)),
        (RecordingQuery(container="app"), (THREE, ONE)),
        (RecordingQuery(session="s-2"), (TWO,)),
        (RecordingQuery(command="rm"), (THREE,)),
        (RecordingQuery(command="%"), ()),
        (RecordingQuery(text="%_["), (THREE,)),
        (RecordingQuery(text="TAG:CI"), (TWO,)),
        (RecordingQuery(text="'; --"), ()),
        (RecordingQuery(state=RecordingState.LIVE), (TWO,)),
        (RecordingQuery(since=2000.0), (THREE, TWO)),
        (RecordingQuery(until=2000.0), (ONE,)),
        (RecordingQuery(since=2000.0, until=2000.1), (TWO,)),
    ],
)
def test_a_query_finds_what_fits(index, query, found):
    page = index.search(query)
    assert page.recordings == found
    assert not page.more


def test_pages_follow_each_other(index):
    first = index.search(RecordingQuery(limit=2))
    assert (first.recordings, first.more) == ((THREE, TWO), True)
    second = index.search(RecordingQuery(limit=2, after=TWO.id))
    assert (second.recordings, second.more) == ((ONE,), False)


def test_one_is_found_by_its_id(index):
    assert index.find(TWO.id) == TWO
    assert index.find("x") is None
    index.remove(TWO.id)
    assert index.find(TWO.id) is None


def test_news_replace_what_was_known(index):
    index.put([attrs.evolve(TWO, state=RecordingState.COMPLETE, size=7)])
    assert index.find(TWO.id).size == 7
    assert index.live() == []
    assert index.size() == 207


def test_the_oldest_that_is_not_live(index):
    assert index.oldest() == ONE
    assert index.oldest(1000.0) is None
    index.remove(ONE.id)
    assert index.oldest() == THREE


def test_only_a_live_one_can_be_ended_and_it_is_told_once(index, tmp_path):
    with closing(Index(tmp_path / "index.sqlite")) as other:
        assert not other.fresh
        assert not other.ask_end(ONE.id, "by bob")
        assert other.ask_end(TWO.id, "by ada")
        assert other.ask_end(TWO.id, "by bob")
    assert index.take_ends() == [(TWO.id, "by bob")]
    assert index.take_ends() == []


def test_tables_of_another_version_are_made_anew(index, tmp_path):
    assert index.find(ONE.id) == ONE
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    with closing(Index(tmp_path / "index.sqlite")) as other:
        assert other.fresh
        assert other.search(RecordingQuery()).recordings == ()
