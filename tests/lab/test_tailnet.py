"""The lab's tailnet by itself: who is who, what may pass, what a change of the policy does."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from tests.lab.errors import LabError
from tests.lab.tailnet import CAPABILITY, PROXY, STRANGER

#: How soon a changed policy must have reached all nodes.
POLICY_SECONDS = 2.0


@pytest.fixture(autouse=True)
def same_policy_after(tailnet):
    before = tailnet.policy
    yield
    tailnet.set_policy(before)
    assert within(POLICY_SECONDS, lambda: groups_of_grace(tailnet) == [["platform-team"]])


def groups_of_grace(tailnet):
    """The groups that WhoIs grants grace, a list per rule."""
    whois = tailnet.nodes[PROXY].api.whois(tailnet.nodes["grace"].addresses[0])
    rules = (whois["CapMap"] or {}).get(CAPABILITY, ())
    return [rule["impersonate"]["groups"] for rule in rules]


@contextmanager
def listening(tailnet, address="127.0.0.1"):
    """A server of the proxy node's machine that says what it heard first; its port, and that."""
    heard = []
    with tailnet.network.open_socket() as server:
        server.bind((address, 0))
        server.listen()

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(4096))
                    connection.sendall(b"hello")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], heard
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def tunnel(tailnet, caller, host, port, seconds):
    """A connection from a caller's node, through its HTTP proxy; None if there is none in time."""
    proxy = urlsplit(tailnet.nodes[caller].http_proxy)
    sock = tailnet.network.connect((proxy.hostname, proxy.port))
    sock.settimeout(seconds)
    try:
        sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        if sock.recv(4096).startswith(b"HTTP/1.1 200"):
            return sock
    except TimeoutError:
        pass
    sock.close()
    return None


def passes(tailnet, caller, port, seconds=0.5):
    """Whether a caller's bytes reach that port of the proxy node, and the answer the caller."""
    sock = tunnel(tailnet, caller, tailnet.nodes[PROXY].addresses[0], port, seconds)
    if sock is None:
        return False
    with sock:
        sock.sendall(b"hi")
        try:
            return sock.recv(100) == b"hello"
        except TimeoutError:
            return False


