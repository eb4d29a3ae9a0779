"""The admin port, asked over a real connection."""

import json
from ipaddress import ip_address

import pytest
import pytest_twisted
import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.web.client import Agent
from twisted.web.resource import Resource
from zope.interface.verify import verifyObject

from tailproxy.admin.service import AdminService, admin_address, admin_pages
from tailproxy.config import Config
from tailproxy.interfaces import CheckResult, IReadinessCheck
from tailproxy.metrics import Metrics
from tailproxy.options import Admin, Tailproxy
from tailproxy.testing import FakeReadinessCheck

WELL = CheckResult(ok=True, detail="all is well")


class Port:
    """An admin port with things to show, which a test may change."""

    def __init__(self) -> None:
        self.addresses = [ip_address("100.64.0.1")]
        self.checks = [FakeReadinessCheck("tailscaled", WELL), FakeReadinessCheck("api", WELL)]
        self.metrics = Metrics("1.2.3")
        self.theirs = succeed(b"tailscaled_health_messages 0\n")
        hello = Resource()
        hello.isLeaf = True
        hello.render = lambda _: b"hello"
        pages = admin_pages(
            "1.2.3",
            self.checks,
            lambda: bool(self.addresses),
            self.metrics.collect,
            lambda: self.theirs,
            {"hello": hello},
        )
        self.service = AdminService(reactor, "127.0.0.1", 0)
        self.service.show(pages)
        self.agent = Agent(reactor)
        self.service.startService()

    async def ask(self, path: str, method: str = "GET"):
        response = await treq.request(
            method, f"http://127.0.0.1:{self.service.port}{path}", agent=self.agent
        )
        return response.code, (await treq.text_content(response)), response.headers


@pytest.fixture
def port():
    port = Port()
    yield port
    pytest_twisted.blockon(port.service.stopService())


@pytest_twisted.ensureDeferred
async def test_a_running_event_loop_is_alive(port):
    assert (await port.ask("/livez"))[:2] == (200, "ok\n")


@pytest_twisted.ensureDeferred
async def test_it_is_ready_when_every_check_is_well(port):
    for check in port.checks:
        verifyObject(IReadinessCheck, check)
    assert (await port.ask("/readyz"))[:2] == (200, "ok\n")


@pytest_twisted.ensureDeferred
async def test_verbose_lists_every_check(port):
    assert (await port.ask("/readyz?verbose"))[:2] == (
        200,
        "[+]tailscaled ok: all is well\n[+]api ok: all is well\nreadyz check passed\n",
    )


@pytest.mark.parametrize("query", ["", "?verbose"])
@pytest_twisted.ensureDeferred
async def test_a_check_that_fails_makes_it_unready_and_says_why(port, query):
    port.checks[1].result = CheckResult(ok=False, detail="connection refused")
    assert (await port.ask(f"/readyz{query}"))[:2] == (
        503,
        "[+]tailscaled ok: all is well\n[-]api failed: connection refused\nreadyz check failed\n",
    )
    assert (await port.ask("/livez"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_health_is_the_nodes_address(port):
    assert (await port.ask("/healthz"))[:2] == (200, "ok")
    port.addresses = []
    assert (await port.ask("/healthz"))[:2] == (503, "node currently has no tailscale IPs")


@pytest_twisted.ensureDeferred
async def test_metrics_are_ours_and_tailscaleds(port):
    port.metrics.draining.set(1)
    code, text, headers = await port.ask("/metrics")
    assert code == 200
    assert 'tailproxy_build_info{version="1.2.3"} 1.0\n' in text
    assert "tailproxy_draining 1.0\n" in text
    assert text.endswith("tailscaled_health_messages 0\n")
    assert headers.getRawHeaders("content-type") == ["text/plain; version=0.0.4; charset=utf-8"]


@pytest_twisted.ensureDeferred
async def test_metrics_of_a_tailscaled_that_does_not_answer_are_left_out(port):
    port.theirs = fail(ConnectionError("no socket"))
    code, text, _ = await port.ask("/metrics")
    assert code == 200
    assert "tailproxy_build_info" in text
    assert "tailscaled_" not in text


@pytest_twisted.ensureDeferred
async def test_a_scraper_that_leaves_is_not_waited_for(port):
    asked, cancelled = Deferred(), Deferred()

    def ask():
        asked.callback(None)
        return Deferred(cancelled.callback)

    # The page asks through the attribute, so the next scrape hangs.
    type(port).theirs = property(lambda _: ask(), lambda *_: None)
    try:
        scrape = port.ask("/metrics")
        waiting = Deferred.fromCoroutine(scrape)
        waiting.addErrback(lambda _: None)
        await asked
        waiting.cancel()
        await cancelled
    finally:
        del type(port).theirs


@pytest_twisted.ensureDeferred
async def test_the_version_is_json(port):
    code, text, headers = await port.ask("/version")
    assert (code, headers.getRawHeaders("content-type")) == (200, ["application/json"])
    assert json.loads(text)["version"] == "1.2.3"


PAGES = ["/livez", "/readyz", "/healthz", "/metrics", "/version", "/"]


@pytest.mark.parametrize("path", PAGES)
@pytest_twisted.ensureDeferred
async def test_every_page_can_be_headed(port, path):
    code, text, _ = await port.ask(path, "HEAD")
    assert (code, text) == (200, "")


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
@pytest_twisted.ensureDeferred
async def test_nothing_but_looking_is_allowed(port, path, method):
    code, _, headers = await port.ask(path, method)
    assert code == 405
    assert headers.getRawHeaders("allow") == ["GET, HEAD"]


@pytest.mark.parametrize("path", ["/debug/pprof", "/livez/x", "/.tailproxy/whoami"])
@pytest_twisted.ensureDeferred
async def test_there_is_nothing_else(port, path):
    assert (await port.ask(path))[:2] == (404, "there is no such page\n")


@pytest_twisted.ensureDeferred
async def test_the_root_lists_the_pages(port):
    assert (await port.ask("/"))[1].split() == [
        "/healthz",
        "/hello",
        "/livez",
        "/metrics",
        "/readyz",
        "/version",
    ]


@pytest_twisted.ensureDeferred
async def test_a_plugin_with_the_mount_admin_has_its_page(port):
    assert (await port.ask("/hello"))[:2] == (200, "hello")


def test_a_port_that_is_taken_is_an_error_at_once(port):
    second = AdminService(reactor, "127.0.0.1", port.service.port)
    with pytest.raises(CannotListenError):
        second.privilegedStartService()


ADMIN = Tailproxy(admin=Admin(ip_address("127.0.0.9"), 1))


@pytest.mark.parametrize(
    ("config", "environment", "address"),
    [
        (Config(), {}, ("127.0.0.2", 9002)),
        (Config(local_port=0), {}, ("127.0.0.2", 0)),
        (Config(), {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, ("::", 9002)),
        (Config(), {"KUBERNETES_SERVICE_HOST": "h", "POD_IP": "10.1.2.3"}, ("10.1.2.3", 9002)),
        (Config(local_addr=ip_address("::1")), {}, ("::1", 9002)),
        (Config(local_addr=ip_address("::1")), {"POD_IP": "10.1.2.3"}, ("10.1.2.3", 9002)),
        (Config(tailproxy=ADMIN), {"POD_IP": "10.1.2.3"}, ("127.0.0.9", 1)),
        (Config(tailproxy=Tailproxy(admin=Admin()), local_port=7), {}, ("127.0.0.2", 7)),
    ],
)
def test_the_address_follows_configuration_and_environment(config, environment, address):
    assert admin_address(config, environment) == address
