from __future__ import annotations

import socket
import ssl
import threading

import pytest

from tests.lab.pki import Authority, write_cluster


def handshake(server, folder, trusted, name):
    """What a client that trusts *trusted* says to a server with this certificate; None for fine."""
    certificate, key = server.write(folder, "server")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    calling = ssl.create_default_context(cadata=trusted.certificate.decode())
    one, other = socket.socketpair()

    def serve():
        try:
            serving.wrap_socket(one, server_side=True).close()
        except (ssl.SSLError, OSError):
            one.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        calling.wrap_socket(other, server_hostname=name).close()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    finally:
        other.close()
        thread.join()
    return None


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.mark.parametrize("name", ["api.example.org", "127.0.0.1", "::1"])
def test_a_server_is_known_by_its_names_and_addresses(authority, tmp_path, name):
    server = authority.issue("api", names=["api.example.org", "127.0.0.1", "::1"])
    assert handshake(server, tmp_path, authority, name) is None


def test_a_wrong_name_is_seen(authority, tmp_path):
    server = authority.issue("api", names=["other.example.org"])
    assert "Hostname mismatch" in handshake(server, tmp_path, authority, "api.example.org")


def test_a_wrong_authority_is_seen_though_it_has_the_same_name(authority, tmp_path):
    server = Authority().issue("api", names=["api.example.org"])
    found = handshake(server, tmp_path, authority, "api.example.org")
    assert found in {"unable to get local issuer certificate", "certificate signature failure"}


def test_an_expired_certificate_is_seen(authority, tmp_path):
    server = authority.issue_expired("api", names=["api.example.org"])
    found = handshake(server, tmp_path, authority, "api.example.org")
    assert found == "certificate has expired"


def test_private_keys_are_their_owners_alone(tmp_path):
    write_cluster(tmp_path, ["10.77.0.1"])
    names = {path.name for path in tmp_path.iterdir()}
    assert {"ca.crt", "apiserver.crt", "kubelet.key", "admin.key", "sa.key", "sa.pub"} <= names
    for path in tmp_path.glob("*.key"):
        assert path.stat().st_mode & 0o777 == 0o600, path.name