def within(seconds, condition):
    """Whether the condition comes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
    return False


def test_each_caller_is_who_the_lab_says(tailnet):
    who = tailnet.nodes[PROXY].api.whois
    nodes = tailnet.nodes
    for address in nodes["alice"].addresses:
        found = who(address)
        assert found["UserProfile"]["LoginName"] == "alice@example.com"
        assert found["Node"]["Name"] == "alice-laptop.lab.ts.net."
        assert not found["CapMap"]
    ci = who(nodes["ci"].addresses[0])
    assert ci["Node"]["Tags"] == ["tag:engineering"]
    assert ci["UserProfile"]["LoginName"] == "tagged-devices"
    grace = who(nodes["grace"].addresses[0])
    assert grace["CapMap"] == {CAPABILITY: [{"impersonate": {"groups": ["platform-team"]}}]}
    mallory = who(nodes["mallory"].addresses[0])
    assert mallory["UserProfile"]["LoginName"] == "mallory@example.com"
    assert who(STRANGER) is None


def test_a_flow_passes_only_while_it_is_granted(tailnet):
    with listening(tailnet) as (port, heard):
        assert not passes(tailnet, "alice", port)
        before = tailnet.policy
        tailnet.allow(f"tcp:{port}")
        assert within(POLICY_SECONDS, lambda: passes(tailnet, "alice", port))
        assert heard == [b"hi"]
        tailnet.set_policy(before)
        assert within(POLICY_SECONDS, lambda: not passes(tailnet, "alice", port))
        heard.clear()
        assert not passes(tailnet, "alice", port)
        assert heard == []


def test_a_flow_is_granted_to_whom_it_is_granted(tailnet):
    with listening(tailnet) as (port, _):
        tailnet.allow(f"tcp:{port}", src="mallory@example.com")
        assert within(POLICY_SECONDS, lambda: passes(tailnet, "mallory", port))
        assert not passes(tailnet, "alice", port)


@pytest.mark.parametrize("flow", ["udp:{port}", "tcp:1-1024", "{above}"])
def test_another_protocol_or_port_is_not_what_was_granted(tailnet, flow):
    with listening(tailnet) as (port, _), listening(tailnet) as (marker, _):
        flow = flow.format(port=port, above=port + 1)
        # The second flow tells when the first has arrived: they are in one policy.
        tailnet.allow(flow, f"tcp:{marker}")
        assert within(POLICY_SECONDS, lambda: passes(tailnet, "alice", marker))
        assert not passes(tailnet, "alice", port)


@pytest.mark.parametrize("flow", ["*", "tcp:*", "{port}", "tcp:{below}-{port}"])
def test_all_forms_of_a_flow_are_understood(tailnet, flow):
    with listening(tailnet) as (port, _):
        tailnet.allow(flow.format(port=port, below=port - 1))
        assert within(POLICY_SECONDS, lambda: passes(tailnet, "alice", port))


def test_without_any_grant_nothing_passes(tailnet):
    with listening(tailnet) as (port, heard):
        tailnet.allow("*")
        assert within(POLICY_SECONDS, lambda: passes(tailnet, "alice", port))
        tailnet.set_policy({**tailnet.policy, "grants": []})
        assert within(POLICY_SECONDS, lambda: not passes(tailnet, "alice", port))
        heard.clear()
        assert not passes(tailnet, "ci", port)
        assert heard == []


def test_a_changed_capability_shows_within_two_seconds(tailnet):
    def edit(policy):
        policy["grants"][1]["app"][CAPABILITY][0]["impersonate"]["groups"] = ["others"]

    tailnet.edit_policy(edit)
    assert within(POLICY_SECONDS, lambda: groups_of_grace(tailnet) == [["others"]])


def test_a_policy_that_cannot_be_read_leaves_the_former_one(lab, tailnet):
    log = lab.run / "labcontrol.log"
    tailnet.set_policy({**tailnet.policy, "grants": [{"ip": ["tcp:99999"]}]})
    assert within(POLICY_SECONDS, lambda: '"tcp:99999"' in log.read_text())
    assert groups_of_grace(tailnet) == [["platform-team"]]


def test_a_node_that_comes_back_is_the_same(tailnet):
    mallory = tailnet.nodes["mallory"]
    before = mallory.addresses
    mallory.stop()
    offline = within(5, lambda: {"mallory-laptop": False}.items() <= online(tailnet).items())
    assert offline
    mallory.start()
    mallory.wait()
    assert mallory.addresses == before
    assert within(5, lambda: online(tailnet)["mallory-laptop"])


def online(tailnet):
    return {row["host"]: row["online"] for row in tailnet.listed()}


def test_a_further_node_can_join(tailnet):
    bob = tailnet.add_node("bob-phone", user="bob@example.com")
    try:
        found = tailnet.nodes[PROXY].api.whois(bob.addresses[0])
        assert found["UserProfile"]["LoginName"] == "bob@example.com"
        with pytest.raises(LabError, match="a name of its own"):
            tailnet.add_node("bob-phone", user="bob@example.com")
    finally:
        tailnet.nodes.pop("bob-phone").stop()


def test_serve_ends_tls_and_says_who_calls(tailnet):
    proxy = tailnet.nodes[PROXY]
    with listening(tailnet, "127.0.0.2") as (port, heard):
        proxy.serve(443, f"127.0.0.2:{port}")
        try:
            context = ssl.create_default_context(cafile=str(tailnet.ca_file))
            raw = tunnel(tailnet, "alice", proxy.fqdn, 443, 10)
            assert raw is not None
            with context.wrap_socket(raw, server_hostname=proxy.fqdn) as sock:
                sock.sendall(b"GET")
                assert sock.recv(100) == b"hello"
        finally:
            proxy.serve_nothing()
    header = heard[0]
    assert header.startswith(b"\r\n\r\n\x00\r\nQUIT\n\x21")
    ipv4 = socket.inet_aton(tailnet.nodes["alice"].addresses[0])
    ipv6 = socket.inet_pton(socket.AF_INET6, tailnet.nodes["alice"].addresses[1])
    assert header[16:20] == ipv4 or header[16:32] == ipv6
