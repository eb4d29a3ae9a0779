"""Everything that a request needs is looked at."""

from __future__ import annotations

import json

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.web.resource import Resource
from twisted.web.server import Site

from tailproxy.doctor import examine
from tailproxy.testing import FakeLocalAPI, Reply
from tests import daemon as daemons
from tests.daemon import STATIC, write

FQDN = "kube.corp-cat.ts.net"
STATUS = {
    "BackendState": "Running",
    "Version": "1.102.4",
    "TailscaleIPs": ["100.64.0.1"],
    "CertDomains": [FQDN],
    "Self": {"DNSName": f"{FQDN}."},
}
SERVE = {"TCP": {"443": {"TCPForward": "127.0.0.2:8443", "TerminateTLS": FQDN, "ProxyProtocol": 2}}}
LISTENERS = [{"Address": "127.0.0.2:8443"}]
ALL = [
    "configuration", "tailscaled", "node", "name", "serve (serve)", "readiness", "apiserver",
    "impersonation",
]  # fmt: skip

api = daemons.api


class Ready(Resource):
    """An admin port."""

    isLeaf = True
    code = 200
    text = b"ok"

    def render_GET(self, request) -> bytes:
        request.setResponseCode(self.code)
        return self.text


@pytest.fixture
def ready():
    page = Ready()
    site = Site(page)
    site.noisy = False
    port = pytest_twisted.blockon(
        serverFromString(reactor, "tcp:0:interface=127.0.0.2").listen(site)
    )
    page.port = port.getHost().port
    yield page
    pytest_twisted.blockon(port.stopListening())


@pytest.fixture
def tailscaled(tmp_path):
    fake = FakeLocalAPI()
    fake.start(reactor, str(tmp_path / "tailscaled.sock"))
    fake.replies |= {
        "status": Reply(STATUS),
        "prefs": Reply({"ShieldsUp": False}),
        "serve-config": Reply(SERVE),
    }
    yield fake
    pytest_twisted.blockon(fake.stop())


@pytest.fixture
def config(tmp_path, api, ready):
    """Writes a configuration of which all is well, but for what a test says."""
    api.kubeconfig(tmp_path / "kubeconfig")

    def make(top: dict | None = None, **ours: object) -> str:
        values = {"Listeners": LISTENERS, "Admin": {"Port": ready.port}, **ours}
        return str(write(tmp_path, top, **values))

    return make


async def look(source: str) -> dict[str, tuple[bool | None, str]]:
    return {each.name: (each.ok, each.detail) async for each in examine(source, reactor)}


def states(found: dict) -> dict:
    return {name: ok for name, (ok, _) in found.items() if ok is not True}


@pytest.mark.usefixtures("tailscaled")
async def test_all_is_well(config):
    found = await look(config())
    assert list(found) == ALL
    assert states(found) == {}
    assert found["name"][1] == FQDN


async def test_a_configuration_that_cannot_be_used_is_all_that_is_said(tmp_path):
    found = await look(str(tmp_path / "gone"))
    assert states(found) == {"configuration": False}
    assert "cannot read the configuration" in found["configuration"][1]


async def test_without_tailscaled_the_rest_is_looked_at(config):
    found = await look(config())
    assert states(found) == {
        "tailscaled": False,
        "node": None,
        "name": None,
        "serve (serve)": None,
    }
    assert "start tailscaled" in found["tailscaled"][1]


@pytest.mark.parametrize(
    ("endpoint", "answer", "problem", "says"),
    [
        ("status", {**STATUS, "BackendState": "NeedsLogin"}, "node", "`tailscale up`"),
        ("status", {**STATUS, "TailscaleIPs": None}, "node", "no address"),
        ("status", {**STATUS, "CertDomains": None}, "name", "HTTPS"),
        ("prefs", {"ShieldsUp": True}, "node", "tailscale set --shields-up=false"),
        ("serve-config", {}, "serve (serve)", "tailscale serve"),
        ("serve-config", None, "serve (serve)", "tailscale serve"),
    ],
)
async def test_what_is_wrong_with_the_node_is_said(
    config, tailscaled, endpoint, answer, problem, says
):
    tailscaled.replies[endpoint] = Reply(answer)
    found = await look(config())
    assert states(found) == {problem: False}
    assert says in found[problem][1]


@pytest.mark.usefixtures("tailscaled")
async def test_reasons_of_not_ready_are_repeated(config, ready):
    ready.code, ready.text = (
        503,
        b"[+]tailscaled ok: x\n[-]listeners failed: not listening: serve\n",
    )
    found = await look(config())
    assert states(found) == {"readiness": False}
    assert found["readiness"][1].endswith("answers 503: listeners failed: not listening: serve")


@pytest.mark.usefixtures("tailscaled")
async def test_a_service_that_does_not_run_is_said(config, ready):
    source = config(Admin={"Port": ready.port, "Address": "127.0.0.3"})
    found = await look(source)
    assert states(found) == {"readiness": False}
    assert "start the service with `twistd tailproxy`" in found["readiness"][1]


@pytest.mark.usefixtures("tailscaled")
async def test_an_api_server_that_is_away_is_said_once(config, tmp_path, monkeypatch):
    monkeypatch.setattr("tailproxy.doctor._PAUSE", 0.01)
    source = config()
    kubeconfig = json.loads((tmp_path / "kubeconfig").read_text())
    kubeconfig["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    found = await look(source)
    assert states(found) == {"apiserver": False, "impersonation": None}
    assert "cannot connect to 127.0.0.1:1" in found["apiserver"][1]
    assert "whether Tailproxy.Upstream leads to it" in found["apiserver"][1]


@pytest.mark.usefixtures("tailscaled")
async def test_an_api_server_that_is_not_the_one_is_said(config, tmp_path, monkeypatch):
    monkeypatch.setattr("tailproxy.doctor._PAUSE", 0.01)
    source = config()
    kubeconfig = json.loads((tmp_path / "kubeconfig").read_text())
    kubeconfig["clusters"][0]["cluster"]["tls-server-name"] = "other.example"
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    found = await look(source)
    assert states(found) == {"apiserver": False, "impersonation": None}
    assert "certificate" in found["apiserver"][1]


@pytest.mark.usefixtures("tailscaled")
async def test_noauth_needs_no_rights(config):
    found = await look(config({"APIServerProxy": {"Mode": "noauth"}}))
    assert states(found) == {}
    assert "impersonation" not in found


async def test_the_static_resolver_needs_no_tailnet(config):
    found = await look(config(Resolver=STATIC))
    assert states(found) == {"tailscaled": None}


@pytest.mark.usefixtures("tailscaled")
async def test_without_an_admin_port_nothing_is_asked_there(config):
    found = await look(config(Admin=None))
    assert states(found) == {"readiness": None}
