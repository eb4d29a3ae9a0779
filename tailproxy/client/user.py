"""A user of a kubeconfig who keeps their own credentials, for a proxy in noauth mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailproxy.kubeconfig import Kubeconfig
from tailproxy.wire.kubeconfig import CREDENTIALS, USER, KubeconfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def kept_user(paths: Sequence[Path], name: str | None) -> tuple[str, str]:
    """Find a user's entry that is to be kept.

    :param paths: of the kubeconfig files.
    :param name: of the entry; None for the user of the current context.
    :returns: its name, and why its credentials may not do, or empty.
    :raises ConfigError: the files cannot be used, or have no such entry.
    :raises KubeconfigError: the entry has no credentials.
    """
    files = Kubeconfig(paths, "name one with --kubeconfig or KUBECONFIG", "name a user with --user")
    if name is None:
        name = files.entry("context", files.current_context()).text("user")
    kinds = [kind for kind in CREDENTIALS if kind in files.entry("user", name).body]
    if not kinds or name == USER:
        raise KubeconfigError(
            f"the user {name!r} has no credentials that could count; name another one with --user"
        )
    if all(kind.startswith("client-") for kind in kinds):
        return name, (
            f"the user {name!r} has a client certificate alone, which cannot pass a proxy that "
            "ends TLS: the API server will not know who you are"
        )
    return name, ""
