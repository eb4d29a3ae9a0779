"""The way to a proxy that a context of a person's kubeconfig describes."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

from tailproxy.kubeconfig import Kubeconfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tailproxy.kubeconfig import Entry


@attrs.frozen
class Access:
    """What is needed to reach a server and to trust it.

    :ivar context: name of the context.
    :ivar server: URL, without a final slash.
    :ivar namespace: of the context; ``default`` if it names none.
    :ivar ca: certificates that vouch for the server, PEM; ``None`` for those of the system.
    :ivar server_name: that the certificate must have; empty for the URL's.
    :ivar insecure: whether the server is not verified at all.
    :ivar proxy: URL of an HTTP proxy on the way; empty if none is named.
    :ivar token: that the context's user shows; empty if none, or by a way that is not read here.
    """

    context: str
    server: str
    namespace: str = "default"
    ca: str | None = attrs.field(default=None, repr=False)
    server_name: str = ""
    insecure: bool = False
    proxy: str = attrs.field(default="", repr=False)  # it may hold a password
    token: str = attrs.field(default="", repr=False)

    @property
    def host(self) -> str:
        """Host name or address of the server."""
        return urlsplit(self.server).hostname or ""


def read_access(paths: Sequence[Path], context: str | None) -> Access:
    """Read a context.

    :param paths: of the kubeconfig files.
    :param context: its name; the current one if None.
    :raises ConfigError: the files, or what they name, cannot be used.
    """
    files = Kubeconfig(paths, "name one with --kubeconfig or KUBECONFIG", "name one with --context")
    name = context or files.current_context()
    chosen = files.entry("context", name)
    cluster = files.entry("cluster", chosen.text("cluster"))
    server = cluster.text("server")
    if not urlsplit(server).hostname or urlsplit(server).scheme not in {"https", "http"}:
        raise cluster.wrong(f"server is {server!r}, wanted https://HOST[:PORT][/PREFIX]")
    proxy = cluster.text("proxy-url")
    if proxy and urlsplit(proxy).scheme not in {"http", "https"}:
        raise cluster.wrong(
            "proxy-url has another scheme than http or https, which this command cannot use"
        )
    user = chosen.text("user")
    return Access(
        context=name,
        server=server.rstrip("/"),
        namespace=chosen.text("namespace") or "default",
        ca=_ca(cluster),
        server_name=cluster.text("tls-server-name"),
        insecure=bool(cluster.body.get("insecure-skip-tls-verify")),
        proxy=proxy,
        token=_token(files.entry("user", user)) if user else "",
    )


def _ca(cluster: Entry) -> str | None:
    data = cluster.text("certificate-authority-data")
    if data:
        try:
            return b64decode(data, validate=True).decode("ascii")
        except (binascii.Error, UnicodeDecodeError):
            raise cluster.wrong("certificate-authority-data is not PEM in base64") from None
    file = cluster.text("certificate-authority")
    return _read(cluster, "certificate-authority", file) if file else None


def _token(user: Entry) -> str:
    file = user.text("tokenFile")
    return _read(user, "tokenFile", file).strip() if file else user.text("token")


def _read(entry: Entry, key: str, file: str) -> str:
    path = entry.file.parent / file
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise entry.wrong(f"{key}: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise entry.wrong(f"{key}: {path} is not text") from None
