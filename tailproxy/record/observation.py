"""What the audit trail knows of sessions that are not recorded: how commands ended, which ports of
pods were forwarded, and which files were copied. Nothing of what passes is kept or held up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.interfaces import IRecording
from tailproxy.record.archive import Archive
from tailproxy.wire.session import forward_tap, tap
from tailproxy.wire.sessionevents import Forwarded, Forwarding, Outcome, Unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.interfaces import IReactorTime

    from tailproxy.interfaces import IRecordedSession, RecordedSession, ResponseHead
    from tailproxy.wire.session import SessionTap
    from tailproxy.wire.sessionevents import Event


def chosen_protocol(head: ResponseHead) -> tuple[str, str]:
    """What a 101 has switched to: the protocol, and the one inside it; either may be empty."""
    fields = {name.lower(): value.decode("latin-1") for name, value in head.headers}
    protocol = fields.get(b"upgrade", "")
    spdy = protocol.lower().startswith("spdy")
    inside = fields.get(b"x-stream-protocol-version" if spdy else b"sec-websocket-protocol", "")
    return protocol, inside


def query_of(session: RecordedSession) -> dict[str, list[str]]:
    """The options of a session's request: all values by name, decoded."""
    target = session.head.target.decode("latin-1")
    return parse_qs(urlsplit(target).query, keep_blank_values=True)


def goes_up(archive: Archive | None) -> bool:
    """Whether the client sends an archive, so that its input must be read."""
    return archive is not None and archive.direction == "to"


@implementer(IRecording)
class Observation:
    """One session that is not recorded.

    :param observed: what it is; its kind may be `portforward` too.
    :ivar exit_code: of the command, once the API server has told it.
    """

    _log = Logger()
    where = ""

    def __init__(self, observed: RecordedSession, clock: IReactorTime) -> None:
        self.exit_code: int | None = None
        self._observed = observed
        self._clock = clock
        self._tap: SessionTap | None = None
        self._since: dict[tuple[int, str], float] = {}
        self._archive = Archive.of(observed, query_of(observed).get("command", ()))

    def begin(self, head: ResponseHead, session: IRecordedSession) -> None:
        """See `IRecording.begin`."""
        protocol, inside = chosen_protocol(head)
        if self._observed.kind == "portforward":
            self._tap = forward_tap(protocol, inside)
        else:
            self._tap = tap(protocol, inside, terminal=False, with_input=goes_up(self._archive))

    def abandon(self) -> None:
        """See `IRecording.abandon`."""

    def up(self, data: bytes) -> None:
        """See `IRecording.up`."""
        if self._tap is not None:
            self._see(self._tap.up(data))

    def down(self, data: bytes) -> bytes:
        """See `IRecording.down`: everything, at once."""
        if self._tap is not None:
            self._see(self._tap.down(data))
        return data

    def rest(self) -> bytes:
        """See `IRecording.rest`: nothing was kept."""
        return b""

    def ended(self) -> None:
        """See `IRecording.ended`."""
        if self._tap is not None:
            self._see(self._tap.end())
            self._tap = None
        if self._archive is not None:
            self._archive.end()

    def _see(self, events: Sequence[Event]) -> None:
        for event in events:
            if self._archive is not None:
                self._archive.see(event)
            match event:
                case Outcome():
                    self.exit_code = event.code
                case Forwarding():
                    self._since[event.port, event.request_id] = self._clock.seconds()
                case Forwarded():
                    self._forwarded(event)
                case Unreadable():
                    self._tap = None
                    self._log.debug("a session is not understood: {why}", why=event.reason)

    def _forwarded(self, event: Forwarded) -> None:
        """A line for each connection, beside the one of the request."""
        info, identity = self._observed.head.info, self._observed.identity
        now = self._clock.seconds()
        self._log.info(
            "{user} was connected to port {port} of the pod {pod} in {namespace}",
            request_id=self._observed.id,
            user=identity.user,
            node=identity.node,
            namespace=info.namespace,
            pod=info.name,
            port=event.port,
            received=event.up,
            sent=event.down,
            duration=now - self._since.pop((event.port, event.request_id), now),
            error=event.error,
        )
