"""What `kubectl cp` copies: a line in the log for each file, with its size and checksum.

`cp` runs `tar` in the container; the archive is read as it goes by, and nothing of it is kept.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Literal

from twisted.logger import Logger

from tailproxy.wire.sessionevents import STDOUT, Input, Output, Unreadable
from tailproxy.wire.tarstream import TarReader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tailproxy.interfaces import RecordedSession
    from tailproxy.wire.sessionevents import Event
    from tailproxy.wire.tarstream import Member

# Files of a session that have a line each; of more only the number is told.
MOST_LINES = 1000


class Archive:
    """The archive of one session.

    :param session: the one that carries it.
    :param direction: of the copy, as seen from the pod.
    """

    _log = Logger()

    def __init__(self, session: RecordedSession, direction: Literal["from", "to"]) -> None:
        self.direction = direction
        self._session = session
        self._reader: TarReader | None = TarReader()
        self._files = 0

    @classmethod
    def of(cls, session: RecordedSession, command: Sequence[str]) -> Archive | None:
        """The archive that a command reads or writes on its standard streams, if it does."""
        if len(command) < 3 or posixpath.basename(command[0]) != "tar" or "-" not in command[2:]:
            return None
        letters = command[1].removeprefix("-")
        if "f" not in letters:
            return None
        if "c" in letters:
            return cls(session, "from")
        return cls(session, "to") if "x" in letters else None

    def see(self, event: Event) -> None:
        """Take what the session's tap has seen."""
        match event:
            case Input(data) if self.direction == "to":
                self._feed(data)
            case Output(stream, data) if self.direction == "from" and stream == STDOUT:
                self._feed(data)

    def _feed(self, data: bytes) -> None:
        for found in self._reader.feed(data) if self._reader is not None else ():
            if isinstance(found, Unreadable):
                self._reader = None
                self._log.debug("an archive is not understood: {why}", why=found.reason)
            elif found.kind != "folder":
                self._files += 1
                if self._files <= MOST_LINES:
                    self._tell(found)

    def _tell(self, member: Member) -> None:
        info, identity = self._session.head.info, self._session.identity
        self._log.info(
            "{user} copied {file} {direction} the pod {pod} in {namespace}",
            request_id=self._session.id,
            user=identity.user,
            node=identity.node,
            namespace=info.namespace,
            pod=info.name,
            direction=self.direction,
            file=member.name,
            kind=member.kind,
            size=member.size,
            sha256=member.digest,
        )

    def end(self) -> None:
        """The session is over."""
        if self._files > MOST_LINES:
            self._log.info(
                "{user} copied {more} more files",
                user=self._session.identity.user,
                more=self._files - MOST_LINES,
                request_id=self._session.id,
            )
