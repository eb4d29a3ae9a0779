"""`twistd tailproxy` as a process of its own, an API server for it, and its configuration."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_twisted
import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.ssl import CertificateOptions
from twisted.web.client import Agent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.proxy.servers import Authority, eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
TWISTD = Path(sys.executable).with_name("twistd")


class Daemon(ProcessProtocol):
    """A `twistd -n tailproxy` and what it has said."""

    def __init__(self, folder: Path, *arguments: str, twistd: Sequence[str] = ()) -> None:
        self.out = self.err = ""
        self.code: int | None = None
        self._ended: list[Deferred] = []
        reactor.spawnProcess(
            self,
            str(TWISTD),
            [str(TWISTD), "-n", "--pidfile=tailproxy.pid", *twistd, "tailproxy", *arguments],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
            },
            path=str(folder),
        )

    def outReceived(self, data):
        self.out += data.decode()

    def errReceived(self, data):
        self.err += data.decode()

    def processEnded(self, reason):
        self.code = reason.value.exitCode
        ended, self._ended = self._ended, []
        for deferred in ended:
            deferred.callback(None)

    async def ends(self) -> int | None:
        """Wait for the end; the exit code, None if a signal ended it."""
        if self.transport.pid is not None:
            deferred = Deferred()
            self._ended.append(deferred)
            await deferred.addTimeout(20, reactor)
        return self.code

    def signal(self, number: int) -> None:
        self.transport.signalProcess(number)

    @property
    def workers(self) -> list[int]:
        """The process ids of its children."""
        pid = self.transport.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def events(self) -> list[dict]:
        """What it has logged so far."""
        return [json.loads(line) for line in self.err.splitlines(keepends=True) if line[-1] == "\n"]

    async def says(self, pattern: str) -> re.Match:
        """Wait for a log message."""

        def found():
            matches = (re.search(pattern, event["message"]) for event in self.events())
            return next((match for match in matches if match), None)

        await eventually(lambda: found() or self.code is not None, 15)
        match = found()
        assert match, self.err
        return match

    async def admin(self, path: str) -> tuple[int, str]:
        """A page of the admin port."""
        port = (await self.says(r"probes and metrics on 127\.0\.0\.2 port (\d+)"))[1]
        response = await treq.get(f"http://127.0.0.2:{port}{path}", agent=Agent(reactor))
        return response.code, await treq.text_content(response)

    async def listens(self, name: str) -> int:
        """The port of a listener."""
        return int((await self.says(rf"listener-{name} listens on .*port=(\d+)"))[1])


class ApiServer(Resource):
    """An API server that lets us impersonate; a watch has one event, and everything else is
    answered with the headers of the request.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.authority = Authority()
        certificate, key = self.authority.issue("127.0.0.1")
        options = CertificateOptions(privateKey=key, certificate=certificate)
        site = Site(self)
        site.noisy = False
        self.port = reactor.listenSSL(0, site, options, interface="127.0.0.1")

    def render(self, request):
        if b"watch" in request.args:
            # One event, and none after it.
            request.notifyFinish().addErrback(lambda _: None)
            request.write(b'{"type":"ADDED"}\n')
            return NOT_DONE_YET
        if request.path.endswith(b"selfsubjectaccessreviews"):
            request.setResponseCode(201)
            return b'{"status": {"allowed": true}}'
        headers = request.requestHeaders.getAllRawHeaders()
        return json.dumps({k.decode().lower(): v[0].decode() for k, v in headers}).encode()

    def kubeconfig(self, path: Path) -> Path:
        path.write_text(
            json.dumps(
                {
                    "current-context": "x",
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [
                        {
                            "name": "c",
                            "cluster": {
                                "server": f"https://127.0.0.1:{self.port.getHost().port}",
                                "certificate-authority-data": b64encode(
                                    self.authority.pem
                                ).decode(),
                            },
                        }
                    ],
                    "users": [{"name": "u", "user": {"token": "our-token"}}],
                }
            )
        )
        return path


@pytest.fixture
def api():
    server = ApiServer()
    yield server
    pytest_twisted.blockon(server.port.stopListening())


def write(folder: Path, top: dict | None = None, workers: int = 2, **ours) -> Path:
    """A configuration file; ports are chosen by the kernel."""
    path = folder / "tailproxy.hujson"
    path.write_text(
        json.dumps(
            {
                "Version": "v1alpha1",
                **(top or {}),
                "Tailproxy": {
                    "Listeners": [{"Address": "127.0.0.2:0"}],
                    "Tailscaled": {"Socket": str(folder / "tailscaled.sock")},
                    "Upstream": {"Kubeconfig": str(folder / "kubeconfig")},
                    "Admin": {"Port": 0},
                    "Workers": workers,
                    **ours,
                },
            }
        )
    )
    return path


STATIC = {
    "Kind": "static",
    "Identities": [
        {"Address": "100.64.0.5", "User": "ada@corp.example", "Groups": ["dev"]},
        {"Address": "127.0.0.1", "User": "dev@corp.example"},
    ],
}


@pytest.fixture
def start(tmp_path):
    """Start daemons that end with the test."""
    daemons = []

    def run(*arguments, **options) -> Daemon:
        daemon = Daemon(tmp_path, *map(str, arguments), **options)
        daemons.append(daemon)
        return daemon

    yield run

    async def end() -> None:
        for daemon in daemons:
            if daemon.transport.pid is not None:
                daemon.signal(signal.SIGKILL)
            await daemon.ends()

    pytest_twisted.blockon(Deferred.fromCoroutine(end()))
