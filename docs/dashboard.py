"""Makes `etc/grafana.json`: what tailproxy counts, as a dashboard for Grafana 10 and later.

The panels are listed below, row by row; everything around them is the same for all.
`docs.reference` writes the file, and tests look whether each metric and label in it exists.
"""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

    Json = dict[str, Any]

# Which tailproxies, by the dashboard's variables.
_THESE = 'job=~"$job", instance=~"$instance"'
_SOURCE = {"type": "prometheus", "uid": "${source}"}
# Of the grid, which is 24 wide.
_WIDTH, _HEIGHT, _STAT_WIDTH, _STAT_HEIGHT = 8, 7, 3, 4
_COLUMNS = 24


@attrs.frozen
class Panel:
    """One picture.

    :ivar queries: legend and PromQL; `@` stands for the labels that choose the tailproxies.
    :ivar unit: Grafana's name of it.
    :ivar stat: a number, in place of lines.
    :ivar doc: what it tells, if the title does not.
    :ivar bands: colours by value, from the first on; for numbers.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    stat: bool = False
    doc: str = ""
    bands: tuple[tuple[str, float | None], ...] = (("green", None),)

    def made(self, number: int, x: int, y: int) -> Json:
        """It, as Grafana knows it.

        :param number: tells it apart from the others.
        """
        return {
            "id": number,
            "type": "stat" if self.stat else "timeseries",
            "title": self.title,
            "description": self.doc,
            "datasource": _SOURCE,
            "gridPos": {
                "h": _STAT_HEIGHT if self.stat else _HEIGHT,
                "w": _STAT_WIDTH if self.stat else _WIDTH,
                "x": x,
                "y": y,
            },
            "fieldConfig": {"defaults": self._look(), "overrides": []},
            "options": self._options(),
            "targets": [
                {
                    "refId": chr(ord("A") + at),
                    "datasource": _SOURCE,
                    "expr": expression.replace("@", _THESE),
                    "legendFormat": legend,
                    "instant": self.stat,
                    "range": not self.stat,
                }
                for at, (legend, expression) in enumerate(self.queries)
            ],
        }

    def _look(self) -> Json:
        steps = [{"color": color, "value": value} for color, value in self.bands]
        look: Json = {"unit": self.unit, "min": 0}
        if self.stat:
            return {"unit": self.unit, "thresholds": {"mode": "absolute", "steps": steps}}
        return {**look, "custom": {"fillOpacity": 10, "showPoints": "never"}}

    def _options(self) -> Json:
        if not self.stat:
            legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
            return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
        reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        text = "name" if self.title == "Version" else "value"
        return {"reduceOptions": reduced, "colorMode": "value", "textMode": text}


def _rate(metric: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{@}}[$__rate_interval]))"


def _quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    """The middle, and what one in ten and one in a hundred exceed."""
    return tuple(
        (
            f"{percent} %",
            f"histogram_quantile({percent / 100:g}, {_rate(f'{metric}_bucket', 'le')})",
        )
        for percent in (50, 90, 99)
    )


_REQUESTS = "tailproxy_requests_total"
_FAILED = 'sum(rate(tailproxy_requests_total{@, code=~"5.."}[$__rate_interval]))'
_HITS = _rate("tailproxy_whois_cache_hits_total")
_ASKED = _rate("tailproxy_whois_total")
_BY_VERB = _rate("tailproxy_request_duration_seconds_bucket", "le, verb")
_GOOD_BAD = (("red", None), ("green", 1.0))

_ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel("Version", (("{{version}}", "tailproxy_build_info{@}"),), stat=True),
        Panel("Requests", (("", _rate(_REQUESTS)),), "reqps", stat=True),
        Panel(
            "Errors of servers",
            (("", f"{_FAILED} / {_rate(_REQUESTS)}"),),
            "percentunit",
            stat=True,
            bands=(("green", None), ("orange", 0.01), ("red", 0.05)),
        ),
        Panel("Open sessions", (("", "sum(tailproxy_sessions_active{@})"),), stat=True),
        Panel(
            "Configuration in force",
            (("", "min(tailproxy_config_last_reload_successful{@})"),),
            stat=True,
            doc="1 if the newest one is, 0 if it could not be used.",
            bands=_GOOD_BAD,
        ),
        Panel(
            "Read",
            (("", "max(tailproxy_config_last_reload_success_timestamp_seconds{@}) * 1000"),),
            "dateTimeFromNow",
            stat=True,
            doc="When the configuration in force was read.",
        ),
        Panel("Workers", (("", "sum(tailproxy_workers{@})"),), stat=True),
        Panel(
            "Certificate ends in",
            (("", "min(tailproxy_certificate_expiry_timestamp_seconds{@}) - time()"),),
            "s",
            stat=True,
            doc="Of listeners that end TLS themselves.",
            bands=(("red", None), ("orange", 86400.0), ("green", 7 * 86400.0)),
        ),
    ),
    "Requests": (
        Panel("By status code", (("{{code}}", _rate(_REQUESTS, "code")),), "reqps"),
        Panel("By verb", (("{{verb}}", _rate(_REQUESTS, "verb")),), "reqps"),
        Panel(
            "Refused by tailproxy",
            (("{{reason}}", _rate("tailproxy_denied_total", "reason")),),
            "reqps",
            doc="Answered with an error of its own, by label; see docs/troubleshooting.md.",
        ),
    ),
    "Latency": (
        Panel("Requests", _quantiles("tailproxy_request_duration_seconds"), "s"),
        Panel(
            "99 % by verb",
            (("{{verb}}", f"histogram_quantile(0.99, {_BY_VERB})"),),
            "s",
        ),
        Panel(
            "Added by tailproxy",
            _quantiles("tailproxy_added_latency_seconds"),
            "s",
            doc="From a request's head to its first byte to the API server.",
        ),
    ),
    "Who is calling": (
        Panel(
            "WhoIs questions", (("{{result}}", _rate("tailproxy_whois_total", "result")),), "reqps"
        ),
        Panel(
            "Known without asking",
            (("", f"{_HITS} / ({_HITS} + {_ASKED})"),),
            "percentunit",
        ),
        Panel("tailscaled answers in", _quantiles("tailproxy_whois_duration_seconds"), "s"),
    ),
    "Connections": (
        Panel("Clients", (("{{listener}}", "sum by (listener) (tailproxy_connections{@})"),)),
        Panel("API server", (("", "sum(tailproxy_upstream_connections{@})"),)),
        Panel(
            "PROXY headers refused",
            (("{{reason}}", _rate("tailproxy_proxy_header_refused_total", "reason")),),
            "cps",
            doc="Somebody connects to a serve listener who is not tailscaled's serve.",
        ),
    ),
    "Sessions and the API server": (
        Panel(
            "Open sessions",
            (
                (
                    "{{subresource}} {{protocol}}",
                    "sum by (subresource, protocol) (tailproxy_sessions_active{@})",
                ),
            ),
            doc="Upgraded connections: exec, attach, port-forward.",
        ),
        Panel(
            "Bytes in sessions",
            (("{{direction}}", _rate("tailproxy_session_bytes_total", "direction")),),
            "Bps",
        ),
        Panel(
            "Errors of the API server",
            (("{{reason}}", _rate("tailproxy_upstream_errors_total", "reason")),),
            "cps",
            doc="It cannot be reached, or not be understood.",
        ),
        Panel(
            "Passed unrecorded",
            (("", _rate("tailproxy_unrecorded_total")),),
            "reqps",
            doc="A grant asks for recording and lets requests pass without it.",
        ),
        Panel(
            "Request events",
            (("{{result}}", _rate("tailproxy_request_events_total", "result")),),
            "cps",
            doc="What recorders are told about requests, where grants ask for that.",
        ),
        Panel(
            "Audit lines",
            (
                ("{{sink}} took", _rate("tailproxy_audit_lines_total", "sink")),
                ("{{sink}} lost", _rate("tailproxy_audit_dropped_total", "sink")),
                ("{{sink}} failed", _rate("tailproxy_audit_failures_total", "sink")),
            ),
            "cps",
            doc="Lines that wait for a sink which fails are lost once there are too many.",
        ),
        Panel(
            "Recordings",
            (("{{result}}", _rate("tailproxy_recordings_total", "result")),),
            "reqps",
            doc="`lost`: the end may be missing; `broken`: broken off.",
        ),
    ),
    "Recorder": (
        Panel(
            "Recordings taken",
            (("{{state}}", _rate("tailproxy_recorder_uploads_total", "state")),),
            "cps",
            doc="By how they ended; refused ones found the disk full.",
        ),
        Panel("Under way", (("", "sum(tailproxy_recorder_uploads_active{@})"),)),
        Panel(
            "Written",
            (("", _rate("tailproxy_recorder_received_bytes_total")),),
            "Bps",
        ),
        Panel("Kept", (("", "sum(tailproxy_recorder_stored_bytes{@})"),), "bytes"),
        Panel("Deleted", (("", _rate("tailproxy_recorder_deleted_total")),), "cps"),
        Panel("Events", (("", _rate("tailproxy_recorder_events_total")),), "cps"),
    ),
    "Processes": (
        Panel("CPU", (("{{instance}}", _rate("process_cpu_seconds_total", "instance")),), "none"),
        Panel("Memory", (("{{instance}}", "process_resident_memory_bytes{@}"),), "bytes"),
        Panel(
            "Open files",
            (
                ("{{instance}}", "process_open_fds{@}"),
                ("{{instance}}, at most", "process_max_fds{@}"),
            ),
        ),
        Panel("Workers", (("{{instance}}", "tailproxy_workers{@}"),)),
        Panel(
            "Workers that ended",
            (("{{instance}}", "increase(tailproxy_worker_restarts_total{@}[$__rate_interval])"),),
        ),
        Panel(
            "Leaving, and wrong configurations",
            (
                ("{{instance}} is leaving", "tailproxy_draining{@}"),
                (
                    "{{instance}} has its file in force",
                    "tailproxy_config_last_reload_successful{@}",
                ),
            ),
        ),
    ),
}


def dashboard() -> str:
    """The dashboard, as it is imported."""
    made = {
        "title": "tailproxy",
        "uid": "tailproxy",
        "description": "The Kubernetes API server on a tailnet.",
        "tags": ["kubernetes", "tailproxy"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables())},
        "panels": list(_panels()),
    }
    return json.dumps(made, indent=1) + "\n"


def _variables() -> Iterator[Json]:
    yield {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}
    several = {"type": "query", "datasource": _SOURCE, "refresh": 2, "multi": True}
    several |= {"includeAll": True, "current": {"text": "All", "value": "$__all"}}
    for name, query in (
        ("job", "label_values(tailproxy_build_info, job)"),
        ("instance", 'label_values(tailproxy_build_info{job=~"$job"}, instance)'),
    ):
        yield {"name": name, "label": name.capitalize(), "query": query, **several}


def _panels() -> Iterator[Json]:
    numbers = count(1)
    y = 0
    for title, panels in _ROWS.items():
        row = {"h": 1, "w": _COLUMNS, "x": 0, "y": y}
        yield {"id": next(numbers), "type": "row", "title": title, "gridPos": row, "panels": []}
        y, x = y + 1, 0
        for panel in panels:
            made = panel.made(next(numbers), x, y)
            yield made
            x += made["gridPos"]["w"]
            if x == _COLUMNS:
                x, y = 0, y + made["gridPos"]["h"]
        if x:
            y += made["gridPos"]["h"]
