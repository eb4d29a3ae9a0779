"""The pages on a tailnet listener: who may see what."""

from __future__ import annotations

import pytest

from tailproxy.interfaces import PluginContext
from tailproxy.policy.grants import CAPABILITY, read_rules
from tailproxy.sessions.plugin import SessionsPlugin
from tests.proxy.plane import ADA, STRANGER, identity
from tests.sessions.shelf import EVENTS, pod, read, request

JSON = {"Content_Type": "application/json"}
HTML = {"Accept": "text/html"}


@pytest.fixture
def plane(make_plane, shelf):
    context = PluginContext({}, "1", "auth", None, shelf.library)
    return make_plane(plugins={"sessions": SessionsPlugin().resource(context)})


@pytest.fixture
def ask(plane):
    async def ask(method: str, path: str, body: bytes = b"", source: str = ADA, **headers: str):
        client = await plane.client(source)
        client.send(request(method, path, body, **headers))
        return read(await client.ends())

    return ask


@pytest.fixture
def grant(plane):
    """Gives Ada these rules and no others."""

    def grant(*rules: dict) -> None:
        values = [{"tailproxy": rule} for rule in rules]
        plane.resolver.known[ADA] = identity(grants=read_rules({CAPABILITY: values}))

    return grant


async def test_nobody_sees_anything_without_a_grant(shelf, ask):
    identifier = shelf.put()
    for path, code in (("/", 403), (f"/{identifier}", 404), (f"/{identifier}/cast", 404)):
        answer = await ask("GET", path)
        assert answer.code == code
        assert "grant" in answer.json["message"]
        assert "web-0" not in answer.text
    assert (await ask("POST", f"/{identifier}/end", b"{}", **JSON)).code == 404


async def test_strangers_get_no_page(ask):
    assert (await ask("GET", "/", source=STRANGER)).code == 401


async def test_list_shows_no_screen(shelf, ask, grant):
    grant({"sessions": ["list"]})
    identifier = shelf.put()
    assert [item["id"] for item in (await ask("GET", "/")).json["items"]] == [identifier]
    page = (await ask("GET", f"/{identifier}", **HTML)).text
    assert "No grant of the tailnet's policy lets you see what was on the screen" in page
    assert 'id="player"' not in page
    assert "/cast" not in page
    for path in ("cast", "live"):
        answer = await ask("GET", f"/{identifier}/{path}")
        assert answer.code == 403
        assert "lets ada@corp.example play sessions of the namespace shop" in answer.json["message"]


async def test_play_shows_it_and_ends_nothing(shelf, ask, grant):
    grant({"sessions": ["play"]})
    part = shelf.begin(*EVENTS)
    identifier = part.recording.id
    assert b"one" in (await ask("GET", f"/{identifier}/cast")).body
    page = (await ask("GET", f"/{identifier}", **HTML)).text
    assert 'id="player"' in page
    assert 'class="end"' not in page
    answer = await ask("POST", f"/{identifier}/end", b"{}", **JSON)
    assert answer.code == 403
    assert "end sessions of the namespace shop" in answer.json["message"]
    assert shelf.index.take_ends() == []
    shelf.finish(part)


async def test_kill_ends_it_and_says_who(shelf, ask, grant, plane):
    grant({"sessions": ["kill"]})
    part = shelf.begin(*EVENTS)
    identifier = part.recording.id
    assert (await ask("GET", f"/{identifier}/cast")).code == 403
    assert (await ask("POST", f"/{identifier}/end", b"{}", **JSON)).code == 200
    assert shelf.index.take_ends() == [(identifier, "ended by ada@corp.example")]
    last = plane.audit.records[-1]
    assert (last.user, last.method, last.path, last.status) == (
        "ada@corp.example",
        "POST",
        f"/.tailproxy/sessions/{identifier}/end",
        200,
    )
    shelf.finish(part)


async def test_other_namespaces_are_not_there(shelf, ask, grant):
    grant(
        {"sessions": ["play"], "namespaces": ["shop"]},
        {"sessions": ["list"], "namespaces": ["bank"]},
    )
    shop, bank, other = (shelf.put(**pod(name)) for name in ("shop", "bank", "other"))
    nowhere = shelf.put(**pod(""))
    seen = {item["id"] for item in (await ask("GET", "/")).json["items"]}
    assert seen == {shop, bank}
    assert (await ask("GET", "/?namespace=other")).json["items"] == []
    assert (await ask("GET", f"/{shop}/cast")).code == 200
    assert (await ask("GET", f"/{bank}/cast")).code == 403
    for identifier in (other, nowhere):
        assert (await ask("GET", f"/{identifier}")).code == 404
        assert (await ask("GET", f"/{identifier}/cast")).code == 404


async def test_grant_that_is_taken_away_counts_at_once(shelf, ask, grant):
    identifier = shelf.put()
    grant({"sessions": ["play"]})
    assert (await ask("GET", f"/{identifier}/cast")).code == 200
    grant()
    assert (await ask("GET", f"/{identifier}/cast")).code == 404


async def test_live_view_passes_through_the_proxy(shelf, plane, grant):
    grant({"sessions": ["play"]})
    part = shelf.begin(*EVENTS)
    client = await plane.client()
    client.send(request("GET", f"/{part.recording.id}/live"))
    await client.receives(b"two")
    shelf.add(part, [2.0, "o", "three"])
    await client.receives(b'data: [2.0,"o","three"]\n\n')
    shelf.finish(part)
    assert (await client.ends()).endswith(b"event: done\ndata:\n\n")
