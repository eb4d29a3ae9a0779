"""The `tailnet` kind: on the node's own addresses, where the socket's peer is the caller.

It takes a tailscaled with a kernel network interface, which only the real node's namespace allows.
"""

from __future__ import annotations

import json
import ssl
from urllib.parse import urlsplit

import pytest
from cryptography import x509

pytestmark = pytest.mark.node
HOST = "tun-proxy.lab.ts.net"
#: Port 443 of every address is the API server's in this namespace.
PORT = 8443


@pytest.fixture(scope="module")
def node(lab):
    node = lab.tailnet.add_node("tun-proxy", tags=["tag:k8s"], tun="tailscale0")
    yield node
    node.stop()


@pytest.fixture(scope="module")
def service(lab, node, proxy):
    service = lab.start_tailproxy(
        name="tailnet",
        tailproxy={
            "Listeners": [{"Kind": "tailnet", "Address": PORT, "Redirect": True}],
            "Tailscaled": {"Socket": str(node.socket)},
        },
    )
    proxy.announce()
    lab.tailnet.allow(f"tcp:{PORT}")
    yield service
    assert service.stop() == 0


def connect(lab, host: str, port: int):
    """A connection of alice's device to a port of the node."""
    url = urlsplit(lab.tailnet.nodes["alice"].http_proxy)
    sock = lab.cluster.network.connect((url.hostname, url.port), timeout=10)
    sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    answer = sock.recv(65536)
    assert b" 200 " in answer.split(b"\r\n")[0], answer
    return sock


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("caller", ["alice", "ci"])
def test_caller_is_known_by_the_address_of_the_connection(lab, caller):
    path = lab.kubeconfig(caller, f"https://{HOST}:{PORT}", lab.run / f"{caller}-tun.kubeconfig")
    done = lab.kubectl(caller, "auth", "whoami", "-o", "json", f"--kubeconfig={path}")
    assert done.returncode == 0, done.stderr
    expected = {"alice": "alice@example.com", "ci": "ci-runner.lab.ts.net"}
    assert json.loads(done.stdout)["status"]["userInfo"]["username"] == expected[caller]


@pytest.mark.usefixtures("service")
def test_clients_without_a_server_name_get_the_nodes_certificate(lab, node):
    for address in node.addresses:
        context = ssl.create_default_context(cafile=str(lab.tailnet.ca_file))
        context.check_hostname = False
        host = f"[{address}]" if ":" in address else address
        with context.wrap_socket(connect(lab, host, PORT)) as tls:
            certificate = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
            tls.sendall(b"GET /.tailproxy/whoami HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b'"user": "alice@example.com"' in tls.recv(65536)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [HOST]


@pytest.mark.usefixtures("service")
def test_port_80_leads_to_https(lab):
    with connect(lab, HOST, 80) as sock:
        sock.sendall(f"GET /api?x=1 HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 308 ")
    assert f"location: https://{HOST}:{PORT}/api?x=1\r\n".encode() in answer.lower()


def test_it_listens_on_the_nodes_addresses_only(lab, service, node):
    assert service.get_admin("/readyz")[0] == 200
    for address in ("127.0.0.1", "10.77.0.1"):
        with pytest.raises(OSError, match="refused"):
            lab.cluster.network.connect((address, PORT)).close()
    assert len(node.addresses) == 2
