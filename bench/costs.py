"""What each step of a request costs that is not a socket: `python -m bench.costs`.

CPU time of this process in microseconds, the least of several rounds, for a GET like kubectl's:
12 headers in, 8 headers out, three groups, a token of 900 bytes. The sum is not what a request
costs in the service: there, caches of the processor are colder.
"""

from __future__ import annotations

import json
import os
import sys
import time
import timeit
from ipaddress import ip_address
from itertools import cycle
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from tailproxy.audit.access import AccessLog, JSONAccessLine
from tailproxy.audit.counters import RequestCounters
from tailproxy.audit.logs import LineObserver, json_line
from tailproxy.interfaces import AccessRecord
from tailproxy.metrics import Metrics
from tailproxy.policy.decide import Mode, Rules, decide
from tailproxy.policy.headers import outgoing_block
from tailproxy.policy.identity import Caller, identify, parse_whois
from tailproxy.proxy.requestid import new_id
from tailproxy.tailnet.resolver import TailscaledResolver
from tailproxy.wire import requestinfo
from tailproxy.wire.head import LastHead, read_head
from tailproxy.wire.http1 import field_lines, response_block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = 7
CALLS = 5000

ID = b"6a6f0b5e-6ea6-44c9-8c5c-95d8a3a8e6a1"
TARGET = b"/api/v1/namespaces/default/pods?limit=500"
WATCH = TARGET + b"&allowWatchBookmarks=true&resourceVersion=%d&timeoutSeconds=512&watch=true"
REQUEST = [
    (b"Host", b"kube.corp-cat.ts.net"),
    (b"User-Agent", b"kubectl/v1.36.0 (linux/amd64) kubernetes/0123456"),
    (b"Accept", b"application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
    (b"Accept-Encoding", b"gzip"),
    (b"Authorization", b"Bearer unused"),
    (b"Cache-Control", b"no-cache"),
    (b"Kubectl-Command", b"kubectl get"),
    (b"Kubectl-Session", ID),
    (b"Pragma", b"no-cache"),
    (b"Traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    (b"X-Request-Id", ID),
    (b"X-Team", b"platform"),
]
ANSWER = [
    (b"Audit-Id", ID),
    (b"Cache-Control", b"no-cache, private"),
    (b"Content-Type", b"application/json"),
    (b"Vary", b"Accept"),
    (b"X-Kubernetes-Pf-Flowschema-Uid", ID),
    (b"X-Kubernetes-Pf-Prioritylevel-Uid", ID),
    (b"Date", b"Mon, 23 Nov 2026 22:36:48 GMT"),
    (b"Content-Length", b"1200"),
]
WHOIS = json.dumps(
    {
        "Node": {
            "ID": 7,
            "StableID": "nABC123CNTRL",
            "Name": "laptop.corp-cat.ts.net.",
            "Addresses": ["100.64.0.5/32", "fd7a:115c:a1e0::5/128"],
            "Hostinfo": {"OS": "linux", "Hostname": "laptop"},
        },
        "UserProfile": {"ID": 77, "LoginName": "ada@corp.example", "DisplayName": "Ada"},
        "CapMap": {
            "tailscale.com/cap/kubernetes": [{"impersonate": {"groups": ["dev", "ops", "sre"]}}]
        },
    }
).encode()
CALLER = Caller(ip_address("100.64.0.5"), 50123)
BEARER = b"t" * 900


class _LocalAPI:
    """Answers WhoIs at once."""

    socket_path = ""

    def whois(self, *_: object, **__: object) -> Any:
        return succeed(WHOIS)


def steps() -> Iterator[tuple[str, Callable[[], object]]]:
    """The steps of a request, in their order; those in brackets are not part of every one."""
    identity = identify(parse_whois(WHOIS))
    rules = Rules()
    metrics = Metrics("0")
    clock = Clock()
    resolver = TailscaledResolver(clock, _LocalAPI(), metrics)  # type: ignore[arg-type]
    resolver.bus_connected()
    resolver.resolve(CALLER)
    head = read_head(b"GET", TARGET, "1.1", REQUEST)
    numbers = iter(range(10**12))

    yield "(read_head, new headers)", lambda: read_head(b"GET", TARGET, "1.1", REQUEST)
    line, block_in = b"GET " + TARGET + b" HTTP/1.1\r\n", field_lines(REQUEST) + b"\r\n"
    last = LastHead()
    last.keep(line + block_in, head)
    yield "LastHead.read", lambda: last.read(line + block_in)
    yield (
        "(request_info, new target)",
        lambda: requestinfo.request_info(b"GET", WATCH % next(numbers)),
    )
    yield "recall", lambda: resolver.recall(CALLER)
    yield "decide", lambda: decide(identity, head, rules)

    def block() -> bytes:
        return outgoing_block(
            head,
            identity=identity,
            host=b"10.0.0.1:6443",
            client=identity.forwarded_for(CALLER),
            bearer=BEARER,
            request_id=new_id().encode(),
        )

    def new_block() -> bytes:
        head.fields.made.clear()
        return block()

    yield "(outgoing_block, new headers)", new_block
    yield "outgoing_block", block
    yield "added latency", lambda: metrics.added_latency.observe(0.0002)
    yield "response_block", lambda: response_block(ANSWER)

    def record() -> AccessRecord:
        return AccessRecord(
            id=new_id(),
            identity=identity,
            caller=CALLER,
            listener="serve",
            method=head.method.decode("ascii", "replace"),
            path=head.path.decode("ascii", "replace"),
            info=head.info,
            status=200,
            sent=1200,
            received=0,
            duration=0.0123,
            upgrade="",
            session=head.info.session or "",
            exit_code=None,
            recorded="",
            decision="forward",
            denied="",
            reason="",
            user_agent=head.fields.user_agent,
        )

    yield "access record", record
    answered = record()
    with open(os.devnull, "w", encoding="utf-8") as stream:  # noqa: PTH123 - a device
        log = AccessLog()
        log.write_to(LineObserver(stream, json_line, clock), JSONAccessLine())
        # In turn, as the line of the last one is kept.
        records = cycle((answered, record()))
        yield "access line, and its write", lambda: log.answered(next(records))
    counters = RequestCounters(metrics, Mode.AUTH)
    yield "counters", lambda: counters.answered(answered)


def measure(step: Callable[[], object]) -> float:
    """The least CPU time of one call, in microseconds."""
    rounds = timeit.repeat(step, number=CALLS, repeat=ROUNDS, timer=time.process_time)
    return min(rounds) / CALLS * 1e6


def main() -> None:
    """Print the table."""
    total = 0.0
    for name, step in steps():
        cost = measure(step)
        total += 0 if name.startswith("(") else cost
        sys.stdout.write(f"{name:28}{cost:8.2f}\n")
    sys.stdout.write(f"{'sum':28}{total:8.2f}\n")


if __name__ == "__main__":
    main()
