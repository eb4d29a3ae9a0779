"""Our audit trail and the API server's own audit log tell of the same requests, one to one."""

from __future__ import annotations

import http.client
import json
import random
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.client import address_of, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

REQUESTS = 10_000
CLIENTS = 8
SEED = 6
AGENT = "audit-run/1"
ACCOUNT = "system:serviceaccount:tailscale:proxy"
JSON = {"Content-Type": "application/json"}
PATCH = {"Content-Type": "application/merge-patch+json"}
MAPS = "/api/v1/namespaces/default/configmaps"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
REVIEW = {
    "apiVersion": "authorization.k8s.io/v1",
    "kind": "SelfSubjectAccessReview",
    "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}},
}

#: A request: method, target, headers, body.
Asked = tuple[str, str, dict[str, str], object]


def configmap(name: str) -> dict:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}}


def conversation(dice: random.Random, client: int) -> Iterator[Asked]:
    """Requests without an end, of every kind there is."""
    pods = "/api/v1/namespaces/default/pods"
    for number in range(10**6):
        name = f"audit-{client}-{number}"
        match dice.randrange(14):
            case 0:
                yield "GET", "/api/v1/namespaces/default", {}, None
            case 1:
                yield "GET", f"{pods}?limit=5", {}, None
            case 2:
                yield "GET", f"{pods}?fieldSelector=metadata.name%3Dx&labelSelector=a%3Db", {}, None
            case 3:
                yield "GET", f"{pods}/nothing", {}, None
            case 4:
                yield "POST", MAPS, JSON, configmap(name)
                yield "PATCH", f"{MAPS}/{name}", PATCH, {"data": {"a": "c"}}
                yield "DELETE", f"{MAPS}/{name}", {}, None
            case 5:
                yield "POST", MAPS, JSON, {"apiVersion": "v1", "kind": "ConfigMap", "data": 5}
            case 6:
                yield "POST", REVIEWS, JSON, REVIEW
            case 7 if dice.random() < 0.05:  # it lasts a second
                yield "GET", f"{pods}?watch=1&timeoutSeconds=1", {}, None
            case 8:
                yield "GET", dice.choice(("/apis", "/api/v1", "/version", "/readyz")), {}, None
            case 9:
                yield "GET", dice.choice(("/nowhere", "/apis/none.example/v1/things/x")), {}, None
            case 10:
                yield "GET", f"/api/v1/namespaces/default/%70ods/{name}/", {}, None
            case 11:
                yield "GET", "/api/v1/nodes", {"Audit-ID": "planted"}, None
            case 12:
                yield "GET", "/.tailproxy/whoami", {}, None
            case _:
                yield "GET", "/api/v1/pods", {"Impersonate-User": "admin"}, None


