"""Uploads over HTTP/2."""

from __future__ import annotations

import json

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import deferLater

from tailproxy.recordings import RecordingQuery, RecordingState
from tailproxy.schema import ConfigError
from tests.proxy.servers import eventually
from tests.recorder.place import LAPTOP, STRANGER, Place, event, header

CAST = header() + event(0.5, "hello\r\n") + event(1.25, "bye\r\n")


def run(test):
    return pytest_twisted.ensureDeferred(test)


@run
async def test_an_upload_is_kept_line_by_line_and_acknowledged(place):
    client = await place.dial()
    assert await client.status("HEAD", "/v2/record") == (200, "")
    stream = client.request("POST", "/v2/record")
    await client.until(lambda: stream in client.heads)  # before the body ends
    assert client.heads[stream] == 200
    client.send(stream, CAST[:40])
    client.send(stream, CAST[40:])
    await client.until(lambda: client.acked(stream) == len(CAST))
    (part,) = place.folder.glob("*/*.part")
    assert part.read_bytes() == CAST
    client.send(stream, b"", end=True)
    told = await client.answered(stream)
    assert told[-1] == {"ack": len(CAST)}
    assert place.only() == CAST
    client.transport.loseConnection()


@run
async def test_what_is_known_of_a_recording_is_found(place):
    client = await place.dial()
    marker = event(2.0, "exit 3", "m")
    await client.upload(CAST + marker)
    page = await place.library.search(RecordingQuery())
    (found,) = page.recordings
    assert (found.user, found.node, found.node_id) == (
        "ada@corp.example",
        "laptop.corp-cat.ts.net",
        "n1",
    )
    assert (found.namespace, found.pod, found.container) == ("shop", "web-0", "app")
    assert (found.command, found.kind, found.width, found.height) == ("sh -c ls", "exec", 80, 24)
    assert (found.start, found.duration, found.exit_code) == (1760000000, 2.0, 3)
    assert (found.state, found.detail) == (RecordingState.COMPLETE, "")
    assert (found.proxy, found.size) == ("proxy.corp-cat.ts.net", len(CAST + marker))
    assert await place.library.read(found.id, 0) == CAST + marker
    client.transport.loseConnection()


@run
async def test_acknowledgements_go_on_while_nothing_is_sent(place, monkeypatch):
    monkeypatch.setattr("tailproxy.recorder.upload.HEARTBEAT", 0.02)
    client = await place.dial()
    stream = client.request("POST", "/v2/record")
    client.send(stream, header())
    await client.until(lambda: client.told(stream).count({"ack": len(header())}) > 3)
    client.transport.loseConnection()


@run
async def test_a_first_line_that_is_no_header_is_refused_and_nothing_kept(place):
    client = await place.dial()
    told = await client.upload(event(0.1, "x"))
    assert told == [{"error": "line 1 is not the header of a recording"}]
    assert not list(place.folder.glob("2*"))
    client.transport.loseConnection()


@run
async def test_a_bad_line_ends_the_upload_and_what_was_good_is_kept(place):
    client = await place.dial()
    stream = client.request("POST", "/v2/record")
    client.send(stream, CAST + b'[2.0,"o"]\n' + event(3, "lost"))
    told = await client.answered(stream)
    assert told[-1]["error"].startswith("line 4 is not an event")
    assert place.only() == CAST
    (known,) = place.known()
    assert known["state"] == "damaged"
    assert known["detail"] == told[-1]["error"]
    assert place.value("tailproxy_recorder_uploads_total", state="damaged") == 1
    client.transport.loseConnection()


@run
async def test_a_session_that_did_not_begin_leaves_nothing(place):
    client = await place.dial()
    assert await client.upload(b"") == []
    assert not list(place.folder.glob("2*"))
    client.transport.loseConnection()


@pytest.mark.parametrize("how", ["abort", "close", "reset", "goaway"])
@run
async def test_a_proxy_that_goes_leaves_a_recording_that_was_interrupted(place, how):
    client = await place.dial()
    stream = client.request("POST", "/v2/record")
    client.send(stream, CAST + b'[9,"o","half')
    await client.until(lambda: client.acked(stream) == len(CAST))
    if how == "abort":
        client.transport.abortConnection()
    elif how == "close":
        client.transport.loseConnection()
    elif how == "reset":
        client.http.reset_stream(stream)
        client.flush()
    else:
        client.http.close_connection()
        client.flush()
    await eventually(place.kept)
    assert place.only() == CAST
    assert place.known()[0]["state"] == "interrupted"
    client.transport.loseConnection()


@run
async def test_only_those_who_are_named_may_send(place):
    for source, code, part in (
        (LAPTOP, 403, "may not send recordings"),
        (STRANGER, 401, "no node of this tailnet"),
    ):
        client = await place.dial(source)
        for method, path in (
            ("HEAD", "/v2/record"),
            ("POST", "/v2/record"),
            ("POST", "/v2/event"),
            ("GET", "/"),
        ):
            status, text = await client.status(method, path)
            assert status == code
            assert method == "HEAD" or part in text
        stream = client.request("POST", "/v2/record")
        client.send(stream, CAST, end=True)
        await client.until(lambda stream=stream, client=client: stream in client.ended)
        assert client.heads[stream] == code
        client.transport.loseConnection()
    assert not list(place.folder.glob("2*"))


