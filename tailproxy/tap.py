"""`twistd tailproxy`: the command line. `tailproxy.assembly` puts the parts together.

What cannot work ends the start with one line on standard error and a non-zero exit code; what
may yet come (tailscaled, the API server, a token) makes the service unready, with the reason at
`/readyz`.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from twisted.python import usage

import tailproxy
from tailproxy.assembly import check, serve
from tailproxy.config import DEFAULT_SOURCE, SOURCE_VARIABLE, load
from tailproxy.reactor import install
from tailproxy.schema import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tailproxy.config import Document
    from tailproxy.daemon import TailproxyService


class Options(usage.Options):
    """The command line of `twistd tailproxy`.

    :ivar document: the configuration file, once the options were parsed.
    """

    longdesc = (
        "Puts the Kubernetes API server on a tailnet and lets each caller in as who the tailnet"
        " says they are."
    )
    optParameters: Sequence[Sequence[Any]] = [
        [
            "config",
            "c",
            None,
            f"The configuration file [default: ${SOURCE_VARIABLE}, or {DEFAULT_SOURCE}].",
        ]
    ]
    optFlags: Sequence[Sequence[Any]] = [
        ["check", None, "Say whether the configuration can be used, and exit."]
    ]
    document: Document

    def opt_version(self) -> None:
        """Print tailproxy's version and exit."""
        sys.stdout.write(f"tailproxy {tailproxy.__version__}\n")
        sys.exit(0)

    def postOptions(self) -> None:
        """Read the configuration.

        :raises SystemExit: it is wrong; or it was only to be checked.
        """
        # Absolute, since a daemon changes its folder before it may read the file again.
        source = self["config"] or os.environ.get(SOURCE_VARIABLE) or DEFAULT_SOURCE
        try:
            self.document = load(source)
            if self["check"]:
                check(self.document, _reactor())
        except ConfigError as error:
            raise SystemExit(f"tailproxy: {error}") from error
        if self["check"]:
            sys.stdout.write(f"{source}: good\n")
            sys.exit(0)


def makeService(options: Options, reactor: Any = None) -> TailproxyService:
    """The service, ready to be started.

    :param reactor: the global one if left out.
    :raises SystemExit: it cannot be made; the message says why.
    """
    twistd: Mapping[str, Any] = options.parent or {}
    try:
        service = serve(options.document, reactor or _reactor())
    except ConfigError as error:
        raise SystemExit(f"tailproxy: {error}") from error
    service.run_by(twistd)
    return service


def _reactor() -> Any:
    """The one that twistd was told to use; ours if it was told nothing."""
    install()
    from twisted.internet import reactor  # noqa: PLC0415 - importing it chooses it

    return reactor
