"""What a client plants never becomes an identity: proven by what the real API server saw."""

from __future__ import annotations

import base64
import json

import pytest

from tests.e2e.client import address_of, ask
from tests.e2e.spy import TOKEN, Spy, upstream
from tests.lab import pki

REVIEW = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
BODY = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).encode()
JSON = ("Content-Type", "application/json")
PLANTED_TOKEN = base64.urlsafe_b64encode(b"planted-token").decode().rstrip("=")

PLANTED = {
    "authorization": [("Authorization", "Bearer planted-token")],
    "authorization-twice": [("authorization", "Bearer a"), ("AUTHORIZATION", "Basic YTpi")],
    "proxy-authorization": [("Proxy-Authorization", "Bearer planted-token")],
    "remote-user": [
        ("X-Remote-User", "admin"),
        ("X-Remote-Group", "system:masters"),
        ("X-Remote-Uid", "0"),
        ("X-Remote-Extra-Scopes", "all"),
    ],
    "connection-names-ours": [("Connection", "close, Impersonate-User, impersonate-group")],
    "connection-names-authorization": [("Connection", "Authorization,X-Forwarded-For")],
    "forwarded": [
        ("X-Forwarded-For", "100.64.0.66"),
        ("Forwarded", "for=100.64.0.66"),
        ("X-Real-Ip", "100.64.0.66"),
    ],
    "websocket-bearer": [
        (
            "Sec-WebSocket-Protocol",
            f"v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.{PLANTED_TOKEN}",
        ),
    ],
}
IMPERSONATION = {
    "user": [("Impersonate-User", "admin")],
    "user-lower": [("impersonate-user", "admin")],
    "group": [("IMPERSONATE-GROUP", "system:masters"), ("Impersonate-Group", "x")],
    "uid": [("Impersonate-Uid", "0")],
    "extra": [("Impersonate-Extra-Scopes", "all"), ("impersonate-extra-x%2fy", "1")],
    "all": [
        ("Impersonate-User", "admin"),
        ("Impersonate-User", "system:admin"),
        ("Impersonate-Group", "system:masters"),
        ("Authorization", "Bearer z"),
    ],
}


def reviewed(lab, service, headers) -> dict:
    answer = ask(
        lab, service, address_of(lab, "grace"), REVIEW, [JSON, *headers], method="POST", body=BODY
    )
    assert answer.status == 201, answer.body
    return answer.json["status"]["userInfo"]


@pytest.mark.parametrize("case", PLANTED)
def test_planted_credentials_never_reach_the_api_server(lab, proxy, case):
    info = reviewed(lab, proxy, PLANTED[case])
    assert info["username"] == "grace@example.com"
    assert info["groups"] == ["platform-team", "system:authenticated"]
    assert not info.get("extra")


@pytest.mark.parametrize("case", IMPERSONATION)
def test_planted_impersonation_is_refused(lab, proxy, case):
    """Design section 7: the default of ClientImpersonation."""
    answer = ask(
        lab,
        proxy,
        address_of(lab, "grace"),
        REVIEW,
        [JSON, *IMPERSONATION[case]],
        method="POST",
        body=BODY,
    )
    assert answer.status == 403
    assert "tailproxy" in answer.json["message"]


@pytest.fixture(scope="module")
def stripping(lab, proxy):
    """A tailproxy that drops a client's own impersonation."""
    service = lab.start_tailproxy("serve", name="strip", tailproxy={"ClientImpersonation": "strip"})
    yield service
    assert service.stop() == 0
    proxy.announce()


@pytest.mark.parametrize("case", [*IMPERSONATION, *PLANTED])
def test_planted_impersonation_is_dropped_where_the_configuration_says_so(lab, stripping, case):
    info = reviewed(lab, stripping, {**IMPERSONATION, **PLANTED}[case])
    assert info["username"] == "grace@example.com"
    assert info["groups"] == ["platform-team", "system:authenticated"]
    assert not info.get("extra")


def audited(lab, marker: str) -> list[dict]:
    return [
        event
        for line in lab.cluster.audit_log.read_text().splitlines()
        if marker in line
        for event in [json.loads(line)]
        if marker in event["requestURI"]
    ]


