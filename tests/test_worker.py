"""A supervisor and its workers, as the processes that they are."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import treq
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.web.client import Agent

from tests import daemon as daemons
from tests.daemon import ROOT, STATIC, TWISTD, write
from tests.proxy.servers import dial, eventually
from tests.proxyheader import proxy_header

api, start = daemons.api, daemons.start

ASK = b"GET /api/v1/pods HTTP/1.1\r\nHost: kube\r\n\r\n"
WATCH = b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nHost: kube\r\n\r\n"


def alive(pid: int) -> bool:
    """Whether the process runs; its remains do not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def open_files(pid: int) -> int:
    """How many descriptors the process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.fixture
def running(start, api, tmp_path):
    """Start a service with two workers, and wait for both."""
    api.kubeconfig(tmp_path / "kubeconfig")

    async def run(**ours):
        service = start("--config", write(tmp_path, **{"Resolver": STATIC, **ours}))
        await service.says("worker 1 is ready")
        await service.says("worker 2 is ready")
        await service.says("impersonation is well")
        return service

    return run


async def connected(service, first: bytes = b""):
    """A connection of a known caller."""
    wire = await dial(await service.listens("serve"), "127.0.0.2")
    wire.send(proxy_header("100.64.0.5") + first)
    return wire


async def answered(service) -> bytes:
    """One request over a connection of its own."""
    wire = await connected(service, ASK)
    await wire.until(lambda: wire.lost or b"}" in wire.received)
    wire.transport.loseConnection()
    return wire.received


async def watching(service):
    wire = await connected(service, WATCH)
    await wire.receives(b"ADDED")
    return wire


async def stuck(service):
    """A connection with a request whose body never ends, which keeps a drain waiting."""
    wire = await connected(service, ASK[:-2] + b"Content-Length: 5\r\n\r\n")
    while await figure(service, CONNECTIONS) != 1:
        await deferLater(reactor, 0.01)
    return wire


async def figure(service, name: str) -> float:
    _, text = await service.admin("/metrics")
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])


CONNECTIONS = 'tailproxy_connections{listener="serve"}'
LISTS = 'tailproxy_requests_total{code="200",mode="auth",verb="list"}'


async def test_one_worker_means_no_other_process(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    service = start("--config", write(tmp_path, workers=1, Resolver=STATIC))
    await service.says("impersonation is well")
    assert b" 200 " in await answered(service)
    assert service.workers == []
    _, text = await service.admin("/readyz?verbose")
    assert "workers" not in text


async def test_connections_are_spread_and_everything_is_counted_once(running):
    service = await running()
    wires = [await watching(service) for _ in range(6)]
    found = [open_files(pid) for pid in service.workers]
    assert abs(found[0] - found[1]) <= 1
    assert await figure(service, CONNECTIONS) == 6
    assert await figure(service, "tailproxy_workers") == 2
    assert await figure(service, "tailproxy_worker_restarts_total") == 0
    for wire in wires:
        wire.transport.loseConnection()
    _, text = await service.admin("/readyz?verbose")
    assert "[+]workers ok: 2 of 2 ready\n" in text
    _, text = await service.admin("/metrics")
    assert text.count("tailproxy_build_info{") == 1


async def test_counts_of_all_workers_are_one_and_never_go_down(running):
    service = await running()
    for _ in range(10):
        await answered(service)
    assert await figure(service, LISTS) == 10
    os.kill(service.workers[0], signal.SIGKILL)
    await service.says("worker \\d ended: signal SIGKILL")
    assert await figure(service, LISTS) == 10


async def test_a_worker_that_is_killed_harms_no_other_and_is_started_again(running):
    service = await running()
    wires = [await watching(service) for _ in range(4)]
    killed = service.workers[0]
    os.kill(killed, signal.SIGKILL)
    await eventually(lambda: sum(wire.lost for wire in wires) == 2)
    assert b" 200 " in await answered(service)
    await eventually(lambda: len([e for e in service.events() if "is ready" in e["message"]]) == 3)
    assert killed not in service.workers
    assert len(service.workers) == 2
    assert sum(wire.lost for wire in wires) == 2
    assert await figure(service, "tailproxy_worker_restarts_total") == 1
    for wire in wires:
        wire.transport.loseConnection()


async def test_without_any_worker_connections_wait_and_are_served_later(running):
    service = await running()
    for pid in service.workers:
        os.kill(pid, signal.SIGKILL)
    while "0 of 2 ready" not in (await service.admin("/readyz"))[1]:
        await deferLater(reactor, 0.005)
    wires = [await connected(service, ASK) for _ in range(20)]
    assert "0 of 2 ready" in (await service.admin("/readyz"))[1]
    for wire in wires:
        assert b" 200 " in await wire.receives(b"}", 15)
        wire.transport.loseConnection()


async def test_workers_leave_when_the_supervisor_is_gone(running):
    service = await running()
    workers = service.workers
    wire = await watching(service)
    service.signal(signal.SIGKILL)
    await service.ends()
    assert (await wire.ends()).endswith(b"\r\n0\r\n\r\n")  # the watch ended as in any drain
    await eventually(lambda: not any(map(alive, workers)), 10)


async def test_a_drain_ends_watches_in_every_worker_and_is_over_soon(running):
    service = await running()
    wires = [await watching(service) for _ in range(4)]
    workers = service.workers
    service.signal(signal.SIGTERM)
    for wire in wires:
        assert (await wire.ends()).endswith(b"\r\n0\r\n\r\n")
    assert await service.ends() == 0
    assert not any(map(alive, workers))
    messages = [event["message"] for event in service.events()]
    assert messages.count("drained") == 3  # the supervisor's too; nobody's last words are cut
    assert not any("ended:" in message for message in messages)


async def test_probes_are_answered_during_the_drain(running):
    service = await running(Drain={"Requests": 2, "Streams": 2})
    wire = await stuck(service)
    port = int(re.search(r"127\.0\.0\.2 port (\d+)", service.err)[1])
    service.signal(signal.SIGTERM)
    await service.says("draining 1 connections")
    response = await treq.get(f"http://127.0.0.2:{port}/readyz", agent=Agent(reactor))
    assert response.code == 503
    assert "[-]listeners failed: the service is leaving" in await treq.text_content(response)
    await wire.ends()
    assert await service.ends() == 0


async def test_a_second_signal_leaves_no_worker_behind(running):
    service = await running(Drain={"Requests": 60, "Streams": 60})
    wire = await stuck(service)
    workers = service.workers
    service.signal(signal.SIGTERM)
    await service.says("a second signal")
    service.signal(signal.SIGTERM)
    assert await service.ends() == 1
    await eventually(lambda: not any(map(alive, workers)))
    await wire.ends()


async def test_a_worker_that_is_told_to_go_drains_and_is_replaced(running):
    service = await running()
    wires = [await watching(service) for _ in range(2)]
    gone = service.workers[0]
    os.kill(gone, signal.SIGTERM)
    await eventually(lambda: sum(wire.lost for wire in wires) == 1)
    (ended,) = [wire for wire in wires if wire.lost]
    assert ended.received.endswith(b"\r\n0\r\n\r\n")
    await eventually(lambda: len([e for e in service.events() if "is ready" in e["message"]]) == 3)
    await eventually(lambda: gone not in service.workers)
    assert len(service.workers) == 2
    for wire in wires:
        wire.transport.loseConnection()


async def test_access_lines_of_all_workers_are_whole(running):
    service = await running()
    wires = [await connected(service) for _ in range(8)]
    for number in range(1, 51):
        for wire in wires:
            wire.send(ASK)
        for wire in wires:
            await wire.until(
                lambda wire=wire, number=number: wire.received.count(b"HTTP/1.1 200 ") == number
            )
    await eventually(lambda: len([e for e in service.events() if "verb" in e]) == 400)


async def test_an_observer_of_the_users_own_gets_the_workers_events(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    (tmp_path / "observing.py").write_text(
        "import sys\n"
        "from twisted.logger import ILogObserver, formatEvent\n"
        "from zope.interface import provider\n"
        "@provider(ILogObserver)\n"
        "def observer(event):\n"
        "    text = formatEvent(event)\n"
        "    print('SEEN', event.get('log_namespace'), event.get('verb'), text,\n"
        "          file=sys.__stderr__, flush=True)\n"
        "def make():\n"
        "    return observer\n"
    )
    service = start(
        "--config", write(tmp_path, Resolver=STATIC), twistd=["--logger", "observing.make"]
    )
    await eventually(lambda: "worker 2 is ready" in service.err, 15)
    port = int(re.search(r"listener-serve listens on .*port=(\d+)", service.err)[1])
    wire = await dial(port, "127.0.0.2")
    wire.send(proxy_header("100.64.0.5") + ASK)
    await wire.receives(b"}")
    wire.transport.loseConnection()
    await eventually(
        lambda: re.search(r"SEEN tailproxy\S* list ada@corp\.example GET ", service.err)
    )


async def test_it_works_as_a_daemon(api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    config, log, pidfile = write(tmp_path, Resolver=STATIC), tmp_path / "log", tmp_path / "pid"
    _, err, code = await getProcessOutputAndValue(
        sys.executable,
        [str(TWISTD), f"--logfile={log}", f"--pidfile={pidfile}", "tailproxy", "-c", str(config)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        path=str(tmp_path),
    )
    assert (code, err) == (0, b"")
    await eventually(pidfile.exists)
    supervisor = int(pidfile.read_text())
    try:
        await eventually(lambda: log.exists() and "worker 2 is ready" in log.read_text(), 15)
        port = int(re.search(r"listens on .*?port=(\d+)", log.read_text())[1])
        wire = await dial(port, "127.0.0.2")
        wire.send(proxy_header("100.64.0.5") + ASK)
        assert b" 200 " in await wire.receives(b"}")
        wire.transport.loseConnection()
        await eventually(lambda: '"verb": "list"' in log.read_text())
        os.kill(supervisor, signal.SIGTERM)
        await eventually(lambda: not alive(supervisor), 15)
    finally:
        if alive(supervisor):
            os.kill(supervisor, signal.SIGKILL)
    assert not pidfile.exists()
    for line in log.read_text().splitlines():
        json.loads(line)


async def test_a_worker_is_started_again_with_the_configuration_that_was_read(running, tmp_path):
    service = await running()
    (tmp_path / "tailproxy.hujson").unlink()
    os.kill(service.workers[0], signal.SIGKILL)
    await eventually(lambda: len([e for e in service.events() if "is ready" in e["message"]]) == 3)
    assert len(service.workers) == 2
