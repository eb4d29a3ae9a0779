"""kubeconfig files: one cluster, one user, one context, everything embedded."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import yaml

from tests.lab.process import replace

if TYPE_CHECKING:
    from pathlib import Path


def _data(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


def with_certificate(certificate: Path, key: Path) -> dict[str, Any]:
    """A user who shows a client certificate."""
    return {"client-certificate-data": _data(certificate), "client-key-data": _data(key)}


def with_token(token: str) -> dict[str, Any]:
    """A user who shows a bearer token."""
    return {"token": token}


def write(
    path: Path,
    *,
    server: str,
    ca_file: Path,
    user: dict[str, Any],
    proxy_url: str | None = None,
    namespace: str = "default",
) -> Path:
    """Write a kubeconfig that only its owner can read, in one step; its path.

    :param server: URL of the API server or the proxy.
    :param ca_file: certificates that vouch for the server, PEM; embedded.
    :param user: see `with_certificate` and `with_token`.
    :param proxy_url: an HTTP proxy that reaches the server (how kubectl gets into the tailnet).
    """
    cluster = {"server": server, "certificate-authority-data": _data(ca_file)}
    if proxy_url is not None:
        cluster["proxy-url"] = proxy_url
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "me", "user": user}],
        "contexts": [
            {"name": "lab", "context": {"cluster": "lab", "user": "me", "namespace": namespace}}
        ],
        "current-context": "lab",
    }
    replace(path, yaml.safe_dump(config, sort_keys=False))
    return path
