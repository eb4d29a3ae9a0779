"""Resources of plugins, for known callers only."""

from __future__ import annotations

import json
import select
import warnings

import pytest
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tailproxy.interfaces import IIdentity, PluginContext
from tailproxy.policy.grants import GrantRule, Grants
from tailproxy.proxy.plugins import BODY_BYTES
from tailproxy.proxy.whoami import WhoAmIPlugin
from tests.proxy.plane import ADA, STRANGER, Plane, identity
from tests.proxy.servers import ClientTLS, eventually
from tests.proxy.test_listener import Certificates

with warnings.catch_warnings():
    # Twisted's own module uses, while it is imported, what Twisted deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    from twisted.web.static import File


class Probe(Resource):
    """Answers what the request's address asks for."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.lost: list[object] = []
        self.held: list[object] = []

    def render_GET(self, request) -> object:
        match request.postpath[0]:
            case b"me":
                return IIdentity(request).user.encode()
            case b"where":
                peer, host = request.getClientAddress(), request.getHost()
                url = request.prePathURL()
                return f"{peer.host} {host.host} {request.isSecure()} {url.decode()}".encode()
            case b"broken":
                raise RuntimeError("a secret of the plugin")
            case b"hop":
                request.setHeader(b"connection", b"x-hop")
                request.setHeader(b"x-hop", b"1")
                request.setHeader(b"transfer-encoding", b"chunked")
                return b"ok"
            case b"pieces":
                for piece in (b"one ", b"", b"two"):
                    request.write(piece)
                request.finish()
            case b"hold":
                request.write(b"begun")
                request.notifyFinish().addErrback(self.lost.append)
                self.held.append(request)
        return NOT_DONE_YET

    def render_POST(self, request) -> bytes:
        if request.args:
            return repr(request.args).encode()
        body = request.content.read()
        return b"%d bytes: %b" % (len(body), body[-10:])


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def plane(make_plane, probe, tmp_path) -> Plane:
    (tmp_path / "large").write_bytes(bytes(range(256)) * 20_000)
    context = PluginContext({}, "1", "auth", None)
    plugins = {
        "probe": probe,
        "files": File(str(tmp_path)),
        "whoami": WhoAmIPlugin().resource(context),
    }
    return make_plane(plugins=plugins)


def get(path: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return b"%b /.tailproxy/%b HTTP/%b\r\nHost: kube\r\n\r\n" % (method, path, version)


async def test_resource_knows_its_caller(plane):
    client = await plane.client()
    for _ in range(2):
        client.send(get(b"probe/me"))
        answer = await client.receives(b"ada@corp.example")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert f"Audit-Id: {plane.audit.records[-1].id}\r\n".encode() in answer
        client.take()
    assert plane.server.connections == []
    assert [(r.status, r.user, r.path, r.decision) for r in plane.audit.records] == [
        (200, "ada@corp.example", "/.tailproxy/probe/me", "serve")
    ] * 2


@pytest.mark.parametrize("path", [b"probe/me", b"whoami", b"nothing", b""])
async def test_strangers_get_nothing(plane, path):
    client = await plane.client(STRANGER)
    client.send(get(path))
    assert (await client.receives(b"}")).startswith(b"HTTP/1.1 401 ")


async def test_urls_are_made_as_the_client_sees_them(plane):
    client = await plane.client()
    client.send(get(b"probe/where"))
    answer = await client.receives(b"/probe")
    assert b"100.64.0.5 127.0.0.2 True https://kube/.tailproxy/probe" in answer
    client.take()
    client.send(get(b"probe/where").replace(b"Host: kube", b"Host: kube:8443"))
    assert b" https://kube:8443/.tailproxy/probe" in await client.receives(b"/probe")


@pytest.mark.parametrize("path", [b"/.tailproxyX/me", b"/%2etailproxy/whoami", b"/x/.tailproxy/"])
async def test_other_paths_go_to_the_api_server(plane, path):
    client = await plane.client()
    client.send(b"GET %b HTTP/1.1\r\nHost: kube\r\n\r\n" % path)
    server = await plane.server.connection()
    assert path in await server.receives(b"\r\n\r\n")


@pytest.mark.parametrize("path", [b"nothing", b"probeX", b"../x", b"%77hoami"])
async def test_unknown_plugins_are_404_and_never_go_up(plane, path):
    client = await plane.client()
    client.send(get(path))
    answer = await client.receives(b'"code": 404}')
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"there are: files, probe, whoami" in answer
    assert plane.server.connections == []


async def test_head_has_no_body(plane):
    client = await plane.client()
    client.send(get(b"probe/me", b"HEAD") + b"")
    head = await client.receives(b"\r\n\r\n")
    assert b"Content-Length: 16\r\n" in head
    client.take()
    client.send(get(b"probe/me"))
    assert (await client.receives(b"ada@corp.example")).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_body_is_read_first(plane, chunked):
    client = await plane.client()
    body = bytes(1000) + b"the end"
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    client.send(b"POST /.tailproxy/probe/x HTTP/1.1\r\nHost: k\r\n%b\r\n\r\n" % framing)
    for piece in (body[:500], body[500:]):
        client.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
    client.send(b"0\r\n\r\n" if chunked else b"")
    assert b"1007 bytes: " in await client.receives(b"bytes: ")
    [record] = plane.audit.records
    assert record.received == 1007


async def test_expectation_is_met(plane):
    client = await plane.client()
    client.send(
        b"POST /.tailproxy/probe/x HTTP/1.1\r\nHost: k\r\nContent-Length: 2\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    await client.receives(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.send(b"ok")
    assert b"2 bytes: " in await client.receives(b"bytes")


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_body_beyond_the_limit_is_refused(plane, chunked):
    client = await plane.client()
    size = BODY_BYTES + 1
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    client.send(
        b"POST /.tailproxy/probe/x HTTP/1.1\r\nHost: k\r\nExpect: 100-continue\r\n%b\r\n\r\n"
        % framing
    )
    if chunked:
        await client.receives(b"100 Continue\r\n\r\n")
        client.take()
        client.send(b"%x\r\n" % size)
        client.send(bytes(size))
    assert (await client.receives(b"}")).startswith(b"HTTP/1.1 413 ")
    assert [r.status for r in plane.audit.records] == [413]


async def test_error_is_500_and_tells_nothing(plane, expect_logged):
    client = await plane.client()
    client.send(get(b"probe/broken"))
    await client.receives(b"HTTP/1.1 500 ")
    client.send(get(b"probe/me"))
    answer = await client.receives(b"ada@")
    assert b"secret" not in answer
    assert b"Traceback" not in answer
    expect_logged(RuntimeError)


async def test_answer_without_a_length_comes_in_chunks(plane):
    client = await plane.client()
    client.send(get(b"probe/pieces"))
    answer = await client.receives(b"0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n4\r\none \r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_hop_by_hop_headers_of_a_resource_do_not_leave(plane):
    client = await plane.client()
    client.send(get(b"probe/hop"))
    answer = await client.receives(b"ok")
    assert b"hop" not in answer.lower()
    assert b"transfer-encoding" not in answer.lower()


def full(plane: Plane) -> bool:
    """Whether the system takes no more for the only client."""
    sockets = [channel.transport.socket for channel in plane.site._channels]
    return select.select([], sockets, [], 0)[1] == []


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_files_come_whole_and_no_faster_than_they_are_read(make_plane, tmp_path, tls):
    content = bytes(range(256)) * 120_000  # more than the system's buffers take
    (tmp_path / "large").write_bytes(content)
    certificates = Certificates()
    plane = make_plane(
        plugins={"files": File(str(tmp_path))},
        certificates=certificates.source if tls else None,
    )
    client = await plane.client(tls=ClientTLS(certificates.authority) if tls else None)
    client.send(get(b"files/large"))
    await client.receives(b"\r\n\r\n")
    client.transport.pauseProducing()
    await eventually(lambda: full(plane))
    assert plane.buffered < 512 * 1024
    [channel] = plane.site._channels
    assert channel._request.sent < len(content)
    client.transport.resumeProducing()
    await client.until(lambda: client.received.endswith(content), 20)
    [record] = await plane.answered()
    assert record.sent == len(content)


async def test_client_that_goes_is_noticed(plane, probe):
    client = await plane.client()
    client.send(get(b"probe/hold"))
    await client.receives(b"begun")
    client.transport.abortConnection()
    await eventually(lambda: probe.lost)
    probe.held[0].write(b"too late")
    assert [r.status for r in plane.audit.records] == [200]


async def test_http_1_0_is_served(plane):
    client = await plane.client()
    client.send(get(b"probe/pieces", version=b"1.0"))
    assert (await client.ends()).endswith(b"\r\n\r\none two")


async def test_form_is_read(plane):
    client = await plane.client()
    client.send(
        b"POST /.tailproxy/probe/x HTTP/1.1\r\nHost: k\r\nContent-Length: 7\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\na=1&b=2"
    )
    assert b"{b'a': [b'1'], b'b': [b'2']}" in await client.receives(b"}")


async def test_form_that_cannot_be_read_is_a_400(plane):
    client = await plane.client()
    client.send(
        b"POST /.tailproxy/probe/x HTTP/1.1\r\nHost: k\r\nContent-Length: 3\r\n"
        b"Content-Type: multipart/form-data\r\n\r\nabc"
    )
    assert (await client.receives(b"}")).startswith(b"HTTP/1.1 400 ")


async def test_a_page_of_another_site_cannot_use_a_plugin(plane):
    client = await plane.client()
    client.send(get(b"probe/me").replace(b"Host", b"Sec-Fetch-Site: cross-site\r\nHost"))
    answer = await client.receives(b"}")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"ada@" not in answer
    assert [r.denied for r in plane.audit.records] == ["cross-site"]


async def test_upgrades_are_refused(plane):
    client = await plane.client()
    client.send(
        b"GET /.tailproxy/probe/me HTTP/1.1\r\nHost: k\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\n\r\n"
    )
    assert (await client.receives(b"}")).startswith(b"HTTP/1.1 400 ")


ORIGIN = {"capability": "tailscale.com/cap/kubernetes", "rule": 1, "grantedOn": "node"}


async def test_whoami_describes_the_caller(plane):
    plane.resolver.known[ADA] = identity(grants=Grants((GrantRule(groups=("dev",)),)))
    client = await plane.client()
    client.send(get(b"whoami"))
    answer = await client.receives(b"\n}\n")
    head, body = answer.split(b"\r\n\r\n", 1)
    assert b"application/json" in head.lower()
    assert json.loads(body) == {
        "user": "ada@corp.example",
        "groups": ["dev"],
        "node": {
            "name": "laptop.corp-cat.ts.net",
            "id": "n1",
            "tags": [],
            "addresses": ["100.64.0.5"],
        },
        "address": "100.64.0.5",
        "groupsFrom": "grants",
        "groupReasons": [
            {
                "group": "dev",
                "reason": "rule 1 of tailscale.com/cap/kubernetes",
                "rules": [ORIGIN],
            }
        ],
        "rules": [
            {
                "groups": ["dev"],
                "recorderAddrs": [],
                "enforceRecorder": False,
                "enableEvents": False,
                "tailproxy": None,
                **ORIGIN,
            }
        ],
        "service": "svc:kube",
        "mode": "auth",
        "version": "1",
        "impersonates": {"user": "ada@corp.example", "groups": ["dev"]},
    }


async def test_caller_is_asked_for_every_request(plane):
    client = await plane.client()
    client.send(get(b"probe/me"))
    await client.receives(b"ada@")
    plane.resolver.known["100.64.0.5"] = identity("eve@corp.example")
    client.send(get(b"probe/me"))
    await client.receives(b"eve@corp.example")
    plane.resolver.known.clear()
    client.send(get(b"probe/me"))
    await client.receives(b"401")


async def test_nothing_is_rendered_for_a_client_that_has_gone(plane, probe):
    plane.resolver.hold = Deferred()
    client = await plane.client()
    client.send(get(b"probe/hold"))
    await eventually(lambda: plane.resolver.asked)
    client.transport.abortConnection()
    await plane.answered()
    plane.resolver.hold.callback(None)
    assert probe.held == []
