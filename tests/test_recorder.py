"""The recorder of `twistd tailproxy`, as the processes that it is."""

from __future__ import annotations

import json
import signal

import pytest
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from tests import daemon as daemons
from tests.daemon import write
from tests.proxy.servers import eventually
from tests.proxyheader import proxy_header
from tests.recorder.place import Sender, event, header

api, start = daemons.api, daemons.start

CAST = header() + event(0.5, "hello\r\n")
PROXY, OTHER = "100.64.0.5", "100.64.0.6"
RESOLVER = {
    "Kind": "static",
    "Identities": [
        {"Address": PROXY, "Node": "proxy.ts.net", "Tags": ["tag:k8s"]},
        {"Address": OTHER, "Node": "other.ts.net", "Tags": ["tag:other"]},
    ],
}


class Behind(Sender):
    """A client behind tailscaled's serve, which says who it is."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source

    def connectionMade(self) -> None:
        self.transport.write(proxy_header(self._source))
        super().connectionMade()


async def dial(port: int, source: str = PROXY) -> Behind:
    return await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.2", port), Behind(source))


@pytest.mark.parametrize("workers", [1, 2])
async def test_it_runs_beside_the_proxy(start, api, tmp_path, workers):
    api.kubeconfig(tmp_path / "kubeconfig")
    folder = tmp_path / "kept"

    def configure(**changes):
        options = {
            "From": ["tag:k8s"],
            "Folder": str(folder),
            "Address": "127.0.0.2:0",
            "FreeBytes": 0,
            **changes,
        }
        return write(tmp_path, workers=workers, Resolver=RESOLVER, Recorder=options)

    daemon = start("--config", configure())
    port = await daemon.listens("recorder")
    client, other = await dial(port), await dial(port, OTHER)
    await client.upload(CAST)
    assert (await other.status("POST", "/v2/record"))[0] == 403
    (kept,) = folder.glob("*/*.cast")
    assert kept.read_bytes() == CAST
    await daemon.says(r"recording .* of ada@corp\.example in shop/web-0 from proxy\.ts\.net")
    await daemon.says("impersonation is well")
    _, standing = await daemon.admin("/readyz?verbose")
    assert "[+]recorder ok: 0 uploads under way" in standing
    _, metrics = await daemon.admin("/metrics")
    assert 'tailproxy_recorder_uploads_total{state="complete"} 1.0' in metrics

    configure(From=["tag:other"])
    daemon.signal(signal.SIGHUP)
    await daemon.says("the configuration was read again and is in force")
    assert (await client.status("POST", "/v2/record"))[0] == 403
    stream = other.request("POST", "/v2/record")
    other.send(stream, CAST)
    await other.until(lambda: other.acked(stream) == len(CAST))

    configure(From=["tag:other"], Folder=str(tmp_path / "elsewhere"))
    daemon.signal(signal.SIGHUP)
    await daemon.says("Folder, Kind, Address and Encrypt of Tailproxy.Recorder .* before a restart")
    daemon.signal(signal.SIGTERM)
    assert other.transport.connected
    other.send(stream, event(1, "the end\r\n"), end=True)
    assert "error" not in (await other.answered(stream))[-1]
    assert await daemon.ends() == 0
    kept = [path.read_bytes() for path in sorted(folder.glob("*/*.cast"))]
    assert sorted(kept) == sorted([CAST, CAST + event(1, "the end\r\n")])
    states = [json.loads(path.read_text())["state"] for path in folder.glob("*/*.json")]
    assert states == ["complete", "complete"]
    for each in (client, other):
        each.transport.loseConnection()


async def test_a_folder_that_cannot_be_used_makes_it_unready(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    (tmp_path / "file").write_text("in the way")
    options = {"From": ["tag:k8s"], "Folder": str(tmp_path / "file"), "Address": "127.0.0.2:0"}
    daemon = start("--config", write(tmp_path, Resolver=RESOLVER, Recorder=options))
    await daemon.says("the recorder's folder cannot be used: .*exists")
    code, standing = await daemon.admin("/readyz?verbose")
    assert code == 503
    assert "[-]recorder failed: its folder cannot be used" in standing
    client = await dial(await daemon.listens("recorder"))
    assert (await client.status("POST", "/v2/record"))[0] == 507
    client.transport.loseConnection()
    await eventually(lambda: client.lost)
