"""Version 1 of the recorders' protocol: one chunked HTTP/1.1 request.

`POST /record` with `Expect: 100-continue`: the session may begin when the 100 has come. Nothing is
acknowledged before the answer at the end, so a recorder that has died is noticed only when it takes
nothing any more (spec/streaming.md 6.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httptools
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from zope.interface import implementer

from tailproxy.record.upload import Upload

if TYPE_CHECKING:
    from twisted.python.failure import Failure

_HEAD = "POST /record HTTP/1.1\r\nHost: {host}\r\n{expect}Transfer-Encoding: chunked\r\n\r\n"
_EXPECT = "Expect: 100-continue\r\n"
_CHUNK = 64 << 10
# Bytes of heads that a recorder may send: an answer or two of a few lines.
_HEAD_LIMIT = 64 << 10


class ExpectationError(Exception):
    """The recorder does not want to be asked first (417)."""


@implementer(IPushProducer)
class Http1Upload(Upload, Protocol):
    """A connection to a recorder, and the one recording on it.

    :param authority: `IP:PORT` of the recorder, also its place.
    """

    transport: Any

    def __init__(self, clock: Any, authority: str, limit: int) -> None:
        super().__init__(clock, authority, limit)
        self._parser = httptools.HttpResponseParser(self)
        self._status: Deferred[int] | None = None
        self._begun = False
        self._end_sent = False
        self._paused = False
        self._heard = 0

    async def start(self, *, expect: bool) -> None:
        """Have the recorder ready for the first line.

        :param expect: wait until it says that it is; otherwise that is assumed.
        :raises ExpectationError: it does not say so to anybody.
        :raises SinkError: it refuses.
        """
        head = _HEAD.format(host=self.place, expect=_EXPECT if expect else "")
        self.transport.write(head.encode())
        if expect:
            self._status = Deferred()
            status = await self._status
            if status == 417:
                raise ExpectationError
            if status != 100:
                raise self.trouble(f"answers {status}")
        self._begun = True

    # How bytes get there.

    def send(self) -> None:
        """See `Upload.send`."""
        if self._paused or not self._begun:
            return
        while self.backlog and not self._paused:
            data = self.take(_CHUNK)
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.moved()

    def send_end(self) -> None:
        """See `Upload.send_end`."""
        self._end_sent = True
        self.transport.write(b"0\r\n\r\n")

    def hang_up(self) -> None:
        """See `Upload.hang_up`: without the last chunk it is no whole recording."""
        self.transport.abortConnection()

    def pauseProducing(self) -> None:
        """The transport has enough for now."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The transport has sent what it had."""
        self._paused = False
        if not self.over and self.backlog:
            self.send()

    def stopProducing(self) -> None:
        """The transport is gone, which `connectionLost` tells too."""
        self._paused = True

    # What the transport says.

    def connectionMade(self) -> None:
        """Be told when to write."""
        self.transport.registerProducer(self, streaming=True)

    def dataReceived(self, data: bytes) -> None:
        """Read an answer."""
        self._heard += len(data)
        if self.over:
            return
        if self._heard > _HEAD_LIMIT:
            self._break("sends more than an answer")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break("sends what is no HTTP", str(error))

    def on_headers_complete(self) -> None:
        """The head of an answer is complete; says the parser."""
        status = self._parser.get_status_code()
        waiting, self._status = self._status, None
        if self.over:
            return
        if waiting is not None and (status == 100 or status >= 200):
            waiting.callback(status)
        elif status < 200:
            self._status = waiting
        elif status == 200 and self._end_sent:
            self.transport.loseConnection()
            self.kept()
        elif self._end_sent:
            self._break(f"answers {status}")
        else:
            self._break("has ended the recording early", f"status {status}")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._break("has closed the connection", reason.getErrorMessage())

    def _break(self, what: str, detail: str = "") -> None:
        """It goes wrong, before or after the recording has begun."""
        waiting, self._status = self._status, None
        self.failed(what, detail)
        if waiting is not None:
            waiting.errback(self.trouble(what, detail))
