"""What becomes of a request, without sending it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tailproxy.client.explain import explain, read_line
from tailproxy.policy.decide import ClientImpersonation, Mode, Rules
from tailproxy.policy.grants import CAPABILITY
from tailproxy.policy.identity import Caller, identify
from tests.policy.whois import groups, tagged, user

CALLER = Caller(ip_address("100.64.0.5"), 0, "svc:kube")
RECORDED = {"recorderAddrs": ["100.70.0.1:80"]}
EXEC = (b"POST", b"/api/v1/namespaces/default/pods/web-1/exec?command=sh")


def explained(answer=None, line=(b"GET", b"/api"), headers=(), *, bearer=True, **rules):
    answer = answer or user("ada@corp.example", groups("dev"))
    return explain(
        identify(answer), CALLER, Rules(**rules), line, headers, b"api:6443", bearer=bearer
    )


def test_what_would_be_sent_is_shown_without_secrets():
    found = explained(headers=[(b"Accept", b"a/b"), (b"Authorization", b"Bearer mine")])
    assert found.decision == "goes on to the API server, where RBAC decides"
    assert found.sent == (
        ("Host", "api:6443"),
        ("Accept", "a/b"),
        ("X-Forwarded-For", "100.64.0.5"),
        ("Impersonate-Group", "dev"),
        ("Impersonate-User", "ada@corp.example"),
        ("Authorization", "Bearer (tailproxy's own token)"),
        ("Audit-ID", "(new for each request)"),
    )


def test_with_a_client_certificate_no_token_is_sent():
    assert "Authorization" not in dict(explained(bearer=False).sent)


def test_in_noauth_mode_the_clients_own_credentials_go_on_masked():
    headers = [(b"Authorization", b"Bearer mine"), (b"Cookie", b"a=b")]
    found = explained(headers=headers, mode=Mode.NOAUTH)
    assert dict(found.sent) == {
        "Host": "api:6443",
        "Authorization": "(masked)",
        "Cookie": "(masked)",
        "X-Forwarded-For": "100.64.0.5",
        "Audit-ID": "(new for each request)",
    }
    assert "mine" not in str(found.as_json())


def test_kubectl_as_is_refused_as_the_proxy_does():
    headers = [(b"Impersonate-User", b"bob")]
    found = explained(headers=headers)
    assert found.decision.startswith("refused with 403 (client-impersonation): Impersonate-User is")
    assert found.sent == ()
    strip = explained(headers=headers, client_impersonation=ClientImpersonation.STRIP)
    assert dict(strip.sent)["Impersonate-User"] == "ada@corp.example"


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ((b"GET", b"/api"), "get /api"),
        ((b"GET", b"/api/v1/nodes"), "list nodes"),
        (EXEC, "create pods/exec web-1 in the namespace default"),
        (
            (b"PATCH", b"/apis/apps/v1/namespaces/a/deployments/b"),
            "patch deployments.apps b in the namespace a",
        ),
    ],
)
def test_a_request_is_said_in_the_words_of_rbac(line, meaning):
    assert explained(line=line).meaning == meaning


@pytest.mark.parametrize(
    ("rule", "line", "recording", "goes_on"),
    [
        ({}, EXEC, "no: no rule asks for it", True),
        (RECORDED, EXEC, "yes, at the first of ", True),
        (RECORDED, (b"GET", b"/api"), "no: a rule asks for it, but not for such requests", True),
        ({**RECORDED, "enforceRecorder": True}, EXEC, "yes, at the first of ", True),
        ({"enforceRecorder": True}, (b"GET", b"/api"), "no: it does not run", False),
    ],
)
def test_recording_is_said(rule, line, recording, goes_on):
    found = explained(user("ada@corp.example", rule), line)
    assert found.recording.startswith(recording)
    assert (found.sent != ()) is goes_on


def test_own_pages_are_answered_here():
    for path in (b"/.tailproxy", b"/.tailproxy/whoami"):
        found = explained(line=(b"GET", path))
        assert (found.outcome, found.sent) == (None, ())
        assert found.as_json()["decision"] == "answer"
    assert explained(line=(b"GET", b"/.tailproxyx")).sent


def test_no_proper_request_is_refused_as_the_proxy_does():
    found = explained(line=(b"TRACE", b"/x"))
    assert found.decision == "refused with 405 (malformed-request): TRACE is not served"


def test_a_name_that_cannot_be_sent_is_refused_as_the_proxy_does():
    found = explained(user("ada ", groups("dev")))
    assert "(invalid-identity)" in found.decision


def test_programs_get_all_of_it():
    found = explained(tagged(), EXEC).as_json()
    assert found["caller"]["groupsFrom"] == "tags"
    assert found["caller"]["service"] == "svc:kube"
    assert (found["decision"], found["session"], found["refusal"]) == ("forward", "exec", None)
    assert found["request"] == "POST /api/v1/namespaces/default/pods/web-1/exec?command=sh"
    refused = explained(line=(b"TRACE", b"/x")).as_json()
    assert (refused["decision"], refused["headers"]) == ("refuse", [])
    assert refused["refusal"]["label"] == "malformed-request"


def test_rules_say_where_they_stand():
    [rule] = explained().as_json()["caller"]["rules"]
    assert (rule["capability"], rule["rule"], rule["grantedOn"]) == (CAPABILITY, 1, "node")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["GET", "/api"], (b"GET", b"/api")),
        (["delete", "/api/v1/x"], (b"DELETE", b"/api/v1/x")),
        (["POST /api HTTP/1.1"], (b"POST", b"/api")),
        (["/api"], (b"GET", b"/api")),
    ],
)
def test_a_request_line_is_read_as_people_type_it(words, line):
    assert read_line(words) == line


@pytest.mark.parametrize(
    "words", [["GET"], ["GET", "api"], ["a", "/b", "c"], [""], ["/a", "/b", "/c"]]
)
def test_what_is_none_is_refused(words):
    with pytest.raises(ValueError, match="wanted METHOD PATH"):
        read_line(words)
