"""The log of one process: a stream, and what its lines look like, which may change."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from twisted.logger import FilteringLogObserver

from tailproxy.audit.access import access_line
from tailproxy.audit.logs import LineObserver, Threshold, json_line, text_line

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.logger import ILogObserver

    from tailproxy.audit.access import AccessLog


class LogWriter:
    """Writes the events of a process, and the lines of its access log among them.

    :param stream: where to.
    :param access_log: from now on it writes here.
    :param form: of the lines, `json` or `text`.
    :param level: the least important lines, as the configuration's `LogLevel` spells it.
    :ivar observer: takes the events.
    """

    def __init__(
        self, stream: IO[str], access_log: AccessLog, clock: IReactorTime, form: str, level: str
    ) -> None:
        self._access_log = access_log
        self._lines = LineObserver(stream, json_line, clock)
        self._threshold = Threshold(level)
        self.observer: ILogObserver = FilteringLogObserver(self._lines, [self._threshold])
        self.write_as(form, level)

    def write_as(self, form: str, level: str) -> None:
        """From now on the lines are such ones."""
        self._lines.write_as(text_line if form == "text" else json_line)
        self._threshold.set(level)
        self._access_log.write_to(self._lines, access_line(form, level, self._access_log.json))

    def flush(self) -> None:
        """Write what was to be written in a moment."""
        self._lines.flush()

    def close(self) -> None:
        """The clock is coming round no more: write now, and at once from now on."""
        self._lines.close()
