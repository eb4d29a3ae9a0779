"""The pages of recorded sessions, on a unix socket with all rights."""

from __future__ import annotations

import getpass
import json
import re
import stat

import pytest

from tailproxy.recordings import RecordingState
from tests.proxy.servers import eventually
from tests.sessions.shelf import BEGAN, EVENTS, HEADER, dial_socket, lines, pod, request

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
GONE = "20260101T000000-0123456789abcdef"


async def test_programs_get_the_list_as_json(shelf, ask):
    older = shelf.put(began=BEGAN)
    newer = shelf.put(began=BEGAN + 60)
    answer = await ask("GET", "/")
    assert answer.code == 200
    assert answer.headers["content-type"] == "application/json"
    assert [item["id"] for item in answer.json["items"]] == [newer, older]
    assert answer.json["next"] is None
    assert answer.json["items"][1] == {
        "id": older,
        "session": "a1b2",
        "state": "complete",
        "detail": "",
        "start": "2025-10-09T08:53:20Z",
        "durationSeconds": 1.5,
        "user": "ada@corp.example",
        "node": "laptop.corp-cat.ts.net",
        "nodeID": "n1",
        "tags": [],
        "namespace": "shop",
        "pod": "web-0",
        "container": "app",
        "kind": "exec",
        "command": "sh -c ls",
        "exitCode": 0,
        "width": 80,
        "height": 24,
        "size": len(lines(HEADER, *EVENTS)),
        "encrypted": False,
        "proxy": "",
        "proxyID": "",
    }


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        ("namespace=bank", True),
        ("namespace=ban", False),
        ("user=ada%40corp.example&pod=web-0&container=app", True),
        ("user=eve", False),
        ("node=laptop.corp-cat.ts.net", True),
        ("command=PSQL", True),
        ("text=corp-cat", True),
        ("session=a1b2", True),
        ("since=2025-10-09T08:53:20Z&until=2025-10-10", True),
        ("since=2025-10-09T10:53:21%2B02:00", False),
        ("since=2025-10-09T08:53:21", False),
        ("until=2025-10-09", False),
        ("state=complete", True),
        ("state=live", False),
        ("user=&since=&state=&limit=", True),
    ],
)
async def test_search_finds_what_fits(shelf, ask, query, fits):
    found = shelf.put(**pod("bank"), command="psql -c 'select 1'")
    items = (await ask("GET", f"/?{query}")).json["items"]
    assert [item["id"] for item in items] == ([found] if fits else [])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("colour=red", "'colour' is not asked for"),
        ("user=a&user=b", "'user' is not asked for, or twice"),
        ("user=%ff", "user is not UTF-8"),
        ("text=" + "a" * 257, "text is longer than 256 characters"),
        ("since=yesterday", "since is 'yesterday', wanted a date or time"),
        ("state=gone", "state is 'gone', wanted live, complete, interrupted, damaged"),
        ("limit=0", "limit is '0', wanted 1 to 500"),
        ("limit=501", "limit is '501'"),
    ],
)
async def test_search_that_makes_no_sense_is_said(ask, query, message):
    answer = await ask("GET", f"/?{query}")
    assert answer.code == 400
    assert answer.json["kind"] == "Status"
    assert message in answer.json["message"]


async def test_pages_follow_one_another(shelf, ask):
    made = [shelf.put(began=BEGAN + number) for number in range(5)]
    seen = []
    after = ""
    while after is not None:
        page = (await ask("GET", f"/?limit=2&after={after}")).json
        seen += [item["id"] for item in page["items"]]
        after = page["next"]
    assert seen == made[::-1]


