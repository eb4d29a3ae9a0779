"""The way to the API server that a kubeconfig file describes.

What the file says in so many words is read here. Logging in by a program or with OpenID Connect is
left to the `kubernetes` client, in a process of its own (`tailproxy.kube.plugin`).

The file is read once, at start; the files it names are read again while we run.
"""

from __future__ import annotations

import binascii
import os
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import attrs
import yaml

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
from tailproxy.schema import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DEFAULT = Path("~/.kube/config")
# Ways to log in that only the `kubernetes` client knows.
_BY_PROGRAM = ("exec", "auth-provider")


@attrs.frozen
class _Entry:
    """One named entry and the file it is in, to which its paths are relative."""

    file: Path
    section: str
    name: str
    body: Mapping[str, Any]

    def wrong(self, message: str) -> ConfigError:
        return ConfigError(str(self.file), f"{self.section} {self.name!r}: {message}")

    def text(self, key: str) -> str:
        value = self.body.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.wrong(f"{key} is not a string")
        return value


def kubeconfig_paths(
    configured: Path | None, environment: Mapping[str, str] = os.environ
) -> list[Path]:
    """The files to read: the configured one, those of KUBECONFIG, or the one in the home folder."""
    if configured is not None:
        return [configured]
    named = [Path(part) for part in environment.get("KUBECONFIG", "").split(os.pathsep) if part]
    return named or [DEFAULT.expanduser()]


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
    files = _Files(paths)
    name = context or files.current_context()
    chosen = files.entry("context", name)
    cluster = files.entry("cluster", chosen.text("cluster"))
    user = chosen.text("user")
    credential: Credential = Anonymous()
    if user and not anonymous:
        credential = _credential(files.entry("user", user), paths, name, reactor)
    ca = _content(cluster, "certificate-authority", certificates, reactor)
    return ClusterAccess(_server(cluster), ca, credential)


class _Files:
    """Kubeconfig files, merged."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        # As kubectl does, pass over those that are not there as long as one is.
        present = [path for path in paths if path.exists()] or list(paths[:1])
        self._documents = [(path, _document(path)) for path in present]

    def _wrong(self, message: str) -> ConfigError:
        return ConfigError(os.pathsep.join(map(str, self._paths)), message)

    def current_context(self) -> str:
        for _, document in self._documents:
            if document.get("current-context"):
                return str(document["current-context"])
        raise self._wrong("no current-context; choose one with Tailproxy.Upstream.Context")

    def entry(self, section: str, name: str) -> _Entry:
        names = []
        for path, document in self._documents:
            for item in document.get(f"{section}s") or ():
                if isinstance(item, dict):
                    names.append(str(item.get("name")))
                    if item.get("name") == name:
                        return _Entry(path, section, name, item.get(section) or {})
        known = ", ".join(names) or "none"
        raise self._wrong(f"no {section} {name!r}; there is {known}")


def _document(path: Path) -> Mapping[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            str(path),
            f"cannot read the kubeconfig: {error.strerror}; outside a cluster name one with"
            " Tailproxy.Upstream.Kubeconfig",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
        raise ConfigError(str(path), "the kubeconfig is not YAML", line=line, column=1) from None
    if not isinstance(document, dict):
        raise ConfigError(str(path), "the kubeconfig is not a YAML object")
    return document


def _server(cluster: _Entry) -> Server:
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


def _credential(user: _Entry, paths: Sequence[Path], context: str, reactor: Any) -> Credential:
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
    entry: _Entry, key: str, check: Callable[[bytes], object], reactor: Any
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


def _constant(entry: _Entry, key: str, content: bytes, check: Callable[[bytes], object]) -> Content:
    try:
        check(content)
    except ValueError as error:
        raise entry.wrong(f"{key}: {error}") from None
    return Constant(content)
