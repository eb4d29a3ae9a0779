"""Kubeconfig files and the way in that they describe."""

from base64 import b64encode
from pathlib import Path

import pytest
import yaml
from twisted.internet.task import Clock

from tailproxy.errors import UpstreamError
from tailproxy.kube.kubeconfig import kubeconfig_access
from tailproxy.kube.plugin import PluginCredential
from tailproxy.kubeconfig import DEFAULT, kubeconfig_paths
from tailproxy.schema import ConfigError
from tests.kube.tls import client_pair, handshake, pem, server_context
from tests.proxy.servers import Authority

AUTHORITY = Authority()
CA = b64encode(AUTHORITY.pem).decode()
SERVER = "https://api.example.com:6443/k8s/clusters/c-1/"


def write(path: Path, *, cluster=None, user=None, **changes) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u"}},
            {"name": "nobody", "context": {"cluster": "c"}},
        ],
        "clusters": [
            {
                "name": "c",
                "cluster": cluster or {"server": SERVER, "certificate-authority-data": CA},
            }
        ],
        "users": [{"name": "u", "user": user or {"token": "abc"}}],
        **changes,
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "config"


def access(*files, context=None, anonymous=False, clock=None):
    return kubeconfig_access(files, context, clock or Clock(), anonymous=anonymous)


