"""A credential that a program fetches, and fetches again before it ends.

The program is `tailproxy.kube.login`, which runs the kubeconfig's exec plugin or asks its OpenID
Connect provider.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol, connectionDone
from twisted.logger import Logger

from tailproxy.errors import UpstreamError
from tailproxy.kube.credentials import ClientPair, certificates, fits, token

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

TIMEOUT = 60.0
# How long before its end a credential is fetched anew.
_EARLY = 60.0
_RETRY_FIRST = 1.0
_RETRY_LAST = 60.0
# After a fetch, how long a rejection is taken to be about the credential before it.
_SETTLED = 10.0
_REASON_LENGTH = 300


def login_command(paths: Sequence[Path], context: str) -> list[str]:
    """The command that logs in with that context of those kubeconfig files."""
    # By its path, and with nothing but the environment's packages to import from: the working
    # directory may be anywhere.
    program = Path(__file__).with_name("login.py")
    return [sys.executable, "-P", str(program), context, *map(str, paths)]


@attrs.frozen
class _Fetched:
    token: bytes | None = attrs.field(repr=False)
    pair: ClientPair | None = attrs.field(repr=False)
    expiry: float | None


class PluginCredential(Service):
    """Keeps a credential at hand; nobody ever waits for the program.

    :param reactor: runs the program and keeps the time, which must be seconds since 1970.
    :param command: prints what `tailproxy.kube.login` says.
    :param timeout: seconds after which the program is ended.
    """

    _log = Logger()

    def __init__(self, reactor: Any, command: Sequence[str], timeout: float = TIMEOUT) -> None:
        self._reactor = reactor
        self._command = command
        self._timeout = timeout
        self._now: _Fetched | None = None
        self._since = 0.0
        self._error = "the login program has not answered yet"
        self._delay = _RETRY_FIRST
        self._call: IDelayedCall | None = None
        self._run: _Run | None = None

    def startService(self) -> None:
        """Fetch for the first time."""
        super().startService()
        self._fetch()

    def stopService(self) -> None:
        """End the program if it runs."""
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._run is not None:
            self._run.kill("tailproxy is stopping")

    def bearer(self) -> bytes | None:
        """The token.

        :raises UpstreamError: there is none that is still valid.
        """
        return self._current().token

    def client_pair(self) -> ClientPair | None:
        """The client certificate.

        :raises UpstreamError: there is none that is still valid.
        """
        return self._current().pair

    def rejected(self) -> None:
        """Fetch anew, unless that is under way or has just happened."""
        if self.running and self._reactor.seconds() - self._since >= _SETTLED:
            self._fetch()

    def _current(self) -> _Fetched:
        now = self._now
        if now is None or (now.expiry is not None and now.expiry <= self._reactor.seconds()):
            raise UpstreamError(503, "no-credential", f"no credential: {self._error}")
        return now

    def _fetch(self) -> None:
        if self._run is not None:
            return
        if self._call is not None:
            if self._call.active():
                self._call.cancel()
            self._call = None
        self._run = _Run(self._reactor, self._command, self._timeout)
        self._run.done.addCallback(_fetched).addCallbacks(self._succeeded, self._failed)

    def _succeeded(self, fetched: _Fetched) -> None:
        self._run = None
        self._now = fetched
        self._since = self._reactor.seconds()
        self._delay = _RETRY_FIRST
        self._error = "it has expired and is being fetched anew"
        if fetched.expiry is not None:
            left = fetched.expiry - self._since
            # Of a life shorter than twice that time, half is used.
            self._again(max(left - _EARLY, left / 2, _RETRY_FIRST))

    def _failed(self, failure: Failure) -> None:
        self._run = None
        self._error = str(failure.value)
        if self.running:
            self._log.error("cannot log in to the API server: {reason}", reason=self._error)
            self._again(self._delay)
            self._delay = min(self._delay * 2, _RETRY_LAST)

    def _again(self, delay: float) -> None:
        if self.running:
            self._call = self._reactor.callLater(delay, self._fetch)


def _fetched(output: bytes) -> _Fetched:
    """What the program printed.

    :raises ValueError: it cannot be used.
    """
    answer = json.loads(output)
    expiry = answer["expiry"]
    if "token" in answer:
        value = answer["token"].encode()
        token(value)
        return _Fetched(value, None, expiry)
    pair = ClientPair(answer["chain"].encode(), answer["key"].encode())
    if not fits(pair):
        raise ValueError("the certificate and the key that it gave do not belong together")
    if expiry is None:
        expiry = certificates(pair.chain)[0].not_valid_after_utc.timestamp()
    return _Fetched(None, pair, expiry)


class _Run(ProcessProtocol):
    """One run of the program; `done` fires with its output, or fails with the reason."""

    transport: Any

    def __init__(self, reactor: Any, command: Sequence[str], timeout: float) -> None:
        self.done: Deferred[bytes] = Deferred()
        self._output: list[bytes] = []
        self._complaint = b""
        self._killed = ""
        reactor.spawnProcess(self, command[0], command, env=None)
        self._timer = reactor.callLater(
            timeout, self.kill, f"the login program did not answer within {timeout:g} s"
        )

    def connectionMade(self) -> None:
        """It has nothing to ask us."""
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        """A part of the answer."""
        self._output.append(data)

    def errReceived(self, data: bytes) -> None:
        """A part of a complaint, of which the end counts."""
        self._complaint = (self._complaint + data)[-4096:]

    def kill(self, reason: str) -> None:
        """End it and what it has started."""
        self._killed = reason
        pid = self.transport.pid
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            # It has not got as far as making the group, or is gone.
            with suppress(ProcessExitedAlready):
                self.transport.signalProcess("KILL")

    def processEnded(self, reason: Failure = connectionDone) -> None:
        """Say how it went."""
        if self._timer.active():
            self._timer.cancel()
        if reason.check(ProcessDone) and not self._killed:
            self.done.callback(b"".join(self._output))
            return
        lines = self._complaint.decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        why = self._killed or (said[-1] if said else "the login program failed and did not say why")
        self.done.errback(ValueError(why[:_REASON_LENGTH]))
