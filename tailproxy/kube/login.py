"""A program that logs in as a kubeconfig says, with the `kubernetes` client, and prints the result.

It is run by `tailproxy.kube.plugin`: the client blocks, is large, and may wait for a plugin that
never answers, so it has a process of its own, which can be ended.

Arguments: the context's name and the kubeconfig files. On standard output: an object with
`token`, or `chain` and `key` (PEM), and `expiry` (seconds since 1970, or null).
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from kubernetes.client import Configuration
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger


def main(context: str, paths: list[str]) -> None:
    """Log in and print.

    :raises SystemExit: it did not work; the reason is on standard error.
    """
    logging.basicConfig(format="%(message)s")
    merger = KubeConfigMerger(os.pathsep.join(paths))
    loader = KubeConfigLoader(
        merger.config,
        active_context=context,
        config_base_path=None,
        # An OpenID Connect provider may give a new refresh token and void the old one.
        config_persister=merger.save_changes,
    )
    configuration = Configuration()
    try:
        loader.load_and_set(configuration)
    except ConfigException as error:
        sys.exit(str(error))
    answer = _answer(loader, configuration)
    if answer is None:
        sys.exit(1)
    sys.stdout.write(json.dumps(answer))


def _answer(loader: Any, configuration: Configuration) -> dict[str, Any] | None:
    scheme, _, token = configuration.api_key.get("BearerToken", "").partition(" ")
    if scheme == "Bearer" and token:
        expiry = getattr(loader, "expiry", None)
        return {"token": token, "expiry": expiry.timestamp() if expiry else _jwt_expiry(token)}
    if configuration.cert_file and configuration.key_file:
        expiry = getattr(loader, "expiry", None)
        return {
            "chain": Path(configuration.cert_file).read_text(encoding="ascii"),
            "key": Path(configuration.key_file).read_text(encoding="ascii"),
            "expiry": expiry.timestamp() if expiry else None,
        }
    return None


def _jwt_expiry(token: str) -> float | None:
    """When a JSON Web Token ends, if the token is one (RFC 7519, 4.1.4)."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (ValueError, KeyError, TypeError, binascii.Error):
        return None


if __name__ == "__main__":
    # Its own process group, so that whoever ends it ends the plugin too.
    os.setpgid(0, 0)
    main(sys.argv[1], sys.argv[2:])
