"""A certificate is swapped under open connections."""

from __future__ import annotations

import json
import ssl
import time
import uuid

import pytest

from tests.e2e.client import address_of, connect
from tests.lab import pki

WATCHES = 200


@pytest.fixture
def own_tls(lab, proxy):
    """A tailproxy that ends TLS itself, with certificates from files; and who issues them."""
    authority = pki.Authority("listener-ca")
    chain, key = authority.issue("first", names=["kube.example"]).write(lab.run, "listener")
    port = lab.ports.take()
    service = lab.start_tailproxy(
        "serve",
        name="own-tls",
        tailproxy={
            "Listeners": [{"Kind": "serve", "Address": f"127.0.0.2:{port}", "TLS": "own"}],
            "Certificates": {"Source": "files", "Chain": str(chain), "Key": str(key)},
        },
    )
    service.listeners["serve"] = ("127.0.0.2", port)
    yield service, authority
    assert service.stop() == 0
    proxy.announce()


def dial(lab, service, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = connect(lab, service, address_of(lab, "alice"))
    return context.wrap_socket(plain, server_hostname="kube.example")


def common_name(tls: ssl.SSLSocket) -> str:
    return dict(field[0] for field in tls.getpeercert()["subject"])["commonName"]


def read_until(tls: ssl.SSLSocket, word: bytes) -> None:
    data = b""
    while word not in data:
        part = tls.recv(65536)
        assert part, "the watch has ended"
        data += part


@pytest.mark.timeout(240)
def test_watches_are_held_through_a_certificate_swap(lab, own_tls):
    service, authority = own_tls
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    watches = []
    for _ in range(WATCHES):
        tls = dial(lab, service, context)
        assert common_name(tls) == "first"
        tls.sendall(
            b"GET /api/v1/namespaces/default/configmaps?watch=1&fieldSelector="
            b"metadata.name%3Dsmall HTTP/1.1\r\nHost: kube.example\r\n\r\n"
        )
        watches.append(tls)
    for tls in watches:
        read_until(tls, b"ADDED")
    # As kubelet does it: both files change at once, behind a link. Here: key first, then chain.
    second = authority.issue("second", names=["kube.example"])
    folder = lab.run / "second"
    folder.mkdir()
    chain, key = second.write(folder, "listener")
    key.replace(lab.run / "listener.key")
    chain.replace(lab.run / "listener.crt")
    start = time.monotonic()
    while True:
        tls = dial(lab, service, context)
        name = common_name(tls)
        tls.close()
        if name == "second":
            break
        assert time.monotonic() - start < 30, "the new certificate is not served"
        time.sleep(0.2)
    mark = uuid.uuid4().hex
    lab.cluster.kubectl(
        "patch", "configmap", "small", "-p", json.dumps({"metadata": {"labels": {"mark": mark}}})
    )
    for tls in watches:
        read_until(tls, mark.encode())
        tls.close()