async def test_browser_gets_a_page_with_the_search_in_it(shelf, ask):
    for number in range(2):
        shelf.put(began=BEGAN + number)
    answer = await ask("GET", "/?namespace=shop&limit=1&since=2025-10-01T00:00", **HTML)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text.count("<tr>") == 2
    assert f"seen by {getpass.getuser()} on the recorder&#39;s machine" in answer.text or (
        f"seen by {getpass.getuser()} on the recorder's machine" in answer.text
    )
    assert 'name="namespace" value="shop"' in answer.text
    [link] = re.findall(r'<a href="(\./\?[^"]*)">Earlier ones', answer.text)
    more = await ask("GET", link[1:].replace("&amp;", "&"), **HTML)
    assert more.text.count("<tr>") == 2
    assert "Earlier ones" not in more.text


async def test_page_says_when_nothing_fits(ask):
    answer = await ask("GET", "/?user=nobody", **HTML)
    assert "No session fits." in answer.text
    assert "<table>" not in answer.text


async def test_what_others_chose_is_text(shelf, ask):
    hostile = "<script>alert(1)</script>\"'"
    identifier = shelf.put(command=hostile, srcNodeUser=hostile, srcNode=hostile)
    for path in ("/", f"/?user={hostile.replace(' ', '')}", f"/{identifier}"):
        answer = await ask("GET", path, **HTML)
        assert answer.code == 200
        assert "alert" in answer.text
        assert "<script>alert" not in answer.text
        assert 'value="<' not in answer.text


@pytest.mark.parametrize("headers", [HTML, {}])
async def test_every_answer_guards_the_browser(shelf, ask, headers):
    identifier = shelf.put()
    for path in ("", "/", f"/{identifier}", f"/{identifier}/cast", "/static/sessions.js", "/x/y"):
        answer = await ask("GET", path, **headers)
        policy = answer.headers["content-security-policy"].split("; ")
        assert policy[0] == "default-src 'none'"
        assert "script-src 'self' 'wasm-unsafe-eval'" in policy
        assert "style-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-inline" not in " ".join(policy)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        stored = "no-cache" if "static" in path else "no-store"
        assert answer.headers["cache-control"] == stored


async def test_pages_load_nothing_from_elsewhere_and_hold_no_script(shelf, ask):
    identifier = shelf.put()
    for path in ("/", f"/{identifier}", "/x/y"):
        text = (await ask("GET", path, **HTML)).text
        for target in re.findall(r'(?:src|href|action)="([^"]*)"', text):
            assert "//" not in target
        assert re.findall(r"<script[^>]*>[^<]", text) == []
        assert " on" not in re.sub(r">[^<]*<", "><", text)
        assert "style=" not in text


async def test_files_that_pages_name_exist(shelf, ask):
    text = (await ask("GET", f"/{shelf.put()}", **HTML)).text
    named = re.findall(r'(?:src|href)="(static/[^"]*)"', text)
    assert len(named) == 5
    for name in named:
        answer = await ask("GET", f"/{name}")
        assert answer.code == 200
        kind = "text/javascript" if name.endswith(".js") else "text/css"
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert answer.body
    again = await ask("GET", f"/{named[0]}", If_None_Match=(await _etag(ask, named[0])))
    assert (again.code, again.body) == (304, b"")
    assert (await ask("GET", "/static/nothing")).code == 404
    assert (await ask("GET", "/static/..%2fpages.py")).code == 404


async def _etag(ask, name: str) -> str:
    return (await ask("GET", f"/{name}")).headers["etag"]


async def test_recording_is_had_as_it_was_kept(shelf, ask):
    identifier = shelf.put()
    answer = await ask("GET", f"/{identifier}/cast")
    assert answer.body == lines(HEADER, *EVENTS)
    assert answer.headers["content-type"] == "application/x-asciicast"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert f'filename="{identifier}.cast"' in answer.headers["content-disposition"]
    head = await ask("HEAD", f"/{identifier}/cast")
    assert (head.code, head.body) == (200, b"")


