"""What cannot work ends the start with one clear line; what may yet come only makes it unready."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab import kubeconfig, pki
from tests.lab.service import Service

TWISTD = str(Path(sys.executable).with_name("twistd"))


def run(lab, config: str | dict, *flags: str, name: str = "start") -> subprocess.CompletedProcess:
    """Run twistd with a configuration that is expected not to last."""
    file = lab.run / f"{name}.hujson"
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    return subprocess.run(
        [
            *lab.cluster.kubectl_prefix, TWISTD, "-n", "--pidfile=", "tailproxy",
            "--config", str(file), *flags,
        ],
        capture_output=True, text=True, timeout=30, check=False, env=lab.environment,
    )  # fmt: skip


def one_line(done: subprocess.CompletedProcess) -> str:
    """The single line on standard error of a start that failed."""
    assert done.returncode not in {0, None}
    assert "Traceback" not in done.stderr + done.stdout
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("tailproxy: ")
    return lines[0]


def good(lab, **changes) -> dict:
    """A configuration that works, but for the changes to its `Tailproxy` object."""
    return {
        "Version": "v1alpha1",
        "Tailproxy": {
            "Listeners": [{"Kind": "serve", "Address": f"127.0.0.2:{lab.ports.take()}"}],
            "Tailscaled": {"Socket": str(lab.tailnet.nodes["proxy"].socket)},
            "Upstream": {"Kubeconfig": str(lab.cluster.proxy_kubeconfig)},
            "Admin": {"Address": "127.0.0.2", "Port": lab.ports.take()},
            "Workers": lab.workers,
            **changes,
        },
    }


def test_check_says_that_a_configuration_is_good(lab):
    done = run(lab, good(lab), "--check")
    assert done.returncode == 0, done.stderr
    assert "good" in done.stdout


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '{"Version": "v1alpha1",\n "Tailproxy": {"Lisseners": []}}',
            ["Lisseners", "Listeners", ":2:"],
        ),
        ('{"Version": "v1alpha1",\n "LocalPort": "x"}', ["LocalPort", ":2:"]),
        ('{"Version": "v1alpha1"', [":1:"]),
        ("{}", ["version"]),
        (
            '{"Version": "v1alpha1", "Tailproxy": {"Listeners": [{"Address": "127.0.0.1:8443"}]}}',
            ["127.0.0.1", "127.0.0.2"],
        ),
    ],
)
def test_wrong_configuration_is_told_with_its_place(lab, text, says):
    line = one_line(run(lab, text))
    for part in says:
        assert part.lower() in line.lower()


def test_missing_configuration_is_told(lab):
    done = subprocess.run(
        [TWISTD, "-n", "--pidfile=", "tailproxy", "--config", "/nowhere/tailproxy.hujson"],
        capture_output=True, text=True, timeout=30, check=False, env=lab.environment,
    )  # fmt: skip
    assert "/nowhere/tailproxy.hujson" in one_line(done)


def test_unreadable_certificate_is_told(lab):
    config = good(
        lab, Certificates={"Source": "files", "Chain": "/nowhere/a.crt", "Key": "/nowhere/a.key"}
    )
    config["Tailproxy"]["Listeners"][0]["TLS"] = "own"
    assert "/nowhere/a" in one_line(run(lab, config))


def test_key_of_another_certificate_is_told(lab):
    authority = pki.Authority()
    chain, _ = authority.issue("one", names=["one.example"]).write(lab.run, "one")
    _, key = authority.issue("two", names=["two.example"]).write(lab.run, "two")
    config = good(lab, Certificates={"Source": "files", "Chain": str(chain), "Key": str(key)})
    config["Tailproxy"]["Listeners"][0]["TLS"] = "own"
    assert str(key) in one_line(run(lab, config))


def test_missing_kubeconfig_is_told(lab):
    config = good(lab, Upstream={"Kubeconfig": "/nowhere/kubeconfig"})
    assert "/nowhere/kubeconfig" in one_line(run(lab, config))


def test_port_in_use_is_told_and_nothing_is_half_started(lab):
    config = good(lab)
    address, _, port = config["Tailproxy"]["Listeners"][0]["Address"].rpartition(":")
    with lab.cluster.network.open_socket() as taken:
        taken.bind((address, int(port)))
        taken.listen()
        line = one_line(run(lab, config))
    assert port in line
    with pytest.raises(OSError, match="refused"):
        lab.cluster.network.connect(("127.0.0.2", config["Tailproxy"]["Admin"]["Port"]))


def test_static_resolver_refuses_anything_but_loopback(lab):
    config = good(
        lab,
        Resolver={"Kind": "static", "Identities": [{"Address": "127.0.0.1", "User": "me"}]},
        Listeners=[{"Kind": "tailnet", "Address": "100.64.0.1:443"}],
    )
    assert "loopback" in one_line(run(lab, config))


@pytest.fixture
def unready(lab, proxy):
    """Start a tailproxy that lives but is not ready; ended with the test."""
    services: list[Service] = []

    def start(name: str, **changes) -> Service:
        service = lab.start_tailproxy("serve", name=name, tailproxy=changes, ready="/livez")
        services.append(service)
        return service

    yield start
    for service in services:
        assert service.stop() == 0
    proxy.announce()


def verbose(service: Service) -> str:
    status, text = service.get_admin("/readyz?verbose")
    assert status == 503
    return text


def wait_for_words(service: Service, *words: str) -> None:
    deadline = time.monotonic() + 5
    while not all(word in (text := verbose(service)) for word in words):
        assert time.monotonic() < deadline, text
        time.sleep(0.1)


def test_missing_socket_of_tailscaled_makes_it_unready(unready):
    text = verbose(unready("no-socket", Tailscaled={"Socket": "/nowhere/tailscaled.sock"}))
    assert "[-]tailscaled failed" in text
    assert "/nowhere/tailscaled.sock" in text


def test_unreachable_api_server_makes_it_unready(lab, unready):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = kubeconfig.write(
        lab.run / "unreachable.kubeconfig",
        server=f"https://127.0.0.1:{port}",
        ca_file=lab.cluster.ca_file,
        user=kubeconfig.with_token("t"),
    )
    service = unready("unreachable", Upstream={"Kubeconfig": str(file)})
    wait_for_words(service, "[-]apiserver failed", f"127.0.0.1:{port}")


def test_missing_right_to_impersonate_makes_it_unready(lab, unready):
    token = lab.cluster.api.token("default", "default", 3600)
    file = kubeconfig.write(
        lab.run / "powerless.kubeconfig",
        server=lab.cluster.api_url,
        ca_file=lab.cluster.ca_file,
        user=kubeconfig.with_token(token),
    )
    service = unready("powerless", Upstream={"Kubeconfig": str(file)})
    wait_for_words(service, "[-]impersonation failed", "impersonate users")


def test_admin_port_answers_probes_metrics_and_version(proxy):
    assert proxy.get_admin("/livez")[0] == 200
    assert proxy.get_admin("/healthz") == (200, "ok")
    status, text = proxy.get_admin("/readyz?verbose")
    assert status == 200, text
    assert "[+]tailscaled ok" in text
    assert "[+]impersonation ok" in text
    status, text = proxy.get_admin("/metrics")
    assert status == 200
    assert "tailproxy_requests_total" in text
    assert "tailscaled_" in text
    assert json.loads(proxy.get_admin("/version")[1])["version"]
