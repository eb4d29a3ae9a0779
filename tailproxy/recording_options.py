"""The object `Recording` of the configuration: where recordings of sessions go."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import attrs

from tailproxy.schema import (
    FLAG,
    PATH,
    TEXT,
    Choice,
    Many,
    MisfitError,
    Nested,
    option,
    parsed,
    seconds,
    whole,
)
from tailproxy.wire.addresses import AddressPort

_MIB = 1 << 20


class SinkKind(Enum):
    """What keeps recordings."""

    RECORDER = "recorder"
    FOLDER = "folder"
    S3 = "s3"


class OnFailure(Enum):
    """What becomes of a session that cannot be recorded."""

    OPEN = "open"
    CLOSED = "closed"


def _url(text: str) -> str:
    if not text.startswith(("https://", "http://")):
        raise ValueError
    return text


@attrs.frozen
class Sink:
    """One place that keeps recordings."""

    kind: SinkKind = option(
        "Kind",
        Choice(SinkKind),
        "`recorder`: recorders on the tailnet; `folder`: files on this machine; `s3`: objects in a"
        " bucket of a service that speaks S3, for which there must be a Spool, since objects are"
        " sent when they are whole.",
        default=SinkKind.FOLDER,
    )
    addresses: tuple[AddressPort, ...] = option(
        "Addresses",
        Many(parsed('"IP:PORT", with an IPv6 address in brackets', AddressPort.parse, ":[0-9]+$")),
        "The recorders, the first that takes a session has it; for `recorder`.",
        default=(),
    )
    folder: Path | None = option(
        "Folder", PATH, "Where the files are; it is made if it is not there; for `folder`."
    )
    bucket: str | None = option("Bucket", TEXT, "Name of the bucket; for `s3`.")
    prefix: str = option(
        "Prefix", TEXT, "Put in front of the objects' names; for `s3`.", default=""
    )
    endpoint: str | None = option(
        "Endpoint",
        parsed('a URL such as "https://minio.example.com:9000"', _url, "^https?://."),
        "URL of the service, if it is not AWS; for `s3`.",
    )
    region: str | None = option(
        "Region", TEXT, "Region of the bucket; AWS_REGION of the environment if left out; for `s3`."
    )

    def __attrs_post_init__(self) -> None:
        """Each kind has what it needs, and nothing of the others."""
        needs = {
            "Addresses": (SinkKind.RECORDER, self.addresses, "the address of a recorder"),
            "Folder": (SinkKind.FOLDER, self.folder, "the path of a folder"),
            "Bucket": (SinkKind.S3, self.bucket, "the name of a bucket"),
        }
        for key, (kind, value, wanted) in needs.items():
            if kind is self.kind and not value:
                raise MisfitError((key,), f'{wanted}, as the Kind is "{kind.value}"')
            if kind is not self.kind and value:
                raise MisfitError((key,), f'none, or the Kind "{kind.value}"')
        for key, text in (
            ("Prefix", self.prefix),
            ("Endpoint", self.endpoint),
            ("Region", self.region),
        ):
            if text and self.kind is not SinkKind.S3:
                raise MisfitError((key,), 'none, or the Kind "s3"')


@attrs.frozen
class Spool:
    """Where recordings wait while nobody else takes them."""

    folder: Path = option(
        "Folder",
        PATH,
        "Where they are; it is made if it is not there. Workers share it.",
        default=Path("/var/lib/tailproxy/spool"),
    )
    size: int = option(
        "Bytes",
        whole(_MIB, 1 << 50),
        "How much it may hold; when it is full it takes no more.",
        default=1024 * _MIB,
    )
    age: float = option(
        "Age",
        seconds(60),
        "Seconds after which a recording that nobody has taken is deleted.",
        default=7 * 86400.0,
    )


@attrs.frozen
class Recording:
    """Where recordings of sessions go, beside the recorders that grants name."""

    sinks: tuple[Sink, ...] = option(
        "Sinks",
        Many(Nested(Sink)),
        "Who keeps recordings of sessions for which no grant names a recorder. The first that"
        " takes a session has it. Without any, such sessions are not recorded.",
        default=(),
    )
    spool: Spool | None = option(
        "Spool",
        Nested(Spool),
        "If it is there: what no recorder or sink takes is kept in it, and sent when one does"
        " again. A session that is recorded there counts as recorded.",
    )
    on_failure: OnFailure = option(
        "OnFailure",
        Choice(OnFailure),
        "What becomes of a session that is to be recorded and cannot be: `open`: it goes on"
        " unrecorded, unless a grant enforces recording; `closed`: it is refused, or ended,"
        " whatever grants say.",
        default=OnFailure.OPEN,
    )
    resolve_tags: bool = option(
        "ResolveTags",
        FLAG,
        "Where a grant names a tag as its recorder, and the control server has not put addresses to"
        " it: ask tailscaled which nodes have the tag, and record at their port 80.",
        default=False,
    )
    queue_bytes: int = option(
        "QueueBytes",
        whole(64 << 10, 256 * _MIB),
        "How much of a recording may wait to be taken; then the session is slowed down.",
        default=_MIB,
    )
    header_seconds: float = option(
        "HeaderSeconds",
        seconds(),
        "How long a recording of a terminal waits for its size, before 80x24 is assumed.",
        default=2.0,
    )

    def __attrs_post_init__(self) -> None:
        """What is sent whole needs a place to wait."""
        for index, sink in enumerate(self.sinks):
            if sink.kind is SinkKind.S3 and self.spool is None:
                raise MisfitError(
                    ("Sinks", index, "Kind"), '"recorder" or "folder", or a Recording.Spool'
                )