async def test_encrypted_recording_is_downloaded_and_not_played(shelf, ask):
    identifier = shelf.put()
    shelf.seal(identifier, b"age-encryption.org/v1\n...")
    page = (await ask("GET", f"/{identifier}", **HTML)).text
    assert "It is kept encrypted" in page
    assert 'id="player"' not in page
    assert f'download="{identifier}.cast.age"' in page
    answer = await ask("GET", f"/{identifier}/cast")
    assert answer.body == b"age-encryption.org/v1\n..."
    assert answer.headers["content-type"] == "application/octet-stream"
    assert f'filename="{identifier}.cast.age"' in answer.headers["content-disposition"]
    assert (await ask("GET", f"/{identifier}/live")).code == 409


async def test_large_recording_waits_for_a_slow_reader(shelf, local):
    identifier = shelf.put(*([n, "o", "x" * 60_000] for n in range(200)))
    wire = await dial_socket(local)
    wire.transport.pauseProducing()
    wire.send(request("GET", f"/{identifier}/cast"))
    read = []
    original = shelf.library.read

    def counted(recording, offset):
        read.append(offset)
        return original(recording, offset)

    shelf.library.read = counted
    await eventually(lambda: read)
    await shelf.library.find(identifier)
    assert max(read) < 4_000_000
    wire.transport.resumeProducing()
    raw = await wire.ends(20)
    assert raw.endswith(b'x"]\n')
    assert len(raw) > 200 * 60_000


@pytest.mark.parametrize("path", [f"/{GONE}", f"/{GONE}/cast", f"/{GONE}/live", "/..%2fx"])
async def test_what_is_not_there_is_404(ask, path):
    answer = await ask("GET", path)
    assert answer.code == 404
    assert "there is no recording" in answer.json["message"]
    assert "there is no recording" in (await ask("GET", path, **HTML)).text


async def test_other_methods_and_paths_are_refused(shelf, ask):
    identifier = shelf.put()
    assert (await ask("DELETE", f"/{identifier}")).code == 405
    assert (await ask("POST", "/", b"{}")).code == 405
    assert (await ask("GET", f"/{identifier}/end")).code == 404
    assert (await ask("GET", f"/{identifier}/cast/x")).code == 404


async def test_address_without_a_slash_leads_to_the_one_with(ask):
    answer = await ask("GET", "")
    assert (answer.code, answer.headers["location"]) == (308, "/.tailproxy/sessions/")


async def test_live_session_is_followed_to_its_end(shelf, local):
    part = shelf.begin([0.5, "o", "before\r\n"], [0.7, "r", "100x30"])
    wire = await dial_socket(local)
    wire.send(request("GET", f"/{part.recording.id}/live"))
    await wire.receives(b"before")
    shelf.add(part, [1.0, "o", "after\r\n"], [1.1, "m", "here"], [1.2, "r", "90x20"])
    await wire.receives(b"after")
    shelf.add(part, [2.0, "o", "end"])
    shelf.finish(part)
    head, _, body = (await wire.ends()).partition(b"\r\n\r\n")
    assert b"Content-Type: text/event-stream" in head
    *events, done, rest = body.decode().split("\n\n")
    assert (done, rest) == ("event: done\ndata:", "")
    assert [json.loads(event.removeprefix("data: ")) for event in events] == [
        {"cols": 100, "rows": 30, "time": 0.7, "init": "before\r\n"},
        [1.0, "o", "after\r\n"],
        [1.2, "r", {"cols": 90, "rows": 20}],
        [2.0, "o", "end"],
    ]


async def test_live_session_without_a_terminal_has_whole_lines(shelf, local):
    part = shelf.begin([0.5, "o", "one\ntwo\n"], width=0, height=0)
    wire = await dial_socket(local)
    wire.send(request("GET", f"/{part.recording.id}/live"))
    await wire.receives(b"two")
    shelf.finish(part)
    first = (await wire.ends()).partition(b"\r\n\r\n")[2].partition(b"\n\n")[0]
    assert json.loads(first.removeprefix(b"data: ")) == {
        "cols": 80,
        "rows": 24,
        "time": 0.5,
        "init": "one\r\ntwo\r\n",
    }