def refusal(*files, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        access(*files, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_server_and_path_prefix_come_from_the_url(file):
    found = access(write(file))
    assert (found.host, found.port) == ("api.example.com", 6443)
    assert found.prefix == b"/k8s/clusters/c-1"
    assert found.server_name == "api.example.com"
    assert found.bearer() == b"abc"


@pytest.mark.parametrize(
    ("server", "host", "port", "prefix"),
    [
        ("https://10.0.0.1", "10.0.0.1", 443, b""),
        ("https://[fd00::1]:6443/", "fd00::1", 6443, b""),
    ],
)
def test_a_server_may_be_an_address(file, server, host, port, prefix):
    found = access(write(file, cluster={"server": server}))
    assert (found.host, found.port, found.prefix) == (host, port, prefix)
    assert found.server_name == host


def test_the_certificates_name_may_be_another_than_the_servers(file):
    cluster = {"server": SERVER, "tls-server-name": "kubernetes.default"}
    assert access(write(file, cluster=cluster)).server_name == "kubernetes.default"


def test_the_ca_may_be_data_or_a_file_beside_the_kubeconfig(file):
    server = server_context(AUTHORITY, "api.example.com")
    handshake(access(write(file)).tls_context(), server)
    (file.parent / "ca.pem").write_bytes(AUTHORITY.pem)
    cluster = {"server": SERVER, "certificate-authority": "ca.pem"}
    handshake(access(write(file, cluster=cluster)).tls_context(), server)


@pytest.mark.parametrize(
    ("cluster", "parts"),
    [
        (
            {"server": SERVER, "insecure-skip-tls-verify": True},
            ["cluster 'c'", "insecure-skip-tls-verify", "certificate-authority-data"],
        ),
        ({"server": "http://api.example.com"}, ["http://api.example.com", "wanted https://"]),
        ({"server": "https://"}, ["wanted https://"]),
        ({"server": "https://h:port"}, ["bad port"]),
        ({"server": "https://u:p@h"}, ["more than"]),
        ({"certificate-authority": "x"}, ["wanted https://"]),
        ({"server": 5}, ["server is not a string"]),
        ({"server": SERVER, "proxy-url": "http://p"}, ["proxy-url"]),
        ({"server": SERVER, "certificate-authority-data": "%"}, ["not base64"]),
        ({"server": SERVER, "certificate-authority-data": "AAAA"}, ["no certificate in PEM"]),
    ],
)
def test_a_cluster_that_cannot_be_verified_is_refused(file, cluster, parts):
    message = refusal(write(file, cluster=cluster))
    assert message.startswith(f"{file}: ")
    for part in parts:
        assert part in message


def test_a_token_file_is_read_again(file):
    clock = Clock()
    (file.parent / "tok").write_text("one")
    found = access(write(file, user={"tokenFile": "tok", "token": "stale"}), clock=clock)
    assert found.bearer() == b"one"
    (file.parent / "tok").write_text("two")
    clock.advance(60)
    assert found.bearer() == b"two"


def test_a_client_certificate_may_be_data(file):
    chain, key = client_pair(AUTHORITY, "proxy")
    user = {
        "client-certificate-data": b64encode(chain).decode(),
        "client-key-data": b64encode(key).decode(),
    }
    found = access(write(file, user=user))
    _, server = handshake(found.tls_context(), server_context(AUTHORITY, "api.example.com"))
    assert pem(server.get_peer_certificate().to_cryptography()) == chain


def test_a_client_certificate_file_that_is_missing_is_an_error_at_use(file):
    found = access(write(file, user={"client-certificate": "no.crt", "client-key": "no.key"}))
    with pytest.raises(UpstreamError, match=r"no\.crt: No such file"):
        found.tls_context()


@pytest.mark.parametrize(
    ("user", "part"),
    [
        ({"username": "a", "password": "hunter2"}, "use a token"),
        ({"client-certificate": "a"}, "only one of client-certificate and client-key"),
        ({"client-key-data": "%", "client-certificate": "a"}, "not base64"),
        ({"token": "two words"}, "something else than a token"),
    ],
)
def test_a_user_that_cannot_log_in_is_refused_without_telling_secrets(file, user, part):
    message = refusal(write(file, user=user))
    assert part in message
    assert "hunter2" not in message
    assert "two words" not in message


@pytest.mark.parametrize(
    "user", [{"exec": {"command": "x"}}, {"auth-provider": {"name": "oidc", "config": {}}}]
)
def test_other_ways_to_log_in_are_left_to_a_program(file, user):
    found = access(write(file, user=user))
    assert [type(service) for service in found] == [PluginCredential]
    with pytest.raises(UpstreamError, match="has not answered yet"):
        found.bearer()


@pytest.mark.parametrize("user", [{"token": "abc"}, {"exec": {"command": "x"}}])
def test_noauth_mode_drops_the_credential_and_keeps_the_server(file, user):
    found = access(write(file, user=user), anonymous=True)
    assert found.bearer() is None
    assert list(found) == []
    handshake(found.tls_context(), server_context(AUTHORITY, "api.example.com"))


def test_the_context_can_be_chosen(file):
    found = access(write(file), context="nobody")
    assert found.bearer() is None


def test_a_context_that_is_not_there_is_named_with_those_that_are(file):
    message = refusal(write(file), context="there")
    assert "no context 'there'; there is here, nobody" in message


def test_without_a_current_context_one_must_be_chosen(file):
    message = refusal(write(file, **{"current-context": ""}))
    assert "Tailproxy.Upstream.Context" in message


def test_a_cluster_that_is_not_there_is_named(file):
    message = refusal(write(file, clusters=[]))
    assert "no cluster 'c'; there is none" in message


def test_of_several_files_the_first_entry_counts(tmp_path):
    first = write(
        tmp_path / "first", clusters=[], users=[{"name": "u", "user": {"token": "first"}}]
    )
    second = write(tmp_path / "second", **{"current-context": "nobody"})
    found = access(first, second)
    assert found.bearer() == b"first"
    assert found.host == "api.example.com"


def test_files_of_the_list_that_are_missing_are_passed_over(tmp_path):
    found = access(tmp_path / "missing", write(tmp_path / "there"))
    assert found.bearer() == b"abc"


def test_when_no_file_is_there_the_next_step_is_named(tmp_path):
    message = refusal(tmp_path / "missing")
    assert message.startswith(f"{tmp_path / 'missing'}: ")
    assert "Tailproxy.Upstream.Kubeconfig" in message


@pytest.mark.parametrize("text", ["a: [", "- a", "just text", ""])
def test_a_file_that_is_no_kubeconfig_is_refused(file, text):
    file.write_text(text)
    assert str(file) in refusal(file)


def test_the_error_in_a_yaml_file_has_its_line(file):
    file.write_text("a: 1\nb: [")
    assert refusal(file).startswith(f"{file}:2:")


def test_the_files_are_the_configured_one_or_kubeconfigs_or_the_home_folders():
    environment = {"KUBECONFIG": "/a:/b:"}
    assert kubeconfig_paths(Path("/c"), environment) == [Path("/c")]
    assert kubeconfig_paths(None, environment) == [Path("/a"), Path("/b")]
    assert kubeconfig_paths(None, {}) == [DEFAULT.expanduser()]
