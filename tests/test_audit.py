"""Audit sinks of the service, as the processes that it is."""

from __future__ import annotations

import json
import re
import signal

import pytest
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests import daemon as daemons
from tests.daemon import STATIC, write
from tests.proxy.servers import dial, eventually
from tests.proxyheader import proxy_header

api, start = daemons.api, daemons.start

ASK = b"GET /api/v1/pods HTTP/1.1\r\nHost: kube\r\n\r\n"


class Collector(Resource):
    """Takes lines, unless it is told to refuse them."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.code = 200
        self.lines: list[dict] = []
        self.asked = 0

    def render_POST(self, request) -> bytes:
        self.asked += 1
        request.setResponseCode(self.code)
        if self.code == 200:
            self.lines += map(json.loads, request.content.read().splitlines())
        return b""


@pytest.fixture
def collector():
    return Collector()


@pytest.fixture
def url(collector):
    port = reactor.listenTCP(0, Site(collector), interface="127.0.0.1")
    yield f"http://127.0.0.1:{port.getHost().port}/"
    port.stopListening()


async def ask(service, times: int) -> list[str]:
    """Ask so often, over connections that any worker may get; the IDs that the API server saw."""
    ids = []
    for _ in range(times // 5):
        wire = await dial(await service.listens("serve"), "127.0.0.2")
        wire.send(proxy_header("100.64.0.5"))
        for number in range(1, 6):
            wire.send(ASK)
            await wire.until(lambda n=number, w=wire: w.received.count(b"HTTP/1.1 200 ") == n)
        ids += re.findall(r'"audit-id": "(\w+)"', wire.received.decode())
        wire.transport.loseConnection()
    return ids


@pytest.mark.parametrize("workers", [1, 2])
async def test_file_and_server_have_the_lines_of_all_processes(
    start, api, tmp_path, collector, url, workers
):
    api.kubeconfig(tmp_path / "kubeconfig")
    path = tmp_path / "audit.log"
    sinks = [{"Kind": "file", "Path": str(path)}, {"Kind": "http", "Url": url}]
    service = start(
        "--config",
        write(tmp_path, workers=workers, Resolver=STATIC, Audit={"Sinks": sinks}),
    )
    await service.says("impersonation is well")
    seen = await ask(service, 100)
    await eventually(lambda: len(collector.lines) == 100)
    await eventually(lambda: len(path.read_text().splitlines()) == 100)
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(set(seen)) == 100
    assert sorted(line["request_id"] for line in written) == sorted(seen)
    assert sorted(line["request_id"] for line in collector.lines) == sorted(seen)
    assert {line["user"] for line in written} == {"ada@corp.example"}
    # The log is no sink here.
    assert [event for event in service.events() if "request_id" in event] == []
    _, text = await service.admin("/metrics")
    for sink in ("file", "http"):
        assert f'tailproxy_audit_lines_total{{sink="{sink}"}} 100.0' in text
        assert f'tailproxy_audit_dropped_total{{sink="{sink}"}} 0.0' in text


async def test_server_that_is_away_delays_no_request_and_gets_the_lines_later(
    start, api, tmp_path, collector, url
):
    api.kubeconfig(tmp_path / "kubeconfig")
    collector.code = 503
    service = start(
        "--config",
        write(
            tmp_path,
            workers=1,
            Resolver=STATIC,
            Audit={"Sinks": [{"Kind": "log"}, {"Kind": "http", "Url": url}]},
        ),
    )
    await service.says("impersonation is well")
    await ask(service, 20)
    await eventually(lambda: collector.asked > 1)
    assert collector.lines == []
    await ask(service, 20)
    collector.code = 200
    await eventually(lambda: len(collector.lines) == 40, 20)
    logged = [event["request_id"] for event in service.events() if "request_id" in event]
    assert [line["request_id"] for line in collector.lines] == logged


async def test_reload_takes_lines_elsewhere_and_loses_none(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    paths = [tmp_path / "one.log", tmp_path / "two.log"]

    def config(path) -> str:
        sinks = [{"Kind": "file", "Path": str(path)}]
        return write(tmp_path, workers=1, Resolver=STATIC, Audit={"Sinks": sinks})

    service = start("--config", config(paths[0]))
    await service.says("impersonation is well")
    await ask(service, 20)
    config(paths[1])
    service.signal(signal.SIGHUP)
    await service.says("is in force")
    await ask(service, 20)
    service.signal(signal.SIGTERM)
    assert await service.ends() == 0
    assert [len(path.read_text().splitlines()) for path in paths] == [20, 20]
