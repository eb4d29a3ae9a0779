"""What clients do, and which figures come of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from bench.doors import Way

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SMALL = "/api/v1/namespaces/default/configmaps/small"
LIST = "/api/v1/namespaces/default/configmaps?bytes={}"
WATCH = "/api/v1/namespaces/default/configmaps?watch=true"
EXEC = (
    "/api/v1/namespaces/default/pods/shell/exec?"
    "command=cat&stdin=true&stdout=true&tty=true&container=shell"
)
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
MIB = 1 << 20
GIB = 1 << 30
#: First address of the thousand callers, in the prefix that ``go/tools/whois`` answers for.
CALLERS = "100.80.0.1:20000"
#: See `Workload.rate`: about what the proxies themselves reach.
RATE = 2000

PLAIN, TLS, TAILNET = Way.PLAIN, Way.TLS, Way.TAILNET
BOTH = (PLAIN, TLS)


class Setting(Enum):
    """What stands behind the proxies; the value is the suffix of a workload's name."""

    #: The upstream that answers at once.
    INSTANT = ""
    #: The same, and a LocalAPI that knows a thousand callers.
    CALLERS = "callers"
    #: The lab's kube-apiserver.
    KUBE = "-kube"


class Latency(Enum):
    """Which latency of a workload is its figure."""

    #: None: it is not what the workload is about.
    NONE = 0
    #: What the proxy adds to that of no proxy.
    ADDED = 1
    #: All of it, as a user feels it.
    WHOLE = 2


@dataclass(frozen=True)
class Measured:
    """What one run of ``load`` said, and what its proxy used meanwhile.

    :ivar said: the fields of its result.
    :ivar cpu: seconds of CPU of the proxy.
    :ivar rss: KiB by which its memory grew.
    """

    said: Mapping[str, float]
    cpu: float
    rss: float

    @property
    def each(self) -> float:
        """Microseconds of CPU per request, event or key."""
        return self.cpu * 1e6 / self.said["requests"]

    @property
    def per_gib(self) -> float:
        """Seconds of CPU per GiB of bodies."""
        return self.cpu * GIB / self.said["bytes"]


def _requests(found: Measured) -> dict[str, float]:
    rate = found.said["requests"] / found.said["seconds"]
    return {"cpu_us_per_request": found.each, "requests_per_s": rate}


def _bytes(found: Measured) -> dict[str, float]:
    rate = found.said["bytes"] / MIB / found.said["seconds"]
    return {
        "cpu_s_per_gib": found.per_gib,
        "cpu_us_per_request": found.each,
        "mib_per_s": rate,
    }


def _watches(found: Measured) -> dict[str, float]:
    return {"rss_kib_each": found.rss / found.said["requests"], "cpu_us_each": found.each}


def _events(found: Measured) -> dict[str, float]:
    return {"cpu_us_per_event": found.each}


def _keys(found: Measured) -> dict[str, float]:
    return {"cpu_us_per_key": found.each}


@dataclass(frozen=True)
class Workload:
    """One workload, for each way that clients can come.

    :ivar base: its name without suffixes.
    :ivar mode: of ``load``.
    :ivar path: what is requested.
    :ivar figures: what comes of it, latencies aside.
    :ivar flags: further arguments of ``load``.
    :ivar seconds: how many times longer than others it goes on; None if it counts instead.
    :ivar ways: how clients come.
    :ivar fresh: whether each measurement takes a fresh process.
    :ivar wide: whether two workers are measured too.
    :ivar latency: which of its latencies counts.
    :ivar rate: requests per second at which no proxy is asked for its latencies. As fast as they
        can, many connections would measure the client's own queue there.
    """

    base: str
    mode: str
    path: str
    figures: Callable[[Measured], dict[str, float]]
    flags: tuple[str, ...] = ()
    seconds: float | None = 1.0
    ways: tuple[Way, ...] = BOTH
    setting: Setting = Setting.INSTANT
    fresh: bool = False
    wide: bool = False
    latency: Latency = Latency.ADDED
    rate: int | None = None

    def name(self, way: Way) -> str:
        """Its name as rows have it."""
        suffix = self.setting.value if self.setting is Setting.KUBE else ""
        return f"{self.base}{way.value}{suffix}"


def _get(
    connections: int, ways: tuple[Way, ...] = BOTH, setting: Setting = Setting.INSTANT
) -> Workload:
    flags = ("-c", str(connections))
    rate = None if connections == 1 else RATE
    return Workload(
        f"get-{connections}",
        "get",
        SMALL,
        _requests,
        flags,
        ways=ways,
        setting=setting,
        wide=setting is Setting.INSTANT,
        rate=rate,
    )


def _watch(number: int) -> Workload:
    flags = ("-c", str(number))
    return Workload(
        f"watch-{number}",
        "watch",
        WATCH,
        _watches,
        flags,
        None,
        fresh=True,
        latency=Latency.NONE,
    )


def _echo(sessions: int, keys: int, pause: str) -> Workload:
    flags = ("-c", str(sessions), "-n", str(keys), "-pause", pause)
    return Workload(
        f"exec-echo-{sessions}", "echo", EXEC, _keys, flags, None, latency=Latency.WHOLE
    )


EVERY = (PLAIN, TLS, TAILNET)
WORKLOADS = (
    _get(1, ways=EVERY),
    _get(16, ways=EVERY),
    _get(64, ways=EVERY),
    Workload("connect", "connect", SMALL, _requests, ways=EVERY, wide=True, latency=Latency.WHOLE),
    Workload("list-1m", "get", LIST.format(MIB), _bytes),
    Workload("stream-1g", "get", LIST.format(GIB), _bytes, ("-n", "1"), None, latency=Latency.NONE),
    Workload("post-1m", "post", CONFIG_MAPS, _bytes, ("-size", str(MIB))),
    _watch(100),
    _watch(1000),
    Workload(
        "fanout-500",
        "fanout",
        WATCH,
        _events,
        ("-c", "500", "-n", "20", "-pause", "20ms"),
        None,
        latency=Latency.WHOLE,
    ),
    _echo(1, 300, "10ms"),
    _echo(50, 100, "20ms"),
    Workload(
        "k9s-40",
        "burst",
        LIST.format(32 << 10),
        _requests,
        ("-c", "40", "-pause", "50ms"),
        wide=True,
        latency=Latency.WHOLE,
    ),
    Workload(
        "callers-1000",
        "callers",
        SMALL,
        _requests,
        ("-c", "1000", "-n", "10000"),
        None,
        ways=(PLAIN,),
        setting=Setting.CALLERS,
        wide=True,
        rate=RATE,
    ),
    _get(16, setting=Setting.KUBE),
)


def proxies_for(workload: Workload, way: Way) -> tuple[str, ...]:
    """The proxies, by name, that a workload is put through when clients come that way.

    No proxy is no matter of the way, so it is among them for the first way only.
    """
    compared = {
        PLAIN: ("go-peer",),
        TLS: ("go-stdlib", "nginx"),
        TAILNET: ("go-peer",),
    }[way]
    if workload.setting is Setting.CALLERS:
        compared = ()  # they would have to ask a tailnet with a thousand nodes
    direct = ("direct",) if workload.latency is not Latency.NONE and way is workload.ways[0] else ()
    wide = ("tailproxy-2",) if workload.wide and way is not TAILNET else ()
    return (*direct, *compared, "tailproxy-1", *wide)