@run
async def test_users_may_be_named_too(make_place):
    place = make_place(From=["ada@corp.example"])
    client = await place.dial(LAPTOP)
    await client.upload(CAST)
    assert place.only() == CAST
    other = await place.dial()
    assert (await other.status("HEAD", "/v2/record"))[0] == 403
    for each in (client, other):
        each.transport.loseConnection()


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [("GET", "/v2/record", 405), ("POST", "/record", 404), ("GET", "/", 404)],
)
@run
async def test_other_requests_are_refused(place, method, path, code):
    client = await place.dial()
    assert (await client.status(method, path))[0] == code
    client.transport.loseConnection()


@run
async def test_many_uploads_share_a_connection(place):
    client = await place.dial()
    streams = [client.request("POST", "/v2/record") for _ in range(20)]
    lines = [header(command=f"c{n}") + event(1, f"{n}" * 1000) * 50 for n in range(20)]
    for start in range(0, max(map(len, lines)), 10_000):
        for stream, data in zip(streams, lines, strict=True):
            client.send(stream, data[start : start + 10_000])
    for stream in streams:
        client.send(stream, b"", end=True)
    for stream in streams:
        assert "error" not in (await client.answered(stream))[-1]
    assert sorted(place.kept().values()) == sorted(lines)
    client.transport.loseConnection()


@run
async def test_more_than_any_window_passes(place):
    client = await place.dial()
    lines = header() + event(1, "x" * 30_000) * 400
    told = await client.upload(lines)
    assert told[-1] == {"ack": len(lines)}
    assert place.only() == lines
    client.transport.loseConnection()


@run
async def test_a_last_line_without_an_end_gets_one(place):
    client = await place.dial()
    told = await client.upload(CAST[:-1])
    assert told[-1] == {"ack": len(CAST) - 1}
    assert place.only() == CAST
    client.transport.loseConnection()


@run
async def test_a_full_disk_refuses_what_is_new(make_place):
    place = make_place(FreeBytes=2**59)
    client = await place.dial()
    status, text = await client.status("POST", "/v2/record")
    assert status == 507
    assert "disk is full" in text
    await eventually(lambda: not place.service.check().ok)
    assert "disk is full" in place.service.check().detail
    client.transport.loseConnection()


@run
async def test_a_disk_that_fills_up_ends_the_upload_and_keeps_what_there_is(place, monkeypatch):
    client = await place.dial()
    stream = client.request("POST", "/v2/record")
    client.send(stream, CAST)
    await client.until(lambda: client.acked(stream) == len(CAST))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdatasync", full)
    client.send(stream, event(5, "too much"))
    told = await client.answered(stream)
    assert told[-1] == {"error": "the recorder cannot write: No space left on device"}
    assert place.only() == CAST
    assert place.known()[0]["state"] == "interrupted"
    client.transport.loseConnection()


@run
async def test_a_live_recording_is_ended_by_somebody_else(place):
    client = await place.dial()
    stream = client.request("POST", "/v2/record")
    client.send(stream, CAST)
    await client.until(lambda: client.acked(stream) == len(CAST))
    (found,) = (await place.library.search(RecordingQuery(state=RecordingState.LIVE))).recordings
    assert await place.library.end(found.id, "ended by bob@corp.example")
    told = await client.answered(stream)
    assert told[-1] == {"error": "ended by bob@corp.example", "end": True}
    assert (await place.library.find(found.id)).detail == "ended by bob@corp.example"
    assert not await place.library.end(found.id, "again")
    client.transport.loseConnection()


@run
async def test_leaving_waits_for_uploads_then_tells_them(make_place):
    place = make_place(drain=0.3)
    short, long = await place.dial(), await place.dial()
    first, second = short.request("POST", "/v2/record"), long.request("POST", "/v2/record")
    short.send(first, CAST)
    long.send(second, CAST)
    await short.until(lambda: short.acked(first) == len(CAST))
    await long.until(lambda: long.acked(second) == len(CAST))
    leaving = ensureDeferred(place.stop())
    await deferLater(reactor, 0.01)
    short.send(first, event(9, "the end"), end=True)
    assert "error" not in (await short.answered(first))[-1]
    assert (await long.answered(second))[-1] == {"error": "the recorder is leaving"}
    await leaving
    assert sorted(place.kept().values()) == sorted([CAST, CAST + event(9, "the end")])


@run
async def test_what_is_no_http2_is_closed(place):
    client = await place.wire()
    client.transport.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(64))
    await client.until(lambda: client.lost)


def test_a_key_that_is_none_is_a_wrong_configuration(tmp_path):
    with pytest.raises(
        ConfigError, match=r"Tailproxy\.Recorder\.Encrypt: 'age1x' is no public key"
    ):
        Place(tmp_path, Encrypt=["age1x"])


@run
async def test_events_are_kept_by_day(place):
    client = await place.dial()
    assert await client.status("HEAD", "/v2/event") == (200, "")
    stream = client.request("POST", "/v2/event")
    client.send(stream, json.dumps({"type": "kubernetes-api-request", "id": ""}).encode(), end=True)
    await client.until(lambda: stream in client.ended)
    assert client.heads[stream] == 200
    (path,) = (place.folder / "events").iterdir()
    (line,) = path.read_text().splitlines()
    kept = json.loads(line)
    assert kept["type"] == "kubernetes-api-request"
    assert kept["id"]
    assert kept["recorder"]["node"] == "proxy.corp-cat.ts.net"
    client.transport.loseConnection()
