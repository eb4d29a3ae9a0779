"""`twistd tailproxy`, as a process of its own where that matters."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from OpenSSL import SSL
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory
from twisted.logger import ILogObserver
from zope.interface import implementer

import tailproxy
from tailproxy.assembly import serve
from tailproxy.config import Document, parse
from tailproxy.proxy.listener import Listener
from tailproxy.proxy.nodelistener import NodeListener
from tailproxy.schema import ConfigError
from tailproxy.tap import Options
from tailproxy.testing import FakeLocalAPI, Reply
from tests import daemon as daemons
from tests.daemon import STATIC, write
from tests.proxy.servers import Wire, dial, eventually
from tests.proxyheader import proxy_header
from tests.test_config import OPERATOR

if TYPE_CHECKING:
    pass


@implementer(IOpenSSLClientConnectionCreator)
class Unverified:
    """TLS to a server with a certificate that nobody vouches for."""

    def clientConnectionForTLS(self, protocol):
        connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        connection.set_connect_state()
        return connection


api, start = daemons.api, daemons.start


async def test_a_request_goes_through_the_whole_service(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    daemon = start("--config", write(tmp_path, Resolver=STATIC))
    client = await dial(await daemon.listens("serve"), "127.0.0.2")
    client.send(proxy_header("100.64.0.5") + b"GET /api/v1/pods?a=b HTTP/1.1\r\nHost: kube\r\n\r\n")
    answer = await client.receives(b"}")
    seen = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert seen["impersonate-user"] == "ada@corp.example"
    assert seen["impersonate-group"] == "dev"
    assert seen["authorization"] == "Bearer our-token"
    await daemon.says(r"ada@corp\.example GET /api/v1/pods 200")
    await daemon.says("impersonation is well")  # the last that readiness waits for at start
    await daemon.says(r"reactor class: tailproxy\.reactor\.ProxyReactor")
    assert (await daemon.admin("/readyz"))[0] == 200
    assert (await daemon.admin("/healthz"))[:2] == (200, "ok")
    _, metrics = await daemon.admin("/metrics")
    assert 'tailproxy_requests_total{code="200",mode="auth",verb="list"} 1.0' in metrics
    client.transport.loseConnection()
    assert "our-token" not in daemon.err


async def test_another_reactor_serves_as_well(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    daemon = start("--config", write(tmp_path, Resolver=STATIC), twistd=["--reactor=select"])
    client = await dial(await daemon.listens("serve"), "127.0.0.2")
    client.send(proxy_header("100.64.0.5") + b"GET /api/v1/pods HTTP/1.1\r\nHost: kube\r\n\r\n")
    await client.receives(b"ada@corp.example")
    await daemon.says("reactor class: .*SelectReactor")
    client.transport.loseConnection()


async def test_a_loopback_listener_ends_tls_itself(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    config = write(
        tmp_path,
        Resolver=STATIC,
        Listeners=[{"Kind": "loopback", "Address": "127.0.0.1:0"}],
        Certificates={"Source": "self-signed"},
    )
    daemon = start("--config", config)
    port = await daemon.listens("loopback")
    endpoint = wrapClientTLS(Unverified(), HostnameEndpoint(reactor, "127.0.0.1", port))
    factory = Factory.forProtocol(Wire)
    factory.noisy = False
    wire = await endpoint.connect(factory)
    wire.send(b"GET /.tailproxy/whoami HTTP/1.1\r\nHost: kube\r\n\r\n")
    assert b"dev@corp.example" in await wire.receives(b"dev@corp.example")
    wire.transport.loseConnection()
    await wire.ends()


async def test_every_log_line_is_json_and_there_only_once(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    daemon = start("--config", write(tmp_path, Resolver=STATIC))
    await daemon.listens("serve")
    daemon.signal(signal.SIGTERM)
    assert await daemon.ends() == 0
    assert daemon.out == ""
    messages = [event["message"] for event in daemon.events()]
    assert len([text for text in messages if "listener-serve listens" in text]) == 1
    for event in daemon.events():
        assert list(event)[:4] == ["time", "level", "logger", "message"]
    assert not (tmp_path / "tailproxy.pid").exists()


async def test_text_lines_can_be_asked_for(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    daemon = start("--config", write(tmp_path, Resolver=STATIC, Log={"Format": "text"}))
    await eventually(lambda: "listener-serve listens on" in daemon.err, 15)
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z info  \S+: ", daemon.err)


async def test_a_tailscaled_that_comes_late_makes_it_healthy_without_a_restart(
    start, api, tmp_path
):
    api.kubeconfig(tmp_path / "kubeconfig")
    daemon = start("--config", write(tmp_path))
    code, text = await daemon.admin("/readyz")
    assert code == 503
    assert f"no socket {tmp_path / 'tailscaled.sock'}" in text
    assert (await daemon.admin("/livez"))[0] == 200
    assert (await daemon.admin("/healthz"))[0] == 503
    fake = FakeLocalAPI()
    fake.replies["status"] = Reply(
        {"BackendState": "Running", "TailscaleIPs": ["100.64.0.1"], "Version": "1.102.4"}
    )
    fake.start(reactor, str(tmp_path / "tailscaled.sock"))
    await daemon.says(r"The node is now Running")
    assert (await daemon.admin("/healthz"))[0] == 200
    daemon.signal(signal.SIGTERM)
    assert await daemon.ends() == 0
    await fake.stop()


async def test_an_api_server_that_is_away_makes_it_unready_and_no_more(start, tmp_path):
    api = daemons.ApiServer()
    api.kubeconfig(tmp_path / "kubeconfig")
    await api.port.stopListening()
    daemon = start("--config", write(tmp_path, Resolver=STATIC))
    await daemon.says("apiserver fails")
    code, text = await daemon.admin("/readyz")
    assert code == 503
    assert "[-]apiserver failed: " in text
    assert "onnection refused" in text


async def test_a_port_that_is_taken_ends_the_start_with_one_line(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    taken = reactor.listenTCP(0, Factory.forProtocol(Wire), interface="127.0.0.2")
    port = taken.getHost().port
    for ours in ({"Listeners": [{"Address": f"127.0.0.2:{port}"}]}, {"Admin": {"Port": port}}):
        daemon = start("--config", write(tmp_path, Resolver=STATIC, **ours))
        assert await daemon.ends() == 1
        assert daemon.err == (
            f"tailproxy: cannot listen on 127.0.0.2 port {port}: Address already in use\n"
        )
        assert not (tmp_path / "tailproxy.pid").exists()
    await taken.stopListening()


async def test_a_second_signal_ends_it_at_once(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    config = write(tmp_path, Resolver=STATIC, Drain={"Requests": 60, "Streams": 60})
    daemon = start("--config", config)
    client = await dial(await daemon.listens("serve"), "127.0.0.2")
    # A request whose body never ends keeps the drain waiting.
    client.send(
        proxy_header("100.64.0.5")
        + b"POST /api/v1/pods HTTP/1.1\r\nHost: kube\r\nContent-Length: 5\r\n\r\n"
    )
    await daemon.says("worker 1 is ready")
    await daemon.says("worker 2 is ready")
    code, _ = await daemon.admin("/livez")
    assert code == 200
    daemon.signal(signal.SIGTERM)
    await daemon.says("a second signal")
    await daemon.says("draining 1 connections")
    daemon.signal(signal.SIGTERM)
    assert await daemon.ends() == 1
    assert daemon.err.endswith("tailproxy: ended by a second signal\n")
    assert not (tmp_path / "tailproxy.pid").exists()
    await client.ends()


async def test_twistds_own_log_file_is_written_to(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    log = tmp_path / "twistd.log"
    daemon = start("--config", write(tmp_path, Resolver=STATIC), twistd=["--logfile", str(log)])
    await eventually(lambda: log.exists() and "listener-serve listens" in log.read_text(), 15)
    assert json.loads(log.read_text().splitlines()[0])["level"] == "info"
    assert daemon.err == ""


PLUGIN = """
from twisted.plugin import IPlugin
from twisted.web.resource import Resource
from zope.interface import implementer
from tailproxy.interfaces import IResourcePlugin

