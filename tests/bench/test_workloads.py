from __future__ import annotations

import re

import pytest

from bench import programs
from bench.__main__ import full_plan, quick_plan
from bench.doors import Door, Way
from bench.session import steps
from bench.workloads import GIB, WORKLOADS, Measured, proxies_for
from tests.lab import build


def workload(base):
    (found,) = [each for each in WORKLOADS if each.base == base and each.setting.value != "-kube"]
    return found


def test_names_are_those_of_the_rows():
    names = {step.name for step in steps(WORKLOADS)}
    for base in ("get-1", "get-16", "get-64", "connect"):
        assert {base, f"{base}-tls", f"{base}-tailnet"} <= names
    for base in (
        "list-1m", "stream-1g", "post-1m", "watch-1000", "fanout-500", "exec-echo-1",
        "exec-echo-50", "k9s-40",
    ):  # fmt: skip
        assert {base, f"{base}-tls"} <= names
    assert {"callers-1000", "get-16-kube"} <= names


def test_no_proxy_is_measured_once_for_all_ways():
    found = [proxies_for(workload("get-16"), way) for way in Way]
    assert [proxies.count("direct") for proxies in found] == [1, 0, 0]


def test_each_way_has_the_proxies_that_have_such_a_door():
    get = workload("get-16")
    assert proxies_for(get, Way.PLAIN) == ("direct", "go-peer", "tailproxy-1", "tailproxy-2")
    assert proxies_for(get, Way.TLS) == ("go-stdlib", "nginx", "tailproxy-1", "tailproxy-2")
    assert proxies_for(get, Way.TAILNET) == ("go-peer", "tailproxy-1")


def test_steps_can_be_named_with_suffix_or_without():
    assert [step.name for step in steps(WORKLOADS, ["list-1m"])] == ["list-1m", "list-1m-tls"]
    assert [step.name for step in steps(WORKLOADS, ["list-1m-tls"])] == ["list-1m-tls"]


def test_the_quick_plan_is_a_part_of_the_full_one_without_what_has_no_goal():
    full = {(step.name, name) for step in full_plan().steps for name in step.proxies}
    quick = {(step.name, name) for step in quick_plan().steps for name in step.proxies}
    assert quick < full
    assert {name for name, _ in full} - {name for name, _ in quick} >= {"k9s-40", "list-1m"}
    assert not [name for _, name in quick if name == "nginx"]


@pytest.mark.parametrize(
    ("base", "figure", "value"),
    [
        ("get-16", "cpu_us_per_request", 500.0),
        ("get-16", "requests_per_s", 2000.0),
        ("stream-1g", "cpu_s_per_gib", 2.0),
        ("stream-1g", "mib_per_s", 512.0),
        ("watch-1000", "rss_kib_each", 50.0),
        ("watch-1000", "cpu_us_each", 500.0),
        ("fanout-500", "cpu_us_per_event", 500.0),
        ("exec-echo-1", "cpu_us_per_key", 500.0),
    ],
)
def test_figures_come_of_what_was_measured(base, figure, value):
    said = {"requests": 4000, "seconds": 2.0, "bytes": GIB}
    found = workload(base).figures(Measured(said, cpu=2.0, rss=200_000))
    assert found[figure] == value


def test_a_door_says_how_to_get_in_and_nothing_else():
    door = Door("http://127.0.0.2:1", "127.0.0.2:1", source="100.64.0.1:2")
    assert door.words("/api") == [
        "-url", "http://127.0.0.2:1/api", "-dial", "127.0.0.2:1", "-from", "100.64.0.1:2",
    ]  # fmt: skip


def test_the_peer_is_of_the_same_release_as_the_labs_tailscaled():
    def release(part):
        found = re.search(r"tailscale\.com (v\S+)", (part.folder / "go.mod").read_text())
        return found and found[1]

    ours = release(programs.PARTS["k8s-proxy"])
    assert ours is not None
    assert ours == release(build.PARTS["tailscaled"])


def test_our_own_programs_need_no_module_but_gos_library():
    text = (programs.PARTS["load"].folder / "go.mod").read_text()
    assert "require" not in text
    assert programs.PARTS["load"].sources != programs.PARTS["upstream"].sources
