"""The object `Tailproxy.Audit` of the configuration: where the line of each request goes."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

from tailproxy.schema import PATH, TEXT, Choice, Many, MisfitError, Nested, option, parsed, whole

if TYPE_CHECKING:
    from pathlib import Path


class SinkKind(Enum):
    """Where lines go."""

    LOG = "log"
    FILE = "file"
    HTTP = "http"


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.netloc or "@" in parts.netloc:
        raise ValueError
    return text


@attrs.frozen
class Sink:
    """One place where lines go."""

    kind: SinkKind = option(
        "Kind",
        Choice(SinkKind),
        "`log`: among the log lines, in their format and at the level info; `file`: a file of"
        " JSON lines; `http`: JSON lines in POST requests.",
        default=SinkKind.LOG,
    )
    name: str = option("Name", TEXT, "Name in logs and metrics; the kind if left out.", default="")
    path: Path | None = option("Path", PATH, "The file, for `file`.")
    rotate_bytes: int = option(
        "RotateBytes",
        whole(65536, 1 << 40),
        "Size from which a file is renamed and another begun.",
        default=100 << 20,
    )
    rotate_seconds: int | None = option(
        "RotateSeconds",
        whole(60, 1 << 31),
        "Begin another file whenever so many seconds have passed, counted from 1970: 86400 is"
        " midnight UTC. If left out the size alone counts.",
    )
    keep: int = option("Keep", whole(1, 10_000), "How many renamed files to keep.", default=10)
    url: str | None = option(
        "Url",
        parsed("an http or https URL without a password", _url, r"^https?://[^/@]+($|[/?])"),
        "Where to send lines, for `http`.",
    )
    token_file: Path | None = option(
        "TokenFile", PATH, "A file with a bearer token for that server, read for every batch."
    )
    ca_file: Path | None = option(
        "CaFile", PATH, "A PEM file of CAs for that server; the system's if left out."
    )
    queue_bytes: int = option(
        "QueueBytes",
        whole(65536, 1 << 30),
        "What waits while a `file` or `http` sink takes no lines; more is dropped and counted.",
        default=4 << 20,
    )

    def __attrs_post_init__(self) -> None:
        """Check that each kind has what it needs and nothing of another's."""
        given = {
            "Path": self.path is not None,
            "Url": self.url is not None,
            "TokenFile": self.token_file is not None,
            "CaFile": self.ca_file is not None,
        }
        for key, kind, needed in (
            ("Path", SinkKind.FILE, True),
            ("Url", SinkKind.HTTP, True),
            ("TokenFile", SinkKind.HTTP, False),
            ("CaFile", SinkKind.HTTP, False),
        ):
            if given[key] and self.kind is not kind:
                raise MisfitError((key,), f'none, or the Kind "{kind.value}"')
            if needed and not given[key] and self.kind is kind:
                what = "the path of a file" if key == "Path" else "a URL"
                raise MisfitError((key,), f'{what}, as the Kind is "{kind.value}"')

    @property
    def label(self) -> str:
        """Its name for logs and metrics."""
        return self.name or self.kind.value


@attrs.frozen
class Audit:
    """Where the line of each request goes."""

    sinks: tuple[Sink, ...] = option(
        "Sinks",
        Many(Nested(Sink)),
        "Each takes every line; with an empty list there are none.",
        default=(Sink(),),
    )

    def __attrs_post_init__(self) -> None:
        """Sinks are told apart by name, and files by path."""
        labels: set[str] = set()
        paths: set[Path] = set()
        for index, sink in enumerate(self.sinks):
            if sink.label in labels:
                raise MisfitError(("Sinks", index, "Name"), "a name that no other sink has")
            if sink.path is not None and sink.path in paths:
                raise MisfitError(("Sinks", index, "Path"), "a file that no other sink has")
            labels.add(sink.label)
            if sink.path is not None:
                paths.add(sink.path)