class Run:
    """Requests of several callers over connections that are kept.

    :ivar answers: status and ID of each answer.
    """

    def __init__(self, lab, service, count: int) -> None:
        self.lab = lab
        self.service = service
        self.count = count
        self.answers: list[tuple[int, str]] = []
        # One may do everything, one may do little, and one is nobody.
        self.sources = [address_of(lab, "grace"), address_of(lab, "alice"), "100.64.99.99"]

    def go(self) -> None:
        with ThreadPoolExecutor(CLIENTS) as pool:
            for answers in pool.map(self._talk, range(CLIENTS)):
                self.answers += answers

    def _talk(self, client: int) -> list[tuple[int, str]]:
        dice = random.Random(f"{SEED} {client}")
        asked = conversation(dice, client)
        answers = []
        connection: http.client.HTTPConnection | None = None
        for number in range(self.count // CLIENTS):
            if connection is None or number % 100 == 0:
                if connection is not None:
                    connection.close()
                source = dice.choices(self.sources, (8, 3, 1))[0]
                connection = http.client.HTTPConnection("kube.example")
                connection.sock = connect(self.lab, self.service, source)
            method, target, headers, body = next(asked)
            data = None if body is None else json.dumps(body)
            connection.request(method, target, data, {"User-Agent": AGENT, **headers})
            response = connection.getresponse()
            response.read()
            answers.append((response.status, response.headers["Audit-Id"]))
            if response.will_close:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()
        return answers


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ours(path: Path) -> list[dict[str, Any]]:
    return [
        line
        for line in map(json.loads, path.read_text().splitlines())
        if line["user_agent"] == AGENT
    ]


def theirs(path: Path) -> list[dict[str, Any]]:
    """What is over, in the API server's log."""
    return [
        event
        for line in path.read_text().splitlines()
        if AGENT in line
        for event in [json.loads(line)]
        if event["stage"] == "ResponseComplete"
    ]


def told_by_us(line: dict[str, Any]) -> dict[str, Any]:
    """What both logs say of a request."""
    creates = line["verb"] == "create"
    return {
        "user": line["user"],
        "groups": {*line["groups"], "system:authenticated"},
        "address": line["address"],
        "verb": line["verb"],
        "path": line["path"],
        "code": line["status"],
        "object": tuple(line[key] for key in ("api_group", "api_version", "namespace", "resource")),
        "subresource": line["subresource"],
        # There it is taken out of the body.
        "name": None if creates else line["name"],
    }


def told_by_them(event: dict[str, Any]) -> dict[str, Any]:
    about = event.get("objectRef", {})
    creates = event["verb"] == "create"
    return {
        "user": event["impersonatedUser"]["username"],
        "groups": set(event["impersonatedUser"]["groups"]),
        "address": event["sourceIPs"][0],
        "verb": event["verb"],
        "path": event["requestURI"].partition("?")[0],
        "code": event["responseStatus"]["code"],
        "object": tuple(
            about.get(key, "") for key in ("apiGroup", "apiVersion", "namespace", "resource")
        ),
        "subresource": about.get("subresource", ""),
        "name": None if creates else about.get("name", ""),
    }


@pytest.fixture
def audited(lab, proxy):
    """A tailproxy whose audit lines go to a file."""
    path = lab.run / "audited-lines.log"
    service = lab.start_tailproxy(
        "serve",
        name="audited",
        tailproxy={"Audit": {"Sinks": [{"Kind": "file", "Path": str(path)}]}},
    )
    service.audit_file = path
    yield service
    assert service.stop() == 0, service.log.read_text()[-3000:]
    proxy.announce()


def test_lines_and_events_of_the_api_server_are_about_the_same_requests_one_to_one(lab, audited):
    run = Run(lab, audited, REQUESTS)
    run.go()
    assert len(run.answers) == REQUESTS
    until(lambda: len(ours(audited.audit_file)) == REQUESTS)
    lines = ours(audited.audit_file)
    forwarded = {line["request_id"]: line for line in lines if line["decision"] == "forward"}
    until(lambda: len(theirs(lab.cluster.audit_log)) >= len(forwarded))
    events = theirs(lab.cluster.audit_log)

    # Every request has one line, with an ID of its own that its client was told, too.
    assert sorted((line["status"], line["request_id"]) for line in lines) == sorted(run.answers)
    assert len({line["request_id"] for line in lines}) == REQUESTS
    assert all(re.fullmatch("[0-9a-f]{32}", line["request_id"]) for line in lines)
    # What went to the API server is there once, by the same ID, and nothing else is.
    assert Counter(event["auditID"] for event in events) == Counter(list(forwarded))
    # And both say the same about it.
    for event in events:
        assert event["user"]["username"] == ACCOUNT
        assert told_by_them(event) == told_by_us(forwarded[event["auditID"]])
    # It was a mixed run.
    assert Counter(line["decision"] for line in lines).keys() == {"forward", "serve", "refuse"}
    verbs = {"get", "list", "watch", "create", "patch", "delete"}
    assert verbs <= {line["verb"] for line in forwarded.values()}
    codes = {200, 201, 400, 403, 404}
    assert codes <= {line["status"] for line in forwarded.values()}
    assert len(forwarded) > REQUESTS / 2
    _, metrics = audited.get_admin("/metrics")
    assert re.findall(r"^tailproxy_audit_dropped_total\S* (\S+)$", metrics, re.MULTILINE) == ["0.0"]
