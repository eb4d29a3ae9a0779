"""Request events."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.events import BODY_BYTES, BodyCopy, Peer, RecordedBody, request_event
from tailproxy.wire.head import read_head

from .golden import cases

LAPTOP = Peer("laptop.tail1.ts.net", "n1CNTRL", "alice@example.com", 42)
OWN = Peer("kube.tail1.ts.net", "n9CNTRL")


def head_of(method=b"GET", target=b"/api/v1/pods?limit=5", *headers):
    return read_head(method, target, "1.1", [(b"Host", b"kube"), *headers])


def event_of(head, body=None, source=LAPTOP) -> dict:
    line = request_event(head, body or RecordedBody(), source, OWN, 1760000000)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return json.loads(line)


def test_event_has_every_key_in_order():
    agent = (b"User-Agent", b"kubectl/v1.33.3 (linux/amd64)")
    head = head_of(b"POST", b"/api/v1/namespaces/d/configmaps?dryRun=All", agent)
    event = event_of(head, RecordedBody(b"{}", 2, "unused"))
    assert list(event) == [
        "type",
        "id",
        "timestamp",
        "userAgent",
        "request",
        "kubernetes",
        "source",
        "destination",
    ]
    assert event == {
        "type": "kubernetes-api-request",
        "id": "",
        "timestamp": 1760000000,
        "userAgent": "kubectl/v1.33.3 (linux/amd64)",
        "request": {
            "method": "POST",
            "path": "/api/v1/namespaces/d/configmaps?dryRun=All",
            "body": "e30=",
            "queryParameters": {"dryRun": ["All"]},
        },
        "kubernetes": {
            "IsResourceRequest": True,
            "Path": "/api/v1/namespaces/d/configmaps",
            "Verb": "create",
            "APIPrefix": "api",
            "APIGroup": "",
            "APIVersion": "v1",
            "Namespace": "d",
            "Resource": "configmaps",
            "Subresource": "",
            "Name": "",
            "Parts": ["configmaps"],
            "FieldSelector": "",
            "LabelSelector": "",
        },
        "source": {
            "node": "laptop.tail1.ts.net",
            "nodeID": "n1CNTRL",
            "nodeUserID": 42,
            "nodeUser": "alice@example.com",
        },
        "destination": {"node": "kube.tail1.ts.net", "nodeID": "n9CNTRL"},
    }


@pytest.mark.parametrize(("request_line", "expected"), cases("requestinfo"))
def test_the_request_in_the_api_servers_words(request_line, expected):
    method, target = (part.encode() for part in request_line)
    shown = event_of(head_of(method, target))["kubernetes"]
    if expected == {"error": True}:
        assert (shown["IsResourceRequest"], shown["Parts"]) == (False, None)
    else:
        assert shown == expected


def test_tagged_node_has_its_tags_and_no_user():
    ci = Peer("ci.tail1.ts.net", "n2CNTRL", tags=("tag:ci", "tag:eu"))
    assert event_of(head_of(), source=ci)["source"] == {
        "node": "ci.tail1.ts.net",
        "nodeID": "n2CNTRL",
        "nodeTags": ["tag:ci", "tag:eu"],
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", {}),
        (b"?a=1&a=2&b", {"a": ["1", "2"], "b": [""]}),
        (b"?a=%20+x&%61=2&&", {"a": ["  x", "2"]}),
        (b"?x=1;y=2&z=%zz&ok=1", {"ok": ["1"]}),
        (b"?=v", {"": ["v"]}),
        (b"?a=%ff", {"a": ["\ufffd"]}),
    ],
)
def test_query_is_read_as_the_api_server_does(query, expected):
    event = event_of(head_of(b"GET", b"/api/v1/pods" + query))
    assert event["request"]["queryParameters"] == expected
    assert event["request"]["path"] == f"/api/v1/pods{query.decode()}"


class TestBody:
    POST = head_of(b"POST", b"/api/v1/namespaces/d/configmaps", (b"Content-Length", b"300000"))

    def shown(self, head, copy) -> dict:
        shown = event_of(head, copy.body())["request"]
        return {key: shown[key] for key in ("body", "truncated", "redacted") if key in shown}

    @given(st.lists(st.binary(max_size=50_000), max_size=6))
    def test_beginning_is_kept_however_it_comes(self, pieces):
        whole = b"".join(pieces)
        copy = BodyCopy(self.POST)
        for piece in pieces:
            copy.feed(piece)
        copy.end()
        body = copy.body()
        assert body.kept == whole[:BODY_BYTES]
        digest = hashlib.sha256(whole).hexdigest() if whole else None
        assert (body.length, body.sha256) == (len(whole), digest)
        assert body.truncated == (len(whole) > BODY_BYTES)

    def test_whole_body_has_no_mark(self):
        copy = BodyCopy(self.POST)
        copy.feed(b"{}")
        copy.end()
        assert self.shown(self.POST, copy) == {"body": "e30="}

    def test_large_body_is_marked_with_its_length_and_hash(self):
        copy = BodyCopy(self.POST)
        data = b"x" * 300_000
        copy.feed(data)
        copy.end()
        shown = self.shown(self.POST, copy)
        assert b64decode(shown["body"]) == data[:BODY_BYTES]
        digest = hashlib.sha256(data).hexdigest()
        assert shown["truncated"] == {"length": 300_000, "sha256": digest}

    def test_what_has_yet_to_come_is_known_by_its_length_alone(self):
        copy = BodyCopy(self.POST)
        assert not copy.complete
        copy.feed(b"x" * (BODY_BYTES + 1))
        assert copy.complete
        assert self.shown(self.POST, copy)["truncated"] == {"length": 300_000, "sha256": None}

    def test_of_a_body_in_chunks_not_even_that_is_known(self):
        head = head_of(b"POST", b"/x", (b"Transfer-Encoding", b"chunked"))
        copy = BodyCopy(head)
        copy.feed(b"x")
        assert not copy.complete
        assert self.shown(head, copy)["truncated"] == {"length": None, "sha256": None}

    def test_without_a_body_there_is_nothing_to_wait_for(self):
        copy = BodyCopy(head_of())
        assert copy.complete
        assert self.shown(head_of(), copy) == {"body": ""}

    @pytest.mark.parametrize(
        "target",
        [
            b"/api/v1/namespaces/d/secrets",
            b"/api/v1/namespaces/d/secrets/s",
            b"/api/v1/namespaces/d/%73ecrets/s/",
            b"/api/v1/namespaces/d/serviceaccounts/sa/token",
            b"/apis/authentication.k8s.io/v1/tokenreviews",
        ],
    )
    def test_nothing_of_a_secret_is_kept(self, target):
        head = head_of(b"PUT", target, (b"Content-Length", b"13"))
        copy = BodyCopy(head)
        assert copy.complete
        copy.feed(b"hush-hush-one")
        copy.end()
        assert b"hush" not in copy._kept
        assert self.shown(head, copy) == {"body": "", "redacted": True}
        assert copy.body().sha256 is None