async def test_what_was_long_before_is_left_out(shelf, local):
    part = shelf.begin(*([n, "o", f"{n:04}" + "x" * 60_000] for n in range(60)))
    wire = await dial_socket(local)
    wire.send(request("GET", f"/{part.recording.id}/live"))
    await wire.receives(b"\n\n", 20)
    shelf.finish(part)
    first = (await wire.ends()).partition(b"\r\n\r\n")[2].partition(b"\n\n")[0]
    shown = json.loads(first.removeprefix(b"data: "))["init"]
    assert len(shown) == 1024 * 1024
    assert "0059" in shown


async def test_nobody_follows_for_a_browser_that_has_gone(shelf, local):
    part = shelf.begin(*EVENTS)
    looked = []
    original = shelf.library.find

    def counted(recording):
        looked.append(recording)
        return original(recording)

    shelf.library.find = counted
    wire = await dial_socket(local)
    wire.send(request("GET", f"/{part.recording.id}/live"))
    await wire.receives(b"one")
    await eventually(lambda: len(looked) >= 2)
    wire.transport.abortConnection()
    await wire.ends()
    # `nothing_left` sees to it that no look is planned.


async def test_session_is_ended_by_its_button(shelf, ask):
    part = shelf.begin(*EVENTS)
    path = f"/{part.recording.id}/end"
    form = {"Content_Type": "application/x-www-form-urlencoded", "Sec_Fetch_Site": "same-origin"}
    assert 'class="end"' in (await ask("GET", f"/{part.recording.id}", **HTML)).text
    answer = await ask("POST", path, **form, **HTML)
    assert answer.code == 303
    assert answer.headers["location"] == f"/.tailproxy/sessions/{part.recording.id}"
    [(identifier, reason)] = shelf.index.take_ends()
    assert identifier == part.recording.id
    assert reason == f"ended by {getpass.getuser()} on the recorder's machine"
    shelf.finish(part, RecordingState.INTERRUPTED)
    assert 'class="end"' not in (await ask("GET", f"/{part.recording.id}", **HTML)).text
    again = await ask("POST", path, **form)
    assert again.code == 409
    assert "does not run any more" in again.json["message"]


async def test_session_is_ended_by_a_command(shelf, ask):
    part = shelf.begin(*EVENTS)
    answer = await ask("POST", f"/{part.recording.id}/end", b"{}", Content_Type="application/json")
    assert (answer.code, answer.json["id"]) == (200, part.recording.id)
    assert len(shelf.index.take_ends()) == 1
    shelf.finish(part)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/json", "Sec_Fetch_Site": "cross-site"},
        {"Content_Type": "application/json", "Sec_Fetch_Site": "same-site"},
        {"Content_Type": "application/x-www-form-urlencoded", "Sec_Fetch_Site": "none"},
    ],
)
async def test_no_other_site_can_end_a_session(shelf, ask, headers):
    part = shelf.begin(*EVENTS)
    answer = await ask("POST", f"/{part.recording.id}/end", b"{}", **headers)
    assert answer.code == 403
    assert shelf.index.take_ends() == []
    shelf.finish(part)


async def test_socket_is_for_owner_and_group(local):
    assert stat.S_IMODE(local.stat().st_mode) == 0o660


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("elsewhere.example:8080", 421),
        ("localhost.elsewhere.example", 421),
        ("", 421),
    ],
)
async def test_socket_is_not_asked_by_another_name(ask, host, code):
    assert (await ask("GET", "/", Host=host)).code == code


async def test_root_of_the_socket_leads_to_the_list(local):
    wire = await dial_socket(local)
    wire.send(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
    raw = await wire.ends()
    assert b" 302 " in raw.partition(b"\r\n")[0]
    assert b"Location: /.tailproxy/sessions/" in raw
