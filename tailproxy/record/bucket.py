"""Recordings as objects in a bucket of a service that speaks S3.

An object is there when it is whole and not before, so recordings come here out of the spool. Small
ones are sent in one request, others in parts; what fails leaves parts behind at most, which a
lifecycle rule of the bucket removes. Credentials are found as AWS's own programs find them in a pod
or an instance: in the environment, by web identity, from the metadata service.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from tailproxy.interfaces import ISessionSink
from tailproxy.record.files import BlockingUpload
from tailproxy.record.folder import file_name
from tailproxy.schema import ConfigError

if TYPE_CHECKING:
    from tailproxy.interfaces import IUpload
    from tailproxy.record.folder import Run
    from tailproxy.recording_options import Sink

# Bytes of the smallest part that S3 takes.
_PART = 5 << 20
# Seconds: of one request; of its repetitions together, which the end of an upload waits for.
_REQUEST_SECONDS = 10
_RETRY_SECONDS = 20
_RETRIES = 3


@implementer(ISessionSink)
class Bucket:
    """A bucket.

    :param clock: tells and keeps the time.
    :param run: calls a function in a thread.
    :param options: of the kind `s3`.
    :param limit: bytes of an upload's backlog that is full.
    :raises ConfigError: the library for it is not installed, or cannot use the options.
    """

    name = "s3"

    def __init__(self, clock: Any, run: Run, options: Sink, limit: int) -> None:
        self._clock = clock
        self._run = run
        self._options = options
        self._limit = limit
        self._store = _store(options)

    def open(self, session: str) -> Deferred[IUpload]:
        """See `ISessionSink.open`. Whether the service is there, the first request tells."""
        name = file_name(self._clock.seconds(), session, ".cast")
        thing = _Object(self._store, self._options, f"{self._options.prefix}{name}")
        return succeed(BlockingUpload(self._clock, self._run, thing, self._limit, "the bucket"))


class _Object:
    """An object that is being written: a `Keeper`."""

    def __init__(self, store: Any, options: Sink, key: str) -> None:
        from obstore import open_writer  # noqa: PLC0415 - an extra

        self.place = f"s3://{options.bucket}/{key}"
        self._writer: Any = open_writer(
            store,
            key,
            attributes={"Content-Type": "application/x-asciicast"},
            buffer_size=_PART,
            max_concurrency=2,
        )

    def append(self, lines: bytes) -> None:
        self._writer.write(lines)

    def complete(self) -> None:
        self._writer.close()

    def leave(self) -> None:
        self._writer = None


def _store(options: Sink) -> Any:
    """Make the client.

    :raises ConfigError: it cannot be made.
    """
    try:
        from obstore.store import S3Store  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigError(
            "Tailproxy.Recording.Sinks", 'the Kind "s3" needs obstore; install tailproxy[s3]'
        ) from None
    config: Any = {"bucket": options.bucket}
    if options.endpoint is not None:
        config["endpoint"] = options.endpoint
    if options.region is not None:
        config["region"] = options.region
    try:
        return S3Store(
            config=config,
            client_options={
                "allow_http": (options.endpoint or "").startswith("http://"),
                "timeout": timedelta(seconds=_REQUEST_SECONDS),
            },
            retry_config={
                "max_retries": _RETRIES,
                "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
            },
        )
    except Exception as error:
        raise ConfigError("Tailproxy.Recording.Sinks", f"cannot use the bucket: {error}") from error
