"""The way to the API server in a pod, with real certificates and files."""

import pytest
from OpenSSL import SSL
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from tailproxy.errors import UpstreamError
from tailproxy.interfaces import IClusterAccess
from tailproxy.kube.access import ClusterAccess, Server, in_cluster, pod_access
from tailproxy.kube.credentials import Anonymous, Certificate
from tailproxy.kube.files import Constant, WatchedFile
from tests.kube.tls import client_pair, handshake, pem, server_context
from tests.proxy.servers import Authority

ENVIRONMENT = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
SERVER = Server("10.96.0.1", 443, b"", "10.96.0.1")


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def folder(tmp_path, authority):
    (tmp_path / "token").write_bytes(b"our-token\n")
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    return tmp_path


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(folder, clock) -> ClusterAccess:
    return pod_access(clock, anonymous=False, environment=ENVIRONMENT, folder=folder)


@pytest.mark.parametrize(
    ("environment", "answer"),
    [
        (ENVIRONMENT, True),
        ({}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, False),
        ({**ENVIRONMENT, "KUBERNETES_SERVICE_HOST": ""}, False),
    ],
)
def test_a_pod_is_known_by_its_environment(environment, answer):
    assert in_cluster(environment) == answer


def test_a_pod_finds_the_api_server_by_its_environment(access):
    verifyObject(IClusterAccess, access)
    assert (access.host, access.port, access.prefix) == ("10.96.0.1", 443, b"")
    assert access.server_name == "10.96.0.1"
    assert access.bearer() == b"our-token"


def test_a_server_of_the_clusters_ca_is_accepted(access, authority):
    client, _ = handshake(access.tls_context(), server_context(authority, "10.96.0.1"))
    assert client.get_protocol_version() >= SSL.TLS1_2_VERSION
    assert client.get_alpn_proto_negotiated() == b"http/1.1"


def test_a_server_of_another_ca_is_refused(access):
    with pytest.raises(SSL.Error, match="certificate verify failed"):
        handshake(access.tls_context(), server_context(Authority(), "10.96.0.1"))


def test_a_server_whose_certificate_is_out_of_date_is_refused(access, authority):
    with pytest.raises(SSL.Error, match="certificate verify failed"):
        handshake(access.tls_context(), server_context(authority, "10.96.0.1", days=-1))


def test_a_server_that_knows_only_tls_1_1_is_refused(access, authority):
    server = server_context(authority, "10.96.0.1")
    server.set_cipher_list(b"ALL:@SECLEVEL=0")
    server.set_min_proto_version(SSL.TLS1_1_VERSION)
    server.set_max_proto_version(SSL.TLS1_1_VERSION)
    with pytest.raises(SSL.Error):
        handshake(access.tls_context(), server)


def test_the_context_stays_the_same_until_the_ca_changes(access, authority, folder, clock):
    first = access.tls_context()
    clock.advance(60)
    assert access.tls_context() is first
    other = Authority()
    (folder / "ca.crt").write_bytes(other.pem)
    clock.advance(60)
    second = access.tls_context()
    assert second is not first
    handshake(second, server_context(other, "10.96.0.1"))
    with pytest.raises(SSL.Error):
        handshake(second, server_context(authority, "10.96.0.1"))


def test_a_ca_file_that_is_broken_leaves_the_last_good_one(access, folder, clock):
    first = access.tls_context()
    (folder / "ca.crt").write_bytes(b"half a ")
    clock.advance(60)
    assert access.tls_context() is first


def test_without_a_ca_nothing_is_trusted(folder, clock):
    (folder / "ca.crt").unlink()
    access = pod_access(clock, anonymous=False, environment=ENVIRONMENT, folder=folder)
    with pytest.raises(UpstreamError, match=r"no CA certificate.*ca\.crt") as caught:
        access.tls_context()
    assert caught.value.code == 503


def test_without_a_token_there_is_no_request(folder, clock):
    (folder / "token").unlink()
    access = pod_access(clock, anonymous=False, environment=ENVIRONMENT, folder=folder)
    with pytest.raises(UpstreamError, match=r"no token.*No such file") as caught:
        access.bearer()
    assert caught.value.code == 503
    (folder / "token").write_bytes(b"late")
    clock.advance(1)
    assert access.bearer() == b"late"


def test_a_rejected_token_is_read_anew_at_once(access, folder):
    access.bearer()
    (folder / "token").write_bytes(b"rotated")
    assert access.bearer() == b"our-token"
    access.rejected()
    assert access.bearer() == b"rotated"


def test_noauth_mode_has_no_credential_of_its_own(folder, clock, authority):
    access = pod_access(clock, anonymous=True, environment=ENVIRONMENT, folder=folder)
    assert access.bearer() is None
    _, server = handshake(access.tls_context(), server_context(authority, "10.96.0.1"))
    assert server.get_peer_certificate() is None


def test_a_client_certificate_is_shown_to_the_server(authority):
    chain, key = client_pair(authority, "proxy")
    access = ClusterAccess(
        SERVER, Constant(authority.pem), Certificate(Constant(chain), Constant(key))
    )
    _, server = handshake(access.tls_context(), server_context(authority, "10.96.0.1"))
    assert pem(server.get_peer_certificate().to_cryptography()) == chain
    assert access.bearer() is None


def test_a_renewed_client_certificate_makes_a_new_context(authority, tmp_path, clock):
    paths = tmp_path / "crt", tmp_path / "key"
    for path, content in zip(paths, client_pair(authority, "old"), strict=True):
        path.write_bytes(content)
    credential = Certificate(*(WatchedFile(path, clock, lambda _: None) for path in paths))
    access = ClusterAccess(SERVER, Constant(authority.pem), credential)
    first = access.tls_context()
    chain, key = client_pair(authority, "new")
    paths[0].write_bytes(chain)
    clock.advance(60)
    assert access.tls_context() is first, "the files do not belong together yet"
    paths[1].write_bytes(key)
    clock.advance(60)
    _, server = handshake(access.tls_context(), server_context(authority, "10.96.0.1"))
    assert pem(server.get_peer_certificate().to_cryptography()) == chain


def test_a_certificate_with_anothers_key_is_no_credential(authority):
    chain, _ = client_pair(authority, "a")
    _, key = client_pair(authority, "b")
    access = ClusterAccess(
        SERVER, Constant(authority.pem), Certificate(Constant(chain), Constant(key))
    )
    with pytest.raises(UpstreamError, match="another one's"):
        access.tls_context()


def test_without_a_ca_of_its_own_the_systems_are_trusted(authority):
    access = ClusterAccess(SERVER, None, Anonymous())
    with pytest.raises(SSL.Error, match="certificate verify failed"):
        handshake(access.tls_context(), server_context(authority, "10.96.0.1"))
