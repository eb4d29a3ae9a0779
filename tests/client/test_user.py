"""A user who is kept: which one, and whether that can work."""

from __future__ import annotations

import json

import pytest
import yaml

from tailproxy.client.user import kept_user
from tailproxy.schema import ConfigError
from tailproxy.wire.kubeconfig import KubeconfigError

HEAD = "apiVersion: v1\nkind: Config\n"
BOB = f"""{HEAD}current-context: lab
contexts: [{{name: lab, context: {{cluster: lab, user: bob}}}}]
users: [{{name: bob, user: {{token: secret}}}}]
"""
EVE = f"{HEAD}users: [{{name: eve, user: {{exec: {{command: a}}}}}}]\n---\nanother: document\n"


@pytest.fixture
def files(tmp_path):
    def write(*texts: str):
        paths = [tmp_path / str(number) for number in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        return paths

    return write


def test_it_is_the_current_contexts(files):
    assert kept_user(files("", "# none", BOB), None) == ("bob", "")


def test_the_current_context_is_the_first_that_is_said(files):
    other = BOB.replace("current-context: lab", "current-context: gone")
    assert kept_user(files(f"{HEAD}current-context: lab\n", other), None) == ("bob", "")


@pytest.mark.parametrize("indent", ["\t", None])
def test_files_are_read_as_kubectl_reads_them(files, indent):
    text = json.dumps(yaml.safe_load(BOB), indent=indent)
    assert kept_user(files(text), None) == ("bob", "")


def test_it_may_be_named(files):
    assert kept_user(files(EVE, BOB), "eve") == ("eve", "")


@pytest.mark.parametrize(
    ("text", "name", "kind", "why"),
    [
        ("", None, ConfigError, "no current-context; name a user with --user"),
        (BOB, "eve", ConfigError, "no user 'eve'; there is bob"),
        (BOB.replace("bob", "tailscale-auth"), None, KubeconfigError, "no credentials that could"),
        (BOB.replace("token: secret", ""), None, KubeconfigError, "'bob' has no credentials"),
    ],
)
def test_who_cannot_be_kept_is_refused(files, text, name, kind, why):
    with pytest.raises(kind, match=why):
        kept_user(files(text), name)


def test_a_client_certificate_alone_is_warned_of(files):
    text = BOB.replace("token: secret", "client-certificate: a, client-key-data: b")
    name, doubt = kept_user(files(text), None)
    assert name == "bob"
    assert "client certificate alone, which cannot pass" in doubt
