"""Connections to other nodes of the tailnet, made by tailscaled.

`POST /localapi/v0/dial` on tailscaled's socket answers 101, and from then on the connection is one
to the node (ipn/localapi and client/local of tailscaled 1.102). It works with kernel networking and
without, and whoever may open the socket may do it. Either side's end is the end of both directions.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import attrs
import httptools
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    connectProtocol,
)
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from zope.interface import implementer

from tailproxy.interfaces import ITailnetDialer
from tailproxy.wire.addresses import is_tailnet_address

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocolFactory
    from twisted.python.failure import Failure

    from tailproxy.wire.addresses import AddressPort

_REQUEST = (
    "POST /localapi/v0/dial HTTP/1.1\r\nHost: local-tailscaled.sock\r\n"
    "Connection: upgrade\r\nUpgrade: ts-dial\r\nContent-Length: 0\r\n"
    "Dial-Host: {host}\r\nDial-Port: {port}\r\nDial-Network: tcp\r\n\r\n"
)
# Bytes of an answer that is no connection, and seconds until there is one.
_ANSWER_LIMIT = 64 << 10
_SECONDS = 30.0


class DialError(Exception):
    """There is no connection to that node; the text says why."""


@implementer(ITailnetDialer)
class TailscaledDialer:
    """Asks one tailscaled for connections.

    :param reactor: provides unix sockets, TCP and time.
    :param socket_path: tailscaled's socket.
    """

    def __init__(self, reactor: Any, socket_path: str) -> None:
        self._reactor = reactor
        self._path = socket_path

    def endpoint(self, address: AddressPort) -> IStreamClientEndpoint:
        """See `ITailnetDialer.endpoint`. `connect` fails with `DialError`."""
        return _Node(self._reactor, self._path, address)


@attrs.frozen
@implementer(IStreamClientEndpoint)
class _Node:
    """A port of a node of the tailnet."""

    _reactor: Any
    _path: str
    _address: AddressPort

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """See `IStreamClientEndpoint.connect`."""
        return Deferred.fromCoroutine(self._connect(protocolFactory)).addTimeout(
            _SECONDS, self._reactor
        )

    async def _connect(self, factory: IProtocolFactory) -> Any:
        question = _Question(self._address)
        try:
            await connectProtocol(UNIXClientEndpoint(self._reactor, self._path), question)
        except (ConnectError, OSError) as error:
            raise DialError(f"no connection to tailscaled at {self._path}: {error}") from error
        answer = await question.answered
        if answer.status == 101:
            return self._hand_over(question, factory, answer.body)
        question.transport.abortConnection()
        if answer.status == 200 and answer.by_yourself:
            return await self._connect_by_ourselves(factory)
        text = answer.body.decode(errors="replace").strip()
        message = f"tailscaled answers {answer.status} to dial: {text or 'no reason given'}"
        if answer.status == 403:
            message += f"; see that uid {os.geteuid()} may use its socket"
        raise DialError(message)

    def _hand_over(self, question: _Question, factory: IProtocolFactory, early: bytes) -> Any:
        """Give the connection to whom it is for."""
        kind = IPv6Address if self._address.address.version == 6 else IPv4Address
        protocol: Any = factory.buildProtocol(
            kind("TCP", str(self._address.address), self._address.port)
        )
        transport = question.transport
        if protocol is None:
            transport.abortConnection()
            raise DialError("nobody wants the connection any more")
        transport.protocol = protocol
        protocol.makeConnection(transport)
        if early:
            protocol.dataReceived(early)
        return protocol

    async def _connect_by_ourselves(self, factory: IProtocolFactory) -> Any:
        """Connect to an address that tailscaled leaves to the system, such as the node's own.

        One outside the tailnet is none of ours: what is sent is not encrypted.
        """
        host, port = self._address.address, self._address.port
        if not is_tailnet_address(host):
            raise DialError(f"{host} is not an address of the tailnet")
        kind = TCP6ClientEndpoint if host.version == 6 else TCP4ClientEndpoint
        try:
            return await kind(self._reactor, str(host), port).connect(factory)
        except (ConnectError, OSError) as error:
            raise DialError(str(error)) from error


@attrs.frozen
class _Answer:
    """What tailscaled says to `dial`. The body of a 101 is what came early."""

    status: int
    by_yourself: bool
    body: bytes


class _Question(Protocol):
    """A connection to tailscaled on its way to being one to a node.

    :ivar answered: fires with an `_Answer`; cancelling it gives the connection up.
    """

    transport: Any

    def __init__(self, address: AddressPort) -> None:
        self._request = _REQUEST.format(host=address.address, port=address.port).encode()
        self._parser = httptools.HttpResponseParser(self)
        self._by_yourself = False
        self._body = b""
        self._size = 0
        self._complete = False
        self.answered: Deferred[_Answer] = Deferred(lambda _: self.transport.abortConnection())

    def connectionMade(self) -> None:
        """Ask."""
        self.transport.write(self._request)

    # What the parser says.

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if name.lower() == b"dial-self":
            self._by_yourself = value == b"true"

    def on_body(self, chunk: bytes) -> None:
        """A part of the body."""
        self._body += chunk

    def on_message_complete(self) -> None:
        """The answer is complete."""
        self._complete = self._parser.get_status_code() >= 200

    # What the transport says.

    def dataReceived(self, data: bytes) -> None:
        """Read the answer."""
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._body = data[upgrade.args[0] :]
            self._complete = True
        except httptools.HttpParserError as error:
            self._end(DialError(f"tailscaled's answer to dial is malformed ({error})"))
            return
        if self._complete:
            status = self._parser.get_status_code()
            self._end(_Answer(status, self._by_yourself, self._body))
        elif self._size > _ANSWER_LIMIT:
            self._end(DialError("tailscaled's answer to dial is too long"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """There will be no answer."""
        self._end(DialError("tailscaled has closed the connection without an answer to dial"))

    def _end(self, result: _Answer | DialError) -> None:
        if self.answered.called:
            return
        if isinstance(result, DialError):
            self.transport.abortConnection()
            self.answered.errback(result)
        else:
            self.answered.callback(result)
