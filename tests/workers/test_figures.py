"""Metrics of several processes as one."""

import json

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tailproxy.metrics import Metrics
from tailproxy.workers.figures import merge, pack, totals, unpack


def read(families) -> dict[str, float]:
    """Samples by name and labels; without the times of creation."""
    return {
        sample.name + json.dumps(sample.labels, sort_keys=True): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_counters_are_added_by_name_and_labels():
    one, other = Metrics("1"), Metrics("1")
    one.denied.labels("undecided").inc(2)
    other.denied.labels("undecided").inc(3)
    other.denied.labels("internal").inc()
    merged = read(merge([one.registry.collect(), other.registry.collect()]))
    assert merged['tailproxy_denied_total{"reason": "undecided"}'] == 5
    assert merged['tailproxy_denied_total{"reason": "internal"}'] == 1


def test_gauges_are_added():
    one, other = Metrics("1"), Metrics("1")
    one.connections.labels("serve").inc(4)
    other.connections.labels("serve").inc(1)
    merged = read(merge([one.registry.collect(), other.registry.collect()]))
    assert merged['tailproxy_connections{"listener": "serve"}'] == 5


def test_histograms_are_added_bucket_by_bucket():
    one, other = Metrics("1"), Metrics("1")
    one.added_latency.observe(0.0002)
    other.added_latency.observe(0.2)
    merged = read(merge([one.registry.collect(), other.registry.collect()]))
    name = "tailproxy_added_latency_seconds"
    assert merged[f'{name}_bucket{{"le": "0.00025"}}'] == 1
    assert merged[f'{name}_bucket{{"le": "+Inf"}}'] == 2
    assert merged[f"{name}_count{{}}"] == 2
    assert merged[f"{name}_sum{{}}"] == pytest.approx(0.2002)


def test_what_cannot_be_added_is_not():
    one, other = Metrics("1.2"), Metrics("1.2")
    for metrics, expiry in ((one, 200), (other, 100)):
        metrics.draining.set(1)
        metrics.certificate_expiry.labels("kube.ts.net").set(expiry)
    merged = read(merge([one.registry.collect(), other.registry.collect()]))
    assert merged['tailproxy_build_info{"version": "1.2"}'] == 1
    assert merged["tailproxy_draining{}"] == 1
    expiry = "tailproxy_certificate_expiry_timestamp_seconds"
    assert merged[f'{expiry}{{"name": "kube.ts.net"}}'] == 100


def test_processes_share_cpu_and_memory_but_not_files():
    def source(start, cpu, memory, files, limit):
        registry = CollectorRegistry()
        for name, value in (
            ("start_time_seconds", start),
            ("resident_memory_bytes", memory),
            ("open_fds", files),
            ("max_fds", limit),
        ):
            Gauge(f"process_{name}", name, registry=registry).set(value)
        Counter("process_cpu_seconds", "cpu", registry=registry).inc(cpu)
        return registry.collect()

    merged = read(merge([source(100, 1.5, 1000, 10, 1024), source(200, 2, 3000, 900, 2048)]))
    assert merged == {
        "process_start_time_seconds{}": 100,
        "process_resident_memory_bytes{}": 4000,
        "process_open_fds{}": 900,
        "process_max_fds{}": 1024,
        "process_cpu_seconds_total{}": 3.5,
    }


def test_one_source_stays_as_it_is():
    metrics = Metrics("1")
    metrics.requests.labels("list", "200", "auth").inc()
    metrics.whois_duration.observe(0.01)
    families = list(metrics.registry.collect())
    assert read(merge([families])) == read(families)


def test_merging_changes_none_of_its_sources():
    metrics = Metrics("1")
    metrics.whois_cache_hits.inc()
    families = list(metrics.registry.collect())
    before = read(families)
    merge([families, families])
    assert read(families) == before


def test_figures_survive_the_way_between_processes():
    metrics = Metrics("1")
    metrics.sessions.labels("spdy", "exec").inc()
    metrics.added_latency.observe(0.3)
    families = list(metrics.registry.collect())

    class Again(CollectorRegistry):
        def __init__(self, families):
            super().__init__()
            self.collect = lambda: families

    arrived = unpack(json.loads(json.dumps(pack(families))))
    assert generate_latest(Again(arrived)) == generate_latest(Again(families))


@pytest.mark.parametrize("packed", [None, [["name", "doc", "gauge"]], [1], [["", "", "", "", 1]]])
def test_what_are_no_figures_is_an_error(packed):
    with pytest.raises(ValueError, match=r".+"):
        unpack(packed)


def test_only_counts_outlive_their_process():
    registry = CollectorRegistry()
    Counter("a", "A.", registry=registry)
    Gauge("b", "B.", registry=registry)
    Histogram("c", "C.", registry=registry)
    assert [family.name for family in totals(registry.collect())] == ["a", "c"]
