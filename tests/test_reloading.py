"""What a reload changes in a service that runs, as the processes that it is."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import time
from pathlib import Path

import pytest
import treq
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.web.client import Agent

from tests import daemon as daemons
from tests.daemon import STATIC, ApiServer, write
from tests.proxy.servers import dial, eventually
from tests.proxyheader import proxy_header

api, start = daemons.api, daemons.start

ASK = b"GET /api/v1/pods HTTP/1.1\r\nHost: kube\r\n\r\n"
WATCH = b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nHost: kube\r\n\r\n"
AS_ROOT = ASK[:-2] + b"Impersonate-User: root\r\n\r\n"
IN_FORCE = "the configuration was read again and is in force"
SINCE = "tailproxy_config_last_reload_success_timestamp_seconds"


@pytest.fixture(params=[1, 2])
def running(request, start, api, tmp_path):
    """Start a service as one process and with two workers."""
    api.kubeconfig(tmp_path / "kubeconfig")

    class Running:
        """The service, and its configuration."""

        def __init__(self, top: dict | None = None, **ours) -> None:
            self.daemon = start("--config", self.write(top, **ours))

        def write(self, top: dict | None = None, **ours) -> Path:
            return write(tmp_path, top, **{"workers": request.param, "Resolver": STATIC, **ours})

        async def begun(self) -> Running:
            for worker in range(request.param if request.param > 1 else 0):
                await self.daemon.says(f"worker {worker + 1} is ready")
            await self.daemon.says("impersonation is well")
            return self

        async def becomes(self, top: dict | None = None, **ours) -> str:
            """Reload with another configuration; the line that says so."""
            self.write(top, **ours)
            return await self.reloads(IN_FORCE)

        async def reloads(self, says: str) -> str:
            seen = self.said(says)
            self.daemon.signal(signal.SIGHUP)
            await eventually(lambda: self.said(says) > seen or self.daemon.code is not None, 15)
            assert self.daemon.code is None, self.daemon.err
            return [e["message"] for e in self.daemon.events() if says in e["message"]][-1]

        def said(self, what: str) -> int:
            return sum(what in event["message"] for event in self.daemon.events())

        async def dial(self, first: bytes = b"", port: int | None = None):
            wire = await dial(port or await self.daemon.listens("serve"), "127.0.0.2")
            wire.send(proxy_header("100.64.0.5") + first)
            return wire

        async def answered(self, request: bytes = ASK, port: int | None = None) -> bytes:
            """One request over a connection of its own."""
            wire = await self.dial(request, port)
            await wire.until(lambda: wire.lost or b"}" in wire.received)
            wire.transport.loseConnection()
            return wire.received

        async def watching(self):
            wire = await self.dial(WATCH)
            await wire.receives(b"ADDED")
            return wire

        async def figure(self, name: str) -> float:
            _, text = await self.daemon.admin("/metrics")
            return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])

        async def readiness(self) -> str:
            return (await self.daemon.admin("/readyz?verbose"))[1]

    async def run(top: dict | None = None, **ours) -> Running:
        return await Running(top, **ours).begun()

    return run


async def test_nothing_is_closed_and_nobody_refused(running):
    service = await running()
    watch, kept = await service.watching(), await service.dial(ASK)
    await kept.receives(b"}")
    children = service.daemon.workers
    service.write(ClientImpersonation="strip", Drain={"Streams": 3})
    service.daemon.signal(signal.SIGHUP)
    while IN_FORCE not in service.daemon.err:
        answers = [Deferred.fromCoroutine(service.answered()) for _ in range(4)]
        for answer in await gatherResults(answers):
            assert b" 200 " in answer
        assert (await service.daemon.admin("/readyz"))[0] == 200
    line = await service.daemon.says(IN_FORCE)
    assert "Tailproxy.ClientImpersonation, Tailproxy.Drain.Streams" in line.string
    # In force on a connection that was open before too: what was refused is now taken away.
    kept.received = b""
    kept.send(AS_ROOT)
    assert b" 200 " in await kept.receives(b"}")
    assert not watch.lost
    assert service.daemon.workers == children
    for wire in (watch, kept):
        wire.transport.loseConnection()


async def test_a_change_of_the_file_needs_no_signal(running):
    service = await running()
    assert b" 403 " in await service.answered(AS_ROOT)
    service.write(ClientImpersonation="strip")
    await service.daemon.says(IN_FORCE)
    assert b" 200 " in await service.answered(AS_ROOT)


async def test_the_mode_is_that_of_the_next_request(running):
    service = await running()
    assert b'"impersonate-user": "ada@corp.example"' in await service.answered()
    await service.becomes({"APIServerProxy": {"Mode": "noauth"}})
    answer = await service.answered(ASK[:-2] + b"Authorization: Bearer mine\r\n\r\n")
    assert b"impersonate" not in answer
    assert b'"authorization": "Bearer mine"' in answer
    assert "impersonation" not in await service.readiness()
    await service.becomes()
    assert b'"impersonate-user": "ada@corp.example"' in await service.answered()


async def test_listeners_come_and_go_and_their_connections_stay(running):
    service = await running()
    old = await service.daemon.listens("serve")
    watch = await service.watching()
    await service.becomes(
        Listeners=[{"Address": "127.0.0.3:0", "Name": "new", "Service": "svc:kube"}]
    )
    await eventually(lambda: service.said("listener-new listens"))
    port = await service.daemon.listens("new")
    wire = await dial(port, "127.0.0.3")
    wire.send(proxy_header("100.64.0.5") + ASK)
    assert b" 200 " in await wire.receives(b"}")
    wire.transport.loseConnection()
    with pytest.raises(ConnectError):
        await dial(old, "127.0.0.2")
    assert not watch.lost
    assert "[+]listeners ok: 1 open" in await service.readiness()
    watch.transport.loseConnection()


async def test_a_port_that_is_taken_makes_it_a_bad_one(running, api):
    service = await running()
    taken = api.port.getHost().port
    service.write(Listeners=[{"Address": "127.0.0.2:0"}], Admin={"Port": taken})
    service.write(
        Listeners=[
            {"Address": "127.0.0.2:0"},
            {"Kind": "loopback", "Address": f"127.0.0.1:{taken}", "Name": "other"},
        ],
        Certificates={"Source": "self-signed"},
    )
    said = await service.reloads("keeping the configuration as it was")
    assert f"cannot listen on 127.0.0.1 port {taken}: Address already in use" in said
    assert b" 200 " in await service.answered()
    readiness = await service.readiness()
    assert "[+]listeners ok: 1 open" in readiness
    assert "[+]configuration ok: the last good one is in force" in readiness


async def test_requests_go_to_another_api_server_and_those_under_way_stay(running, tmp_path):
    service = await running()
    watch = await service.watching()
    other = ApiServer()
    other.kubeconfig(tmp_path / "kubeconfig")  # the file that the configuration names
    await service.reloads(IN_FORCE)
    port = other.port.getHost().port
    assert f'"host": "127.0.0.1:{port}"'.encode() in await service.answered()
    assert not watch.lost
    await eventually(lambda: service.said("apiserver is well") >= 2)
    watch.transport.loseConnection()
    await other.port.stopListening()


async def test_new_handshakes_get_the_new_certificate(running, api, tmp_path):
    first, second = tmp_path / "first.pem", tmp_path / "second.pem"
    for path, name in ((first, "one.example"), (second, "two.example")):
        path.write_bytes(_pem(api, name))
    listener = {"Listeners": [{"Address": "127.0.0.2:0", "TLS": "own"}]}

    def files(path: Path) -> dict:
        return {"Source": "files", "Chain": str(path), "Key": str(path)}

    service = await running(**listener, Certificates=files(first))
    port = await service.daemon.listens("serve")
    assert await _shown(port) == "one.example"
    await service.becomes(**listener, Certificates=files(second))
    assert await _shown(port) == "two.example"
    second.write_text("no certificate")
    service.write(**listener, Certificates=files(tmp_path / "missing"))
    said = await service.reloads("keeping the configuration as it was")
    assert "missing" in said
    assert await _shown(port) == "two.example"


def _pem(api, name: str) -> bytes:
    certificate, key = api.authority.issue(name)
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


async def _shown(port: int) -> str:
    """Whose certificate a listener shows behind a PROXY header."""
    return await deferToThread(_look, port)


def _look(port: int) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.2", port), 10) as raw:
        raw.sendall(proxy_header("100.64.0.5"))
        with context.wrap_socket(raw) as tls:
            shown = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)[0]


async def test_the_next_line_has_the_new_level_and_form(running):
    service = await running()
    access = "ada@corp.example GET /api/v1/pods 200"
    port = await service.daemon.listens("serve")
    await service.answered()
    await eventually(lambda: access in service.daemon.err)
    before = await service.figure(SINCE)
    service.write({"LogLevel": "warn"})
    service.daemon.signal(signal.SIGHUP)
    while await service.figure(SINCE) == before:
        await deferLater(reactor, 0.01)
    await service.answered()
    service.write({"LogLevel": "info"}, Log={"Format": "text"})
    service.daemon.signal(signal.SIGHUP)
    await eventually(lambda: f"info  tailproxy.reload.Reloader: {IN_FORCE}" in service.daemon.err)
    await service.answered(port=port)
    await eventually(lambda: f"info  tailproxy.access: {access}" in service.daemon.err)
    assert service.daemon.err.count(access) == 2


async def test_the_admin_port_moves(running):
    service = await running()
    where = re.compile(r"probes and metrics on (\S+) port (\d+)")
    line = await service.becomes(Admin={"Address": "127.0.0.9", "Port": 0})
    assert line.endswith(": Tailproxy.Admin.Address")
    await eventually(lambda: len(where.findall(service.daemon.err)) == 2)
    (first, port), (second, other) = where.findall(service.daemon.err)
    assert (first, second) == ("127.0.0.2", "127.0.0.9")
    with pytest.raises(ConnectError):
        await dial(int(port), first)
    response = await treq.get(f"http://{second}:{other}/readyz", agent=Agent(reactor))
    assert response.code == 200
    await treq.content(response)


async def test_the_table_of_callers_is_the_new_one(running):
    service = await running()
    row = {"Address": "100.64.0.5", "User": "bob@corp.example"}
    await service.becomes(Resolver={"Kind": "static", "Identities": [row]})
    assert b'"impersonate-user": "bob@corp.example"' in await service.answered()


async def test_a_bad_configuration_is_not_taken_up(running, tmp_path):
    service = await running()
    children, before = service.daemon.workers, time.time()
    path = tmp_path / "tailproxy.hujson"
    path.write_text('{"Version": "v1alpha1", "Tailproxy": {"Wokers": 2}}')
    said = await service.reloads("keeping the configuration as it was")
    assert "did you mean Workers" in said
    assert service.daemon.workers == children
    status, text = await service.daemon.admin("/readyz?verbose")
    assert status == 200
    assert "[+]configuration ok: the last good one is in force; the new one is not used: " in text
    successful = "tailproxy_config_last_reload_successful"
    assert await service.figure(successful) == 0
    assert await service.figure(SINCE) < before
    assert b" 200 " in await service.answered()
    await service.becomes()
    assert await service.figure(successful) == 1
    assert await service.figure(SINCE) > before


async def test_the_number_of_workers_follows(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    service = start("--config", write(tmp_path, Resolver=STATIC))
    await service.says("worker 2 is ready")
    write(tmp_path, workers=3, Resolver=STATIC)
    await service.says("worker 3 is ready")
    write(tmp_path, workers=1, Resolver=STATIC)
    await eventually(lambda: len(service.workers) == 1, 15)
    _, text = await service.admin("/readyz?verbose")
    assert "[+]workers ok: 1 of 1 ready\n" in text


async def test_one_process_stays_one_and_says_so(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    service = start("--config", write(tmp_path, workers=1, Resolver=STATIC))
    await service.says("impersonation is well")
    write(tmp_path, workers=2, Resolver=STATIC)
    await service.says(r"Tailproxy\.Workers in the configuration: no effect before a restart")
    assert service.workers == []
