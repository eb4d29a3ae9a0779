"""What a context of a person's kubeconfig says."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest
import yaml

from tailproxy.client.access import Access, read_access
from tailproxy.schema import ConfigError


def write(path: Path, *, cluster=None, user=None, context=None, **changes) -> Path:
    document = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", **(context or {})}}],
        "clusters": [
            {"name": "c", "cluster": {"server": "https://kube.ts.net/", **(cluster or {})}}
        ],
        "users": [{"name": "u", "user": user or {}}],
        **changes,
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "config"


def refusal(*files: Path, context: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read_access(files, context)
    return str(caught.value)


def test_least_that_a_context_says(file):
    assert read_access([write(file)], None) == Access("here", "https://kube.ts.net")


def test_everything_that_a_context_says(file):
    cluster = {
        "certificate-authority-data": b64encode(b"PEM").decode(),
        "tls-server-name": "other.ts.net",
        "insecure-skip-tls-verify": True,
        "proxy-url": "http://127.0.0.1:1055",
    }
    write(file, cluster=cluster, user={"token": "hush"}, context={"namespace": "apps"})
    found = read_access([file], None)
    assert found == Access(
        "here",
        "https://kube.ts.net",
        "apps",
        "PEM",
        "other.ts.net",
        True,
        "http://127.0.0.1:1055",
        "hush",
    )
    assert "hush" not in repr(found)


def test_files_are_named_relative_to_the_kubeconfig(tmp_path):
    file = write(
        tmp_path / "folder" / "config",
        cluster={"certificate-authority": "ca.pem"},
        user={"tokenFile": "token", "token": "older"},
    )
    (file.parent / "ca.pem").write_text("PEM")
    (file.parent / "token").write_text("fresh\n")
    found = read_access([file], None)
    assert (found.ca, found.token) == ("PEM", "fresh")


def test_the_first_of_several_files_counts(tmp_path):
    first = write(tmp_path / "1", cluster={"server": "https://first"})
    second = write(tmp_path / "2", cluster={"server": "https://second"})
    missing = tmp_path / "0"
    assert read_access([missing, first, second], None).server == "https://first"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"current-context": ""}, "no current-context; name one with --context"),
        ({"cluster": {"server": "kube.ts.net"}}, "wanted https://HOST"),
        ({"cluster": {"server": None}}, "wanted https://HOST"),
        ({"cluster": {"proxy-url": "socks5://127.0.0.1:1055"}}, "another scheme than http"),
        ({"cluster": {"certificate-authority-data": "?"}}, "is not PEM in base64"),
        ({"cluster": {"certificate-authority": "gone"}}, "cannot read"),
        ({"user": {"tokenFile": "gone"}}, "No such file"),
        ({"user": {"token": 7}}, "token is not a string"),
    ],
)
def test_what_cannot_be_used_is_named(file, changes, message):
    found = refusal(write(file, **changes))
    assert message in found
    assert found.startswith(str(file))


def test_a_file_that_is_not_there_is_named_with_the_next_step(file):
    assert refusal(file).endswith("name one with --kubeconfig or KUBECONFIG")


def test_a_context_that_is_not_there_is_named_with_those_that_are(file):
    assert "no context 'there'; there is here" in refusal(write(file), context="there")
