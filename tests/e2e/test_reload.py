"""The configuration changes again and again under open watches and exec sessions."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from contextlib import ExitStack
from itertools import cycle

import pytest

from tests.e2e.client import address_of, ask, connect
from tests.lab import pki
from tests.lab.operations import Scene

WATCHES = 200
SESSIONS = 20
RELOADS = 50
CONFIG_MAP = "/api/v1/namespaces/default/configmaps"
SINCE = "tailproxy_config_last_reload_success_timestamp_seconds"
SUCCESSFUL = "tailproxy_config_last_reload_successful"


@pytest.fixture
def service(lab, proxy):
    service = lab.start_tailproxy("serve", name="reload")
    yield service
    assert service.stop() == 0, service.log.read_text()[-3000:]
    proxy.announce()


@pytest.fixture
def scene(lab, tmp_path):
    """A device of alice's for the sessions alone."""
    node = lab.tailnet.add_node("alice-reload", user="alice@example.com")
    yield Scene.of(lab, node.name, tmp_path)
    node.stop()


@pytest.fixture
def poke(lab):
    """Change what is watched, straight at the API server; called with a word to look for."""
    api = lab.cluster.api
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "reload"}}
    api.call("POST", CONFIG_MAP, made)
    yield lambda word: api.call("PUT", f"{CONFIG_MAP}/reload", {**made, "data": {"word": word}})
    api.call("DELETE", f"{CONFIG_MAP}/reload")


class Watch:
    """A watch of that one object."""

    def __init__(self, lab, service) -> None:
        self._seen = b""
        self._socket = connect(lab, service, address_of(lab, "alice"))
        self._socket.sendall(
            f"GET {CONFIG_MAP}?watch=1&fieldSelector=metadata.name%3Dreload HTTP/1.1\r\n"
            "Host: kube\r\n\r\n".encode()
        )

    def until(self, word: str) -> None:
        while word.encode() not in self._seen:
            data = self._socket.recv(65536)
            assert data, f"the watch has ended before {word}: {self._seen[-500:]!r}"
            self._seen += data
        self._seen = b""

    def close(self) -> None:
        self._socket.close()


def good(lab, service) -> list[dict]:
    """Configurations that differ in everything that can change; by what they add."""
    upstream = service.config["Tailproxy"]["Upstream"]["Kubeconfig"]
    other = lab.run / "reload-other.kubeconfig"
    shutil.copy(upstream, other)
    authority = pki.Authority("reload-ca")
    pairs = [
        dict(zip(("Chain", "Key"), map(str, paths), strict=True))
        for paths in (
            authority.issue(name, names=["kube.example"]).write(lab.run, f"reload-{name}")
            for name in ("first", "second")
        )
    ]
    serve = service.config["Tailproxy"]["Listeners"]
    more = [
        *serve,
        {"Name": "own", "Address": f"127.0.0.2:{lab.ports.take()}", "TLS": "own"},
    ]
    return [
        {"Limits": {"IdleSeconds": 120, "HeaderBytes": 65536}},
        {"ClientImpersonation": "strip"},
        {"Listeners": more, "Certificates": {"Source": "files", **pairs[0]}},
        {"Listeners": more, "Certificates": {"Source": "files", **pairs[1]}},
        {"Upstream": {"Kubeconfig": str(other)}},
        {"top": {"APIServerProxy": {"Mode": "noauth"}}},
        {"top": {"LogLevel": "debug"}, "Log": {"Format": "json"}},
        {"Drain": {"Requests": 3, "Streams": 7}},
        {"Listeners": [{**serve[0], "Service": "svc:kube", "Name": "renamed"}]},
        {},
    ]


def bad(lab, service) -> list[str]:
    """Texts that cannot be used, each for another reason."""

    def with_ours(**ours: object) -> str:
        config = service.config
        return json.dumps({**config, "Tailproxy": {**config["Tailproxy"], **ours}})

    taken = {"Name": "taken", "Address": f"{service.admin[0]}:{service.admin[1]}"}
    return [
        "{",
        with_ours(Wokers=2),
        with_ours(Upstream={"Kubeconfig": str(lab.run / "missing.kubeconfig")}),
        with_ours(Listeners=[*service.config["Tailproxy"]["Listeners"], taken]),
        with_ours(
            Listeners=[{**service.config["Tailproxy"]["Listeners"][0], "TLS": "own"}],
            Certificates={"Source": "files", "Chain": "/missing", "Key": "/missing"},
        ),
    ]


def figure(service, name: str) -> float:
    return float(re.search(rf"^{name} (\S+)$", service.get_admin("/metrics")[1], re.MULTILINE)[1])


def reload(service, text: str, *, taken_up: bool) -> None:
    """Have a text taken up, or refused; that it was is seen in the metrics."""
    before = figure(service, SINCE)
    service.file.write_text(text)
    os.kill(service.pid, signal.SIGHUP)
    deadline = time.monotonic() + 20
    while True:
        since, successful = figure(service, SINCE), figure(service, SUCCESSFUL)
        if (since > before and successful) if taken_up else (since == before and not successful):
            return
        assert time.monotonic() < deadline, service.log.read_text()[-2000:]
        time.sleep(0.02)


@pytest.mark.timeout(400)
def test_watches_and_exec_sessions_survive_fifty_reloads(lab, service, scene, poke):
    goods, bads = cycle(good(lab, service)), cycle(bad(lab, service))
    with ExitStack() as stack:
        watches = [Watch(lab, service) for _ in range(WATCHES)]
        for watch in watches:
            stack.callback(watch.close)
            watch.until("ADDED")
        sessions = [
            stack.enter_context(scene.kubectl.running("exec", "-i", scene.pod, "--", "cat"))
            for _ in range(SESSIONS)
        ]
        for number in range(1, RELOADS + 1):
            if number % 5:
                change = dict(next(goods))
                config = {**service.config, **change.pop("top", {})}
                config["Tailproxy"] = {**config["Tailproxy"], **change}
                reload(service, json.dumps(config), taken_up=True)
            else:
                reload(service, next(bads), taken_up=False)
                status, text = service.get_admin("/readyz?verbose")
                assert status == 200, text
            poke(f"round-{number}.")
            for session in sessions:
                session.write(b"round-%d\n" % number)
            for session in sessions:
                session.until(rb"^round-%d\r?\n" % number)
            for watch in watches:
                watch.until(f"round-{number}.")
        reload(service, json.dumps(service.config), taken_up=True)
        assert ask(lab, service, address_of(lab, "alice"), CONFIG_MAP).status == 200
        for session in sessions:
            session.process.stdin.close()
        if lab.node == "kubelet":  # the simulated one has no end of input
            assert [session.wait() for session in sessions] == [0] * SESSIONS
    assert "[+]configuration ok: the file is in force" in service.get_admin("/readyz?verbose")[1]
    if len(service.pids) > 1:
        assert figure(service, "tailproxy_worker_restarts_total") == 0
