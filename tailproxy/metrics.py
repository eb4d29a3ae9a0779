"""What the service counts about itself, by name.

One object is made at start and handed to whoever counts. Labels are short constants: never a
user, a path or a pod, which would be endless and may be private. Names follow the Prometheus
conventions: base units, `_total`, `_seconds`, `_bytes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Info, ProcessCollector

from tailproxy.counting import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

# From a fast answer of a close API server to a list that takes half a minute.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# What the proxy adds should be far below a millisecond.
_ADDED_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5)


class Metrics:
    """The service's metrics, in a registry of their own.

    :param version: tailproxy's version, for `tailproxy_build_info`.
    """

    def __init__(self, version: str) -> None:
        registry = self.registry = CollectorRegistry()
        Info("tailproxy_build", "The running version.", registry=registry).info(
            {"version": version}
        )
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "tailproxy_requests_total",
            "Requests answered, by Kubernetes verb, status code and mode.",
            ["verb", "code", "mode"],
            registry=registry,
        )
        self.request_duration = Histogram(
            "tailproxy_request_duration_seconds",
            "From the request's head to the end of its answer; without watches and streams.",
            ["verb"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.added_latency = Histogram(
            "tailproxy_added_latency_seconds",
            "From the request's head to its first byte upstream: what the proxy itself adds.",
            buckets=_ADDED_SECONDS,
            registry=registry,
        )
        self.denied = Counter(
            "tailproxy_denied_total",
            "Requests that tailproxy answered with an error of its own, by reason.",
            ["reason"],
            registry=registry,
        )
        self.upstream_errors = Counter(
            "tailproxy_upstream_errors_total",
            "Failures to reach the API server or to understand it, by reason.",
            ["reason"],
            registry=registry,
        )
        self.upstream_connections = Gauge(
            "tailproxy_upstream_connections",
            "Open connections to the API server.",
            registry=registry,
        )
        self.connections = Gauge(
            "tailproxy_connections",
            "Open client connections, by listener.",
            ["listener"],
            registry=registry,
        )
        self.proxy_header_refused = Counter(
            "tailproxy_proxy_header_refused_total",
            "Connections closed for want of a valid PROXY header, by reason.",
            ["reason"],
            registry=registry,
        )
        self.sessions = Gauge(
            "tailproxy_sessions_active",
            "Upgraded connections that are open, by protocol and subresource.",
            ["protocol", "subresource"],
            registry=registry,
        )
        self.session_bytes = Counter(
            "tailproxy_session_bytes_total",
            "Bytes relayed on upgraded connections; `sent` went to the client.",
            ["direction"],
            registry=registry,
        )
        self.whois = Counter(
            "tailproxy_whois_total",
            "WhoIs questions put to tailscaled, by result.",
            ["result"],
            registry=registry,
        )
        self.whois_cache_hits = Counter(
            "tailproxy_whois_cache_hits_total",
            "Requests whose caller was known without asking tailscaled.",
            registry=registry,
        )
        self.whois_duration = Histogram(
            "tailproxy_whois_duration_seconds",
            "Time tailscaled took to say who is calling.",
            buckets=_ADDED_SECONDS,
            registry=registry,
        )
        self.certificate_expiry = Gauge(
            "tailproxy_certificate_expiry_timestamp_seconds",
            "When the listener's certificate ends, in seconds since 1970.",
            ["name"],
            registry=registry,
        )
        self.recordings = Counter(
            "tailproxy_recordings_total",
            "Recordings of sessions that have ended: kept; lost, if the end may be missing; or"
            " broken off.",
            ["result"],
            registry=registry,
        )
        self.unrecorded = Counter(
            "tailproxy_unrecorded_total",
            "Requests and sessions that a fail-open rule let pass unrecorded.",
            registry=registry,
        )
        self.request_events = Counter(
            "tailproxy_request_events_total",
            "Request events that grants ask for, by result.",
            ["result"],
            registry=registry,
        )
        self.audit_lines = Counter(
            "tailproxy_audit_lines_total",
            "Audit lines that a file or a server has taken.",
            ["sink"],
            registry=registry,
        )
        self.audit_dropped = Counter(
            "tailproxy_audit_dropped_total",
            "Audit lines that a file or a server will never have.",
            ["sink"],
            registry=registry,
        )
        self.audit_failures = Counter(
            "tailproxy_audit_failures_total",
            "Attempts at handing audit lines over that failed.",
            ["sink"],
            registry=registry,
        )
        self.recorder_uploads = Counter(
            "tailproxy_recorder_uploads_total",
            "Recordings that our own recorder took, by how they ended, and those that it refused"
            " for want of room.",
            ["state"],
            registry=registry,
        )
        self.recorder_live = Gauge(
            "tailproxy_recorder_uploads_active",
            "Recordings that are being taken.",
            registry=registry,
        )
        self.recorder_bytes = Counter(
            "tailproxy_recorder_received_bytes_total",
            "Bytes of recordings that were taken and written.",
            registry=registry,
        )
        self.recorder_events = Counter(
            "tailproxy_recorder_events_total",
            "Events of API requests that were taken and written.",
            registry=registry,
        )
        self.recorder_stored = Gauge(
            "tailproxy_recorder_stored_bytes",
            "Bytes of all recordings that are kept.",
            registry=registry,
        )
        self.recorder_deleted = Counter(
            "tailproxy_recorder_deleted_total",
            "Recordings that were deleted because of their age or of their size together.",
            registry=registry,
        )
        self.workers = Gauge(
            "tailproxy_workers",
            "Worker processes that take connections; 0 where one process does everything.",
            registry=registry,
        )
        self.worker_restarts = Counter(
            "tailproxy_worker_restarts_total",
            "Worker processes that were started because one had ended.",
            registry=registry,
        )
        self.config_reload_time = Gauge(
            "tailproxy_config_last_reload_success_timestamp_seconds",
            "When the configuration that is in force was read, in seconds since 1970.",
            registry=registry,
        )
        self.config_reloaded = Gauge(
            "tailproxy_config_last_reload_successful",
            "0 while a configuration that was read again could not be used.",
            registry=registry,
        )
        self.draining = Gauge(
            "tailproxy_draining",
            "1 while the service is leaving.",
            registry=registry,
        )

    async def collect(self) -> Iterable[Metric]:
        """All of them as they are now."""
        return self.registry.collect()
