"""`tailproxy sessions` and `tailproxy play ID` as a person sees them, on real pages."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner
from twisted.internet.threads import deferToThread

from tailproxy.cli.main import main
from tests.client.servers import Played, refusal
from tests.sessions.conftest import local, make_plane, nothing_left, shelf  # noqa: F401 - fixtures
from tests.sessions.shelf import BEGAN, EVENTS, pod

GONE = "20260101T000000-0123456789abcdef"


def invoke(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def run(local, monkeypatch):  # noqa: F811
    """Runs `tailproxy sessions` beside the service that answers it."""
    monkeypatch.setenv("TAILPROXY_SESSIONS", str(local))
    monkeypatch.setenv("COLUMNS", "120")

    async def run(*words: str, code: int = 0) -> str:
        return await deferToThread(invoke, *words, code=code)

    return run


async def test_list_is_a_table(shelf, run):  # noqa: F811
    shelf.put(began=BEGAN)
    live = shelf.begin(began=BEGAN + 1, srcNodeUser="", srcNodeTags=["tag:ci"], command="")
    lines = [line.split("   ") for line in (await run("sessions", "ls")).splitlines()]
    columns = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert columns[0] == ["ID", "BEGAN", "LENGTH", "STATE", "WHO", "WHERE", "COMMAND"]
    assert columns[1][2:] == ["live", "tag:ci", "shop/web-0/app"]
    assert columns[2][2:] == [
        "0:01",
        "complete, exit 0",
        "ada@corp.example",
        "shop/web-0/app",
        "sh -c ls",
    ]
    shelf.finish(live)


async def test_programs_get_json_and_yaml(shelf, run):  # noqa: F811
    identifier = shelf.put()
    [item] = json.loads(await run("sessions", "ls", "-o", "json"))
    assert item["id"] == identifier
    assert yaml.safe_load(await run("sessions", "ls", "-o", "yaml")) == [item]
    assert json.loads(await run("sessions", "show", identifier, "-o", "json")) == item


@pytest.mark.parametrize(
    ("words", "fits"),
    [
        (("--namespace", "shop"), True),
        (("-n", "bank"), False),
        (("--user", "ada@corp.example", "--pod", "web-0", "--container", "app"), True),
        (("--node", "laptop"), False),
        (("--command", "LS", "--text", "corp"), True),
        (("--since", "2025-10-09T08:53:20+00:00", "--until", "2025-10-11"), True),
        (("--since", "1h"), False),
        (("--until", "2w"), True),
        (("--live",), False),
    ],
)
async def test_filters_say_which(shelf, run, words, fits):  # noqa: F811
    identifier = shelf.put()
    said = await run("sessions", "ls", *words)
    assert (identifier in said) is fits
    assert (said == "No session fits.\n") is not fits


async def test_time_that_is_none_is_said(run):
    assert "wanted a date or time such as 2026-05-01" in await run(
        "sessions", "ls", "--since", "soon", code=2
    )


async def test_long_list_is_asked_for_page_by_page(shelf, run, monkeypatch):  # noqa: F811
    monkeypatch.setattr("tailproxy.client.sessions._PAGE", 2)
    made = [shelf.put(began=BEGAN + number) for number in range(5)]
    found = json.loads(await run("sessions", "ls", "-o", "json"))
    assert [item["id"] for item in found] == made[::-1]
    few = json.loads(await run("sessions", "ls", "-o", "json", "--limit", "3"))
    assert [item["id"] for item in few] == made[:1:-1]


async def test_one_is_shown(shelf, run):  # noqa: F811
    identifier = shelf.put(**pod("bank"))
    said = await run("sessions", "show", identifier)
    assert f"ID        {identifier}\n" in said
    assert "Where     bank/web-0/app\n" in said
    assert "Exec      sh -c ls\n" in said
    assert "Terminal  80x24\n" in said


async def test_names_cannot_give_orders_to_the_terminal(shelf, run):  # noqa: F811
    identifier = shelf.put(command="ls \x1b[2J\u202e")
    for words in (("ls",), ("show", identifier)):
        assert "ls ?[2J?" in await run("sessions", *words)


async def test_sessions_are_ended(shelf, run):  # noqa: F811
    live = shelf.begin(*EVENTS)
    identifier = live.recording.id
    said = await run("sessions", "kill", identifier)
    assert said == f"{identifier}: ada@corp.example in shop/web-0/app is being ended\n"
    assert [asked for asked, _ in shelf.index.take_ends()] == [identifier]
    shelf.finish(live)
    assert "does not run any more" in await run("sessions", "kill", identifier, code=1)


async def test_recording_is_played_by_its_id(shelf, run):  # noqa: F811
    identifier = shelf.put([0.0, "o", "what was seen\n"], width=0, height=0)
    assert await run("play", identifier) == "what was seen\n"


async def test_encrypted_recording_is_not_played(shelf, run):  # noqa: F811
    identifier = shelf.put()
    shelf.seal(identifier, b"age")
    said = await run("play", identifier, code=1)
    assert f"age -d -i KEY {identifier}.cast.age" in said


@pytest.mark.parametrize("words", [("sessions", "show", GONE), ("play", GONE)])
async def test_what_is_not_there_is_one_line(run, words):
    said = await run(*words, code=1)
    assert said.startswith(f"Error: tailproxy: there is no recording {GONE}")
    assert said.count("\n") == 1


async def test_what_is_no_id_is_said(run):
    assert "tailproxy sessions ls" in await run("sessions", "show", "../x", code=1)


def test_socket_that_is_not_there_is_said(tmp_path):
    said = invoke("sessions", "ls", "--socket", str(tmp_path / "gone"), code=1)
    assert f"cannot connect to {tmp_path}/gone: No such file or directory" in said
    assert "root or of its group" in said


@pytest.fixture
def played(tmp_path, monkeypatch):
    with Played(tmp_path) as played:
        monkeypatch.setenv("KUBECONFIG", str(played.kubeconfig(tmp_path / "config")))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield played


def test_proxy_of_the_context_is_asked(played):
    played.whoami = (200, {"items": [], "next": None})
    assert invoke("sessions", "ls", "--context", "here") == "No session fits.\n"
    assert played.asked == [("GET", "/.tailproxy/sessions/?limit=50", None, None)]


def test_refusal_is_said_as_the_proxy_says_it(played):
    played.whoami = refusal(403, "tailproxy: no grant of the tailnet's policy lets you")
    assert "Error: tailproxy: no grant" in invoke("sessions", "ls", code=1)
    assert "Error: tailproxy: no grant" in invoke("play", GONE, code=1)


def test_server_that_is_no_recorder_is_said(played):
    played.whoami = refusal(404, "not found")
    assert "there is no tailproxy with a recorder" in invoke("sessions", "ls", code=1)
    played.whoami = (200, ["pods"])
    assert "there is no tailproxy with a recorder" in invoke("sessions", "ls", code=1)
