"""A PROXY header is believed only from tailscaled's serve (design rule 10)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.client import address_of
from tests.proxyheader import proxy_header

MARK = "forged-by-mallory"


def open_ports(lab) -> list[int]:
    """TCP ports that anything listens on in the lab's network."""
    pid = lab.processes["tailscaled-proxy"].pid
    ports = set()
    for table in ("tcp", "tcp6"):
        with Path(f"/proc/{pid}/net/{table}").open() as rows:
            for row in list(rows)[1:]:
                fields = row.split()
                if fields[3] == "0A":
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return sorted(ports)


def through_tailnet(lab, node, address: str, port: int, data: bytes) -> bytes:
    """What a port of a tailnet node answers to some bytes of another node."""
    url = urlsplit(node.http_proxy)
    answer = b""
    with lab.cluster.network.connect((url.hostname, url.port), timeout=3) as sock:
        try:
            host = f"[{address}]" if ":" in address else address
            sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            head = sock.recv(65536)
            if b" 200 " not in head.split(b"\r\n")[0]:
                return b""
            sock.sendall(data)
            while part := sock.recv(65536):
                answer += part
        except OSError:
            return answer
    return answer


@pytest.fixture
def forger(lab):
    """A device of mallory's from which every port of the proxy node can be reached."""
    before = lab.tailnet.policy
    node = lab.tailnet.add_node("forger", user="mallory@example.com")
    lab.tailnet.allow("*", src="mallory@example.com")
    yield node
    node.stop()
    lab.tailnet.set_policy(before)


@pytest.mark.timeout(300)
def test_forged_proxy_header_from_the_tailnet_never_becomes_an_identity(lab, proxy, forger):
    node = lab.tailnet.nodes["proxy"]
    ports = open_ports(lab)
    assert proxy.listeners["serve"][1] in ports
    assert proxy.listeners["loopback"][1] in ports
    reached = 0
    request = (
        f"GET /api/v1/namespaces/{MARK}/pods HTTP/1.1\r\nHost: kube\r\nConnection: close\r\n\r\n"
    ).encode()
    for address in node.addresses:
        for port in ports:
            answer = through_tailnet(
                lab, forger, address, port, proxy_header(address_of(lab, "alice")) + request
            )
            reached += bool(answer)
            assert b"PodList" not in answer, f"port {port} of {address}"
    assert reached, "no port was reached at all: the test shows nothing"
    users = {
        json.loads(line).get("impersonatedUser", {}).get("username")
        for line in lab.cluster.audit_log.read_text().splitlines()
        if MARK in line
    }
    assert "alice@example.com" not in users
    assert not any(
        MARK in line and "alice@example.com" in line for line in proxy.log.read_text().splitlines()
    )


@pytest.mark.node
def test_local_process_of_another_user_cannot_write_a_proxy_header(lab, proxy):
    """spec/dataplane.md 5.2: on the host itself, only tailscaled's user and root may."""
    address, port = proxy.listeners["serve"]
    request = b"GET /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: kube\r\n\r\n"
    script = (
        "import socket, sys\n"
        f"sock = socket.create_connection(({address!r}, {port}), 5)\n"
        f"sock.sendall({proxy_header(address_of(lab, 'alice')) + request!r})\n"
        "sys.stdout.buffer.write(sock.recv(65536))\n"
    )
    words = [*lab.cluster.kubectl_prefix, "/usr/bin/env", "-i", "/usr/bin/python3", "-c", script]
    own = subprocess.run(words, capture_output=True, check=False)
    assert own.stdout.startswith(b"HTTP/1.1 200 "), own.stderr
    other = subprocess.run(
        [*words[:-5], "/usr/bin/setpriv", "--reuid=65534", "--clear-groups", *words[-5:]],
        capture_output=True,
        check=False,
    )
    assert other.stdout == b""
    assert "wrong-user" in proxy.get_admin("/metrics")[1]
