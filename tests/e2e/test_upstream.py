"""The API server is verified, and its absence is told."""

from __future__ import annotations

import time

import pytest

from tests.e2e.client import address_of, ask
from tests.e2e.spy import Spy, upstream
from tests.lab import pki


def start_with_upstream(lab, name, port, ca: bytes):
    """A tailproxy of its own whose API server is somebody we made up."""
    return lab.start_tailproxy(
        "serve", name=name, tailproxy={"Upstream": upstream(lab, name, port, ca)}, ready="/livez"
    )


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("wrong-name", "its certificate is not for 127.0.0.1"),
        ("wrong-ca", "its certificate is not valid"),
        ("expired", "it has expired"),
    ],
)
def test_api_server_is_verified_on_every_path(lab, proxy, case, says):
    """Design rule 9: 502, and not one byte of the request leaves."""
    authority = pki.Authority("upstream-ca")
    pair = {
        "wrong-name": lambda: authority.issue("other", names=["other.example", "127.0.0.9"]),
        "wrong-ca": lambda: pki.Authority("upstream-ca").issue("x", names=["127.0.0.1"]),
        "expired": lambda: authority.issue_expired("x", names=["127.0.0.1"]),
    }[case]()
    with Spy(lab.cluster.network, pair, lab.run, f"spy-{case}") as spy:
        service = start_with_upstream(lab, f"bad-{case}", spy.port, authority.certificate)
        try:
            answer = ask(lab, service, address_of(lab, "alice"), "/api/v1/namespaces/x/pods")
            assert answer.status == 502
            assert says in answer.json["message"]
            status, text = service.get_admin("/readyz?verbose")
            assert status == 503
            assert says in text
        finally:
            assert service.stop() == 0
            proxy.announce()
        assert spy.received == 0


def test_api_server_with_the_right_certificate_gets_the_request(lab, proxy):
    """The counterpart: what the cases above refuse is not refused for another reason."""
    authority = pki.Authority("upstream-ca")
    pair = authority.issue("x", names=["127.0.0.1"])
    with Spy(lab.cluster.network, pair, lab.run, "spy-good") as spy:
        service = start_with_upstream(lab, "good", spy.port, authority.certificate)
        try:
            answer = ask(lab, service, address_of(lab, "alice"), "/api/v1/namespaces/x/pods")
            assert answer.status == 200
            assert any(b"GET /api/v1/namespaces/x/pods" in head for head in spy.requests)
        finally:
            assert service.stop() == 0
            proxy.announce()


def test_api_server_that_is_down_is_told_and_found_again(lab, proxy):
    address = address_of(lab, "alice")
    path = "/api/v1/namespaces/default/pods"
    assert ask(lab, proxy, address, path).status == 200
    lab.cluster.stop_apiserver()
    try:
        answer = ask(lab, proxy, address, path)
        assert answer.status in {502, 503}
        assert answer.json["kind"] == "Status"
        done = lab.kubectl("alice", "get", "--raw", path)
        assert "cannot use the Kubernetes API server" in done.stderr
    finally:
        lab.cluster.start_apiserver()
    start = time.monotonic()
    while ask(lab, proxy, address, path).status != 200:
        assert time.monotonic() - start < 2.0
        time.sleep(0.05)


def test_tailscaled_that_is_down_is_told_within_two_seconds_and_found_again(lab, proxy):
    node = lab.tailnet.nodes["proxy"]
    address = address_of(lab, "alice")
    path = "/api/v1/namespaces/default/pods"
    assert ask(lab, proxy, address, path).status == 200
    node.stop()
    try:
        start = time.monotonic()
        answer = ask(lab, proxy, address, path)
        assert time.monotonic() - start < 2.0
        assert answer.status == 503
        assert answer.json["reason"] == "ServiceUnavailable"
        assert answer.header("Retry-After") is None
        assert proxy.get_admin("/readyz")[0] == 503
    finally:
        node.start()
        node.wait()
    start = time.monotonic()
    while ask(lab, proxy, address, path).status != 200:
        assert time.monotonic() - start < 2.0
        time.sleep(0.05)
    done = lab.kubectl("alice", "get", "pods")
    assert done.returncode == 0, done.stderr