def test_audit_log_of_the_api_server_names_caller_and_address(lab, proxy):
    marker = "planted-and-audited"
    planted = [header for headers in PLANTED.values() for header in headers]
    answer = ask(
        lab,
        proxy,
        address_of(lab, "grace"),
        f"/api/v1/nodes?fieldSelector=metadata.name%3D{marker}",
        [header for header in planted if header[0] != "Sec-WebSocket-Protocol"],
    )
    assert answer.status == 200
    [event] = audited(lab, marker)
    assert event["user"]["username"] == "system:serviceaccount:tailscale:proxy"
    assert event["impersonatedUser"]["username"] == "grace@example.com"
    assert event["impersonatedUser"]["groups"] == ["platform-team", "system:authenticated"]
    assert "100.64.0.66" not in event["sourceIPs"]
    assert event["sourceIPs"][0] == address_of(lab, "grace")


IDENTITY_HEADERS = [
    ("Impersonate-User", "root"),
    ("impersonate-group", "system:masters"),
    ("Impersonate-Extra-Scopes", "x"),
    ("Impersonate-Uid", "0"),
    ("Authorization", "Bearer z"),
]


def test_noauth_leaves_the_five_identity_headers_untouched(lab, proxy):
    """dp_I15"""
    authority = pki.Authority("upstream-ca")
    with Spy(
        lab.cluster.network, authority.issue("x", names=["127.0.0.1"]), lab.run, "spy-noauth"
    ) as spy:
        service = lab.start_tailproxy(
            "serve",
            name="noauth-spy",
            config={"APIServerProxy": {"Mode": "noauth"}},
            tailproxy={"Upstream": upstream(lab, "noauth-spy", spy.port, authority.certificate)},
            ready="/livez",
        )
        try:
            answer = ask(lab, service, address_of(lab, "alice"), "/mine", IDENTITY_HEADERS)
            assert answer.status == 200
        finally:
            assert service.stop() == 0
            proxy.announce()
        [head] = [head for head in spy.requests if head.startswith(b"GET /mine ")]
        lines = head.split(b"\r\n")
        for name, value in IDENTITY_HEADERS:
            assert lines.count(f"{name}: {value}".encode()) == 1
        assert TOKEN.encode() not in b"".join(spy.requests)


# What Chromium sends for `fetch` and `WebSocket` of a page elsewhere; the first without a type of
# content, which the API server takes for JSON.
FOREIGN = [
    ("Origin", "https://elsewhere.example"),
    ("Sec-Fetch-Site", "cross-site"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64)"),
]
MAP = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "forged"}}).encode()
MAPS = "/api/v1/namespaces/default/configmaps"
SHELL = "/api/v1/namespaces/default/pods/shell/exec?command=id&stdout=true"
WEBSOCKET = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", base64.b64encode(bytes(16)).decode()),
    ("Sec-WebSocket-Protocol", "v4.channel.k8s.io"),
]


@pytest.mark.parametrize("missing", [None, "Sec-Fetch-Site"], ids=["now", "older"])
def test_page_of_another_site_cannot_act_as_the_caller(lab, proxy, missing):
    headers = [(name, value) for name, value in FOREIGN if name != missing]
    alice = address_of(lab, "alice")
    made = ask(lab, proxy, alice, MAPS, headers, method="POST", body=MAP)
    run = ask(lab, proxy, alice, SHELL, [*headers, *WEBSOCKET])
    for answer in (made, run):
        assert answer.status == 403
        assert "a page of another site" in answer.json["message"]
    there = lab.kubectl("admin", "get", "configmap", "forged", "-n", "default")
    assert "NotFound" in there.stderr


def test_page_of_the_same_site_and_a_followed_link_are_served(lab, proxy):
    alice = address_of(lab, "alice")
    ours = [("Sec-Fetch-Site", "same-origin"), ("Origin", "http://localhost:8001")]
    link = [*FOREIGN, ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]
    for headers in (ours, link):
        assert ask(lab, proxy, alice, MAPS, headers).status == 200
