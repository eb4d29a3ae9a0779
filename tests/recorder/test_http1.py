"""Uploads over HTTP/1.1, and events; the same port for both versions."""

from __future__ import annotations

import json

import pytest
import pytest_twisted

from tests.proxy.servers import eventually
from tests.recorder.place import LAPTOP, STRANGER, event, header

CAST = header() + event(0.5, "hello\r\n") + event(1.25, "bye\r\n")
HEAD = b"POST /record HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n"
EXPECT = b"Expect: 100-continue\r\n"

run = pytest_twisted.ensureDeferred


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def posted(path: bytes, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (path, len(body), body)


@run
async def test_an_upload_is_told_to_go_on_and_then_that_it_is_kept(place):
    client = await place.wire()
    client.transport.write(HEAD + EXPECT + b"\r\n")
    assert (await client.receives(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 Continue\r\n")
    for line in CAST.splitlines(keepends=True):
        client.transport.write(chunk(line))
    await eventually(lambda: list(place.folder.glob("*/*.part")))
    assert b" 200 " not in client.received
    client.transport.write(b"0\r\n\r\n")
    await client.receives(b"HTTP/1.1 200 OK\r\n")
    assert place.only() == CAST
    client.transport.loseConnection()


@run
async def test_the_same_without_waiting_for_that(place):
    client = await place.wire()
    client.transport.write(HEAD + b"\r\n" + chunk(CAST) + b"0\r\n\r\n")
    answer = await client.receives(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert place.only() == CAST
    client.transport.loseConnection()


@run
async def test_the_disk_sets_the_pace(place):
    lines = header() + event(1, "x" * 50_000) * 200
    client = await place.wire()
    client.transport.write(HEAD + b"\r\n" + chunk(lines) + b"0\r\n\r\n")
    await client.receives(b"HTTP/1.1 200 OK\r\n")
    assert place.only() == lines
    client.transport.loseConnection()


@pytest.mark.parametrize("end", ["loseConnection", "abortConnection"])
@run
async def test_a_proxy_that_goes_leaves_a_recording_that_was_interrupted(place, end):
    client = await place.wire()
    client.transport.write(HEAD + b"\r\n" + chunk(CAST + b"[1,"))
    await eventually(lambda: [p for p in place.folder.glob("*/*.part") if p.stat().st_size])
    getattr(client.transport, end)()
    await eventually(place.kept)
    assert place.only() == CAST
    assert place.known()[0]["state"] == "interrupted"


@run
async def test_a_bad_line_ends_the_upload(place):
    client = await place.wire()
    client.transport.write(HEAD + b"\r\n" + chunk(CAST + b"nonsense\n"))
    answer = await client.receives(b"is not JSON")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"line 4 is not JSON" in answer
    assert place.only() == CAST
    client.transport.loseConnection()


@run
async def test_it_ends_when_the_recorder_leaves(place):
    client = await place.wire()
    client.transport.write(HEAD + b"\r\n" + chunk(CAST))
    await eventually(lambda: [p for p in place.folder.glob("*/*.part") if p.stat().st_size])
    await place.stop()
    await client.until(lambda: client.lost)
    assert place.only() == CAST


@pytest.mark.parametrize(("source", "code"), [(LAPTOP, b"403"), (STRANGER, b"401")])
@run
async def test_only_those_who_are_named_may_send(place, source, code):
    client = await place.wire(source)
    client.transport.write(HEAD + EXPECT + b"\r\n")
    answer = await client.receives(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 " + code)
    client.transport.loseConnection()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"GET /record", b"405"),
        (b"HEAD /v2/record", b"404"),  # that is spoken over HTTP/2 only
        (b"GET /", b"404"),
        (b"GET /v2/event", b"405"),
        (b"HEAD /v2/event", b"200"),
    ],
)
@run
async def test_what_there_is(place, line, code):
    client = await place.wire()
    client.transport.write(line + b" HTTP/1.1\r\nHost: r\r\n\r\n")
    assert (await client.receives(b"\r\n\r\n")).startswith(b"HTTP/1.1 " + code)
    client.transport.loseConnection()


@run
async def test_events_are_lines_of_their_day(place):
    client = await place.wire()
    for number in range(3):
        body = json.dumps({"type": "kubernetes-api-request", "id": "", "n": number}).encode()
        client.transport.write(posted(b"/v2/event", body))
        await client.receives(b"HTTP/1.1 200 OK\r\n")
        client.take()
    (path,) = (place.folder / "events").iterdir()
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [each["n"] for each in kept] == [0, 1, 2]
    assert len({each["id"] for each in kept}) == 3
    assert {each["recorder"]["nodeID"] for each in kept} != {""}
    assert place.value("tailproxy_recorder_events_total") == 3
    client.transport.loseConnection()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"type":1}', b"\xff", b'{"type":"x"} more'])
@run
async def test_what_is_no_event_is_refused(place, body):
    client = await place.wire()
    client.transport.write(posted(b"/v2/event", body))
    assert (await client.receives(b"\n\r\n")).startswith(b"HTTP/1.1 400 ")
    assert not (place.folder / "events").exists()
    client.transport.loseConnection()


@run
async def test_an_event_has_a_largest_size(place):
    client = await place.wire()
    client.transport.write(posted(b"/v2/event", b'{"type":"x' + b"y" * 5_000_000 + b'"}'))
    assert (await client.receives(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
    client.transport.loseConnection()


@run
async def test_who_says_nothing_is_not_waited_for(place):
    for said in (b"", b"PRI * HTTP/2"):
        client = await place.wire()
        client.transport.write(said)
        await client.until(lambda client=client: client.lost)