class Greeting(Resource):
    isLeaf = True
    def __init__(self, text):
        super().__init__()
        self.text = text
    def render_GET(self, request):
        return self.text.encode()

@implementer(IPlugin, IResourcePlugin)
class Hello:
    name = {name!r}
    mount = {mount!r}
    title = "Says hello"
    def resource(self, context):
        return Greeting(context.options["Greeting"] + " " + context.mode)

hello = Hello()
"""


def add_plugin(folder: Path, name: str = "hello", mount: str = "admin") -> None:
    """Install a plugin where the daemon finds it."""
    path = folder / "twisted" / "plugins" / "test_hello.py"
    path.parent.mkdir(parents=True)
    path.write_text(PLUGIN.format(name=name, mount=mount))


async def test_a_plugin_is_served_with_its_options(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    add_plugin(tmp_path)
    config = write(tmp_path, Resolver=STATIC, Plugins={"hello": {"Greeting": "hi"}})
    daemon = start("--config", config)
    assert await daemon.admin("/hello") == (200, "hi auth")


async def test_a_plugin_is_listed_with_its_title(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    add_plugin(tmp_path, mount="tailnet")
    config = write(tmp_path, Resolver=STATIC, Plugins={"hello": {"Greeting": "hi"}})
    client = await dial(await start("--config", config).listens("serve"), "127.0.0.2")
    client.send(proxy_header("100.64.0.5") + b"GET /.tailproxy/ HTTP/1.1\r\nHost: kube\r\n\r\n")
    answer = await client.receives(b"\n}\n")
    client.transport.loseConnection()
    hello, whoami = json.loads(answer.partition(b"\r\n\r\n")[2])["plugins"]
    assert hello == {"name": "hello", "path": "/.tailproxy/hello", "title": "Says hello"}
    assert whoami["path"] == "/.tailproxy/whoami"


@pytest.mark.parametrize(
    ("plugin", "part"),
    [
        ({}, "plugin hello: it cannot be used: KeyError('Greeting')"),
        ({"name": "whoami"}, "plugin whoami: two plugins have this name"),
        ({"name": "He/llo"}, "lower-case letters, digits and hyphens"),
        ({"mount": "roof"}, "its mount is 'roof', wanted tailnet or admin"),
    ],
)
async def test_a_plugin_that_cannot_be_used_ends_the_start(start, api, tmp_path, plugin, part):
    api.kubeconfig(tmp_path / "kubeconfig")
    add_plugin(tmp_path, **plugin)
    daemon = start("--config", write(tmp_path))
    assert await daemon.ends() == 1
    assert daemon.err.count("\n") == 1
    assert part in daemon.err


# What is in the configuration's object, and what the one line says.
BROKEN = {
    "unknown key": ({"Listners": []}, "did you mean Listeners?"),
    "no kubeconfig": ({"Upstream": {"Kubeconfig": "missing"}}, "missing: cannot read"),
    "no certificate": (
        {
            "Listeners": [{"Kind": "loopback"}],
            "Certificates": {"Source": "files", "Chain": "none.pem", "Key": "none.pem"},
        },
        "none.pem",
    ),
    "no such plugin": ({"Plugins": {"nope": {}}}, "no such plugin; there is"),
    "identity": (
        {"Resolver": {"Kind": "static", "Identities": [{"Tags": ["tag:ci"], "Node": ""}]}},
        "Tailproxy.Resolver.Identities",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("flag", [(), ("--check",)], ids=["start", "check"])
async def test_what_cannot_work_ends_the_start_with_one_line(start, api, tmp_path, case, flag):
    api.kubeconfig(tmp_path / "kubeconfig")
    ours, part = BROKEN[case]
    daemon = start("--config", write(tmp_path, **ours), *flag)
    assert await daemon.ends() == 1
    assert daemon.err.startswith("tailproxy: ")
    assert daemon.err.count("\n") == 1
    assert part in daemon.err
    assert daemon.out == ""


async def test_check_says_that_a_good_configuration_is_good(start, api, tmp_path):
    api.kubeconfig(tmp_path / "kubeconfig")
    path = write(tmp_path)
    daemon = start("--config", path, "--check")
    assert await daemon.ends() == 0
    assert (daemon.out, daemon.err) == (f"{path}: good\n", "")


async def test_version_is_tailproxys_own(start):
    daemon = start("--version")
    assert await daemon.ends() == 0
    assert daemon.out == f"tailproxy {tailproxy.__version__}\n"


def test_the_file_is_named_by_the_operators_variable_unless_by_an_option(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).write_text(json.dumps({"Version": "v1alpha1", "Hostname": name}))
    monkeypatch.setenv("TS_K8S_PROXY_CONFIG", str(tmp_path / "one"))
    parsed = Options()
    parsed.parseOptions([])
    assert parsed.document.config.hostname == "one"
    parsed.parseOptions(["--config", str(tmp_path / "two")])
    assert parsed.document.config.hostname == "two"


KUBECONFIG = """
current-context: x
contexts: [{name: x, context: {cluster: c}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
"""


def service_of(text: str):
    return serve(Document("test", text, parse(text, "test")), reactor)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Build a service from a text of our own object, in this process; nothing is started."""
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def make(ours: str = "{}"):
        return service_of('{"Version":"v1alpha1","Tailproxy":' + ours + "}")

    return make


def listeners(service) -> dict[str, Listener]:
    plane = service.getServiceNamed("listeners")
    return {child.label: child for child in plane if isinstance(child, Listener)}


def test_the_default_listener_is_behind_serve(made):
    (found,) = listeners(made()).values()
    assert (found.label, found._addresses, found._port) == ("serve", ["127.0.0.2"], 8443)


def test_a_tailnet_listener_follows_the_nodes_addresses(made):
    found = listeners(made('{"Listeners":[{"Kind":"tailnet","Redirect":true}]}'))
    assert {name: (type(it), it._port) for name, it in found.items()} == {
        "tailnet": (NodeListener, 443),
        "tailnet-redirect": (NodeListener, 80),
    }


def test_a_tailnet_listener_may_have_one_address(made):
    found = listeners(made('{"Listeners":[{"Kind":"tailnet","Address":"100.64.0.9:8443"}]}'))
    (listener,) = found.values()
    assert (type(listener), listener._addresses) == (Listener, ["100.64.0.9"])


def test_the_operators_configuration_makes_a_service_in_a_pod(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv("POD_IP", "10.1.2.3")
    service = service_of(OPERATOR)
    admin = service.getServiceNamed("admin")
    assert (admin._address, admin.port) == ("10.1.2.3", 9002)
    assert len(listeners(service)) == 1


def test_without_a_reason_there_is_no_admin_port(made):
    with pytest.raises(KeyError):
        made().getServiceNamed("admin")


def test_an_unknown_context_is_an_error(made):
    with pytest.raises(ConfigError, match="no context 'y'"):
        made('{"Upstream":{"Context":"y"}}')


def test_an_application_logs_as_configured_unless_it_has_an_observer(made):
    application = Application("test")
    made().setServiceParent(application)
    assert ILogObserver.providedBy(application.getComponent(ILogObserver))
    own = Application("test")
    own.setComponent(ILogObserver, print)
    made().setServiceParent(own)
    assert own.getComponent(ILogObserver) is print
