"""The configuration file.

The top level is the Tailscale operator's schema (spec/dataplane.md 2.2), so that a config Secret
written by it starts tailproxy too; `tailproxy.options` holds the one object that is ours.

`Config` and all below it are frozen values; made by hand they are checked as they are when read.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import ip_address
from pathlib import Path

import attrs

from tailproxy.options import Tailproxy
from tailproxy.policy.decide import Mode
from tailproxy.schema import (
    FLAG,
    PORT,
    TEXT,
    Choice,
    ConfigError,
    Many,
    Nested,
    Place,
    option,
    options,
    parsed,
)
from tailproxy.wire import hujson
from tailproxy.wire.addresses import AddressPort, IPAddress

VERSION = "v1alpha1"
DEFAULT_SOURCE = "/etc/tailproxy/tailproxy.hujson"
# The variable that names the file for the Tailscale operator's own proxy (spec/dataplane.md 2.1).
SOURCE_VARIABLE = "TS_K8S_PROXY_CONFIG"


class LogLevel(Enum):
    """The least important log lines that are written; the last three are one and the same here."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"
    DPANIC = "dpanic"
    PANIC = "panic"
    FATAL = "fatal"


@attrs.frozen
class APIServerProxy:
    """How the API server is offered."""

    enabled: bool | None = option("Enabled", FLAG, "Whether a Tailscale Service is served.")
    mode: Mode = option(
        "Mode",
        Choice(Mode),
        "`auth` impersonates the caller; `noauth` passes the client's own credentials on.",
        default=Mode.AUTH,
    )
    service_name: str | None = option(
        "ServiceName", TEXT, "The Tailscale Service that is served, such as svc:kube."
    )
    issue_certs: bool | None = option(
        "IssueCerts", FLAG, "Whether this replica issues the Service's certificate."
    )


_UNHEEDED = frozenset(
    (
        "accept_routes",
        "advertise_services",
        "app",
        "auth_key",
        "enabled",
        "hostname",
        "issue_certs",
        "server_url",
        "state",
        "static_endpoints",
    )
)


@attrs.frozen
class Config:
    """One configuration file."""

    auth_key: str | None = option(
        "AuthKey", TEXT, "Tailnet auth key, for a tailscaled that tailproxy starts.", secret=True
    )
    state: str | None = option(
        "State", TEXT, "Where that tailscaled keeps its state: kube:SECRET, mem: or a path."
    )
    log_level: LogLevel = option(
        "LogLevel", Choice(LogLevel), "The least important log lines.", default=LogLevel.INFO
    )
    app: str | None = option("App", TEXT, "What the node tells the control server it is for.")
    server_url: str | None = option("ServerURL", TEXT, "Control server, if not the hosted one.")
    local_addr: IPAddress | None = option(
        "LocalAddr",
        parsed(
            "an IP address",
            lambda text: ip_address(text.removeprefix("[").removesuffix("]")),
            r"^\[?[0-9A-Fa-f:.]+\]?$",
        ),
        "Address of probes and metrics; see Tailproxy.Admin.Address.",
    )
    local_port: int = option("LocalPort", PORT, "Port of probes and metrics.", default=9002)
    metrics_enabled: bool | None = option("MetricsEnabled", FLAG, "Open that port for metrics.")
    health_check_enabled: bool | None = option(
        "HealthCheckEnabled", FLAG, "Open that port for probes."
    )
    hostname: str | None = option("Hostname", TEXT, "The node's name on the tailnet.")
    accept_routes: bool | None = option(
        "AcceptRoutes", FLAG, "Whether the node uses routes that others advertise."
    )
    advertise_services: tuple[str, ...] | None = option(
        "AdvertiseServices", Many(TEXT), "Tailscale Services that the node advertises."
    )
    api_server_proxy: APIServerProxy = option(
        "APIServerProxy",
        Nested(APIServerProxy, strict=False),
        "How the API server is offered.",
        default=APIServerProxy(),
    )
    static_endpoints: tuple[AddressPort, ...] = option(
        "StaticEndpoints",
        Many(
            parsed(
                '"IP:PORT", with an IPv6 address in brackets',
                AddressPort.parse,
                r"^([0-9.]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$",
            )
        ),
        "Addresses at which the node can be reached from outside.",
        default=(),
    )
    tailproxy: Tailproxy = option(
        "Tailproxy",
        Nested(Tailproxy),
        "What the Tailscale operator's schema lacks.",
        default=Tailproxy(),
    )

    @property
    def unheeded(self) -> tuple[str, ...]:
        """The keys that are set although nothing here heeds them: they are for a tailscaled that
        tailproxy starts, and tailscaled runs beside it (spec/dataplane.md 2.1).
        """
        return tuple(
            f"{prefix}{entry.key}"
            for prefix, value in (("", self), ("APIServerProxy.", self.api_server_proxy))
            for field, entry in options(type(value))
            if field.name in _UNHEEDED and getattr(value, field.name) not in {None, ()}
        )

    @property
    def admin_enabled(self) -> bool:
        """Whether the port of probes and metrics is open (design.md section 4)."""
        return bool(
            self.metrics_enabled or self.health_check_enabled or self.tailproxy.admin is not None
        )


@attrs.frozen
class Document:
    """A configuration as it was written.

    :ivar source: name of its file.
    :ivar text: what stands there.
    :ivar config: what that means.
    """

    source: str
    text: str = attrs.field(repr=False)  # it may hold an auth key
    config: Config


def load(source: str) -> Document:
    """The configuration in a file.

    :param source: the file's path. `kube:NAMESPACE/NAME`, a Secret, is recognised and refused:
        there is no support for it yet.
    :raises ConfigError: it cannot be read, or is wrong.
    """
    kind, colon, secret = source.partition(":")
    if colon and kind == "kube":
        if not all(secret.partition("/")):
            raise ConfigError(source, f"found {secret!r}, wanted kube:NAMESPACE/NAME")
        raise ConfigError(source, "a Secret cannot be read directly; mount it and name the file")
    try:
        text = Path(source).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(source, f"cannot read the configuration: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(source, "found bytes that are not UTF-8, wanted UTF-8") from error
    return Document(source, text, parse(text, source))


def parse(text: str, source: str) -> Config:
    """The configuration in a text.

    :param text: HuJSON.
    :param source: name of the file, for errors.
    :raises ConfigError: the text is wrong.
    """
    try:
        node = hujson.parse(text)
    except hujson.HuJSONError as error:
        raise ConfigError(source, error.message, line=error.line, column=error.column) from error
    config: Config = Nested(Config, strict=False).read(_of_version(Place(source, node)))
    return config


def _of_version(root: Place) -> Place:
    """The object that is of our version: the root, or what a newer one carries for us
    (spec/dataplane.md 2.2, versioning).
    """
    if root.node.kind not in {"object", "null"}:
        raise root.wrong("an object")
    version, older = root.find("Version"), root.find(VERSION)
    carried = older if older is not None and older.given else None
    if version is None or not version.given or version.node.value == "":
        raise root.wrong(f'"Version": "{VERSION}"', "no version")
    if version.node.kind != "string":
        raise version.wrong(f'"{VERSION}"')
    if version.node.value == VERSION:
        if carried is not None:
            raise carried.wrong(f"none, as the Version is {VERSION} already")
        return root
    if carried is None:
        raise version.wrong(f'"{VERSION}", or an object {VERSION} beside it')
    if carried.node.kind != "object":
        raise carried.wrong("an object")
    return carried
