"""The page at `/.tailproxy/`: for people, and the same for programs."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from xml.etree import ElementTree as ET

import pytest

from tailproxy.policy.grants import CAPABILITY
from tailproxy.policy.identity import identify
from tailproxy.proxy.index import IndexPage
from tests.policy.whois import groups, tagged, user
from tests.proxy.plane import ADA, STRANGER

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


class Page:
    """An answer, taken apart."""

    def __init__(self, answer: bytes) -> None:
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        self.body = body

    @property
    def tree(self) -> ET.Element:
        return ET.fromstring(self.body.decode().removeprefix("<!DOCTYPE html>"))

    @property
    def text(self) -> str:
        main = self.tree.find("body")
        return " ".join(" ".join(main.itertext()).split())


@pytest.fixture
def plane(make_plane):
    index = IndexPage("auth", "1.2", {"whoami": "Who you are", "a-b": ""})
    return make_plane(plugins={"": index})


async def ask(plane, accept: str = BROWSER, path: str = "/.tailproxy/", host: str = "kube") -> Page:
    client = await plane.client()
    client.send(
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\nConnection: close\r\n"
        "\r\n".encode()
    )
    answer = await client.ends()
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" in head:
        body = b"".join(re.findall(rb"[0-9a-f]+\r\n(.*?)\r\n(?=[0-9a-f]+\r\n)", body, re.DOTALL))
        answer = head + b"\r\n\r\n" + body
    return Page(answer)


async def test_browser_gets_a_page(plane):
    page = await ask(plane)
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "You are ada@corp.example Node laptop.corp-cat.ts.net Address 100.64.0.5" in page.text
    assert "Service svc:kube Version tailproxy 1.2" in page.text


@pytest.mark.parametrize("path", ["/.tailproxy", "/.tailproxy?x=1", "/.tailproxy/?x=1"])
async def test_it_is_there_without_a_slash_too(plane, path):
    assert (await ask(plane, path=path)).status == 200


async def test_page_allows_nothing_but_its_own_style(plane):
    page = await ask(plane)
    style = page.tree.find("head/style").text
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = dict(
        each.split(" ", 1) for each in page.headers["content-security-policy"].split("; ")
    )
    assert policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    names = {element.tag for element in page.tree.iter()}
    assert names.isdisjoint({"script", "link", "img", "iframe", "form", "object"})
    assert all("style" not in element.attrib for element in page.tree.iter())


async def test_page_links_the_plugins(plane):
    page = await ask(plane)
    links = {a.text: a.get("href") for a in page.tree.iter("a")}
    assert links == {"whoami": "/.tailproxy/whoami", "a-b": "/.tailproxy/a-b"}
    assert "whoami Who you are" in page.text


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (user(), "No grant of the tailnet's policy gives you a group."),
        (tagged(), "tag:ci a tag of the node tag:eu a tag of the node"),
        (
            user("ada@corp.example", groups("dev")),
            f"Groups dev rule 1 of {CAPABILITY} This service",
        ),
    ],
    ids=["nothing", "tags", "grant"],
)
async def test_page_says_where_groups_come_from(plane, answer, expected):
    plane.resolver.known[ADA] = identify(answer)
    assert expected in (await ask(plane)).text


async def test_nobody_is_sent_for_a_binding_where_none_would_help(make_plane):
    plane = make_plane(plugins={"": IndexPage("noauth", "1.2", {})})
    plane.resolver.known[ADA] = identify(user())
    page = await ask(plane)
    assert "Mode noauth: your requests run with the credentials that you send" in page.text
    assert "bind" not in page.text


async def test_names_are_shown_and_never_obeyed(plane):
    evil = "</style><script>alert(1)</script>\"'&amp;"
    plane.resolver.known[ADA] = identify(user(evil, groups(evil), Name=f"{evil}.", StableID=evil))
    page = await ask(plane)
    assert b"<script" not in page.body
    assert page.text.count(evil) == 3  # user, node and group


async def test_program_gets_the_same_as_json(plane):
    page = await ask(plane, "application/json, */*")
    assert page.headers["content-type"] == "application/json"
    assert page.headers["vary"] == "accept"
    found = json.loads(page.body)
    assert found["user"] == "ada@corp.example"
    assert found["service"] == "svc:kube"
    assert found["plugins"] == [
        {"name": "a-b", "path": "/.tailproxy/a-b", "title": ""},
        {"name": "whoami", "path": "/.tailproxy/whoami", "title": "Who you are"},
    ]


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("TEXT/HTML ; level=1", True),
        ("application/json, text/html;q=0.5", True),
        ("text/html;q=0, */*", False),
        ("text/html; q=0.000", False),
        ("*/*", False),
        ("application/json", False),
        ("", False),
    ],
)
async def test_html_is_for_who_asks_for_it(plane, accept, html):
    kind = (await ask(plane, accept)).headers["content-type"]
    assert kind.startswith("text/html") is html


async def test_stranger_gets_nothing(plane):
    client = await plane.client(STRANGER)
    client.send(b"GET /.tailproxy/ HTTP/1.1\r\nHost: kube\r\nAccept: text/html\r\n\r\n")
    assert (await client.receives(b"}")).startswith(b"HTTP/1.1 401 ")
