"""The way to the API server that a kubeconfig file describes.

What the file says in so many words is read here. Logging in by a program or with OpenID Connect is
left to the `kubernetes` client, in a process of its own (`tailproxy.kube.plugin`).

The file is read once, at start; the files it names are read again while we run.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tailproxy.kube.access import ClusterAccess, Server
from tailproxy.kube.credentials import (
    Anonymous,
    Certificate,
    Credential,
    Token,
    certificates,
    private_key,
    token,
)
from tailproxy.kube.files import Constant, Content, WatchedFile
from tailproxy.kube.plugin import PluginCredential, login_command
from tailproxy.kubeconfig import Kubeconfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tailproxy.kubeconfig import Entry

# Ways to log in that only the `kubernetes` client knows.
_BY_PROGRAM = ("exec", "auth-provider")


def kubeconfig_access(
    paths: Sequence[Path], context: str | None, reactor: Any, *, anonymous: bool
) -> ClusterAccess:
    """The way in that kubeconfig files describe (spec/dataplane.md 1.12).

    :param paths: the files; of entries with the same name the first counts.
    :param context: its name; the files' current one if None.
    :param reactor: for reading files anew and for running programs.
    :param anonymous: without our own credential: `noauth` mode.
    :raises ConfigError: the files, or what they name, cannot be used.
    """
    files = Kubeconfig(
        paths,
        "outside a cluster name one with Tailproxy.Upstream.Kubeconfig",
        "choose one with Tailproxy.Upstream.Context",
    )
    name = context or files.current_context()
    chosen = files.entry("context", name)
    cluster = files.entry("cluster", chosen.text("cluster"))
    user = chosen.text("user")
    credential: Credential = Anonymous()
    if user and not anonymous:
        credential = _credential(files.entry("user", user), paths, name, reactor)
    ca = _content(cluster, "certificate-authority", certificates, reactor)
    return ClusterAccess(_server(cluster), ca, credential)


def _server(cluster: Entry) -> Server:
    url = cluster.text("server")
    parts = urlsplit(url)
    try:
        port = parts.port or 443
    except ValueError:
        raise cluster.wrong(f"server {url!r} has a bad port") from None
    if parts.scheme != "https" or not parts.hostname:
        raise cluster.wrong(f"server is {url!r}, wanted https://HOST[:PORT][/PREFIX]")
    if parts.query or parts.fragment or parts.username:
        raise cluster.wrong("server has more than https://HOST[:PORT][/PREFIX]")
    if cluster.body.get("insecure-skip-tls-verify"):
        raise cluster.wrong(
            "insecure-skip-tls-verify is set, but the API server is always verified here; put its"
            " CA into certificate-authority-data instead"
        )
    if cluster.body.get("proxy-url"):
        raise cluster.wrong("proxy-url is set, but there is no support for a proxy to the server")
    name = cluster.text("tls-server-name") or parts.hostname
    return Server(parts.hostname, port, parts.path.rstrip("/").encode(), name)


def _credential(user: Entry, paths: Sequence[Path], context: str, reactor: Any) -> Credential:
    if user.body.get("username") or user.body.get("password"):
        raise user.wrong("has a password, which API servers no longer accept; use a token")
    chain = _content(user, "client-certificate", certificates, reactor)
    key = _content(user, "client-key", private_key, reactor)
    if (chain is None) != (key is None):
        raise user.wrong("has only one of client-certificate and client-key")
    if user.text("tokenFile"):
        return Token(WatchedFile(user.file.parent / user.text("tokenFile"), reactor, token))
    if user.text("token"):
        return Token(_constant(user, "token", user.text("token").encode(), token))
    if chain is not None and key is not None:
        return Certificate(chain, key)
    if any(user.body.get(way) for way in _BY_PROGRAM):
        return PluginCredential(reactor, login_command(paths, context))
    return Anonymous()


def _content(
    entry: Entry, key: str, check: Callable[[bytes], object], reactor: Any
) -> Content | None:
    """What is in the entry as `KEY-data` in base64, or in the file `KEY`."""
    data = entry.text(f"{key}-data")
    if data:
        try:
            content = b64decode(data, validate=True)
        except binascii.Error:
            raise entry.wrong(f"{key}-data is not base64") from None
        return _constant(entry, f"{key}-data", content, check)
    file = entry.text(key)
    return WatchedFile(entry.file.parent / file, reactor, check) if file else None


def _constant(entry: Entry, key: str, content: bytes, check: Callable[[bytes], object]) -> Content:
    try:
        check(content)
    except ValueError as error:
        raise entry.wrong(f"{key}: {error}") from None
    return Constant(content)
