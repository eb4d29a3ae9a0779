"""The listener's certificate: from tailscaled, from files, or made up for development.

Every source has its pair at hand before anybody asks (spec/dataplane.md 3.7). A pair that works
is kept until a better one is there, whatever goes wrong meanwhile.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from tailproxy.interfaces import CheckResult, ICertificateSource, KeyPair
from tailproxy.tailnet.localapi import LocalAPIError
from tailproxy.tailnet.node import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from tailproxy.metrics import Metrics
    from tailproxy.tailnet.localapi import LocalAPI
    from tailproxy.wire.addresses import IPAddress

# Seconds between questions for a certificate that we have; tailscaled renews it in good time,
# and answers from memory until then.
REFRESH = 3600.0
# Seconds until the next attempt, by how many failed before (2.6).
_TRANSIENT = 60.0
_WAITS = (60.0, 600.0, 6000.0)
_LONGEST_WAIT = 86400.0
# Seconds between looks at files.
POLL = 5.0
# How long a certificate for development lasts.
_SELF_SIGNED_FOR = timedelta(days=397)


class CertificateError(Exception):
    """A certificate or key cannot be used; the text names it and says why."""


def read_pair(chain: bytes, key: bytes) -> KeyPair:
    """Check a certificate chain and its key.

    :param chain: PEM, the server's own certificate first.
    :param key: PEM, not encrypted.
    :raises CertificateError: one of them cannot be read, or they do not belong together.
    """
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise CertificateError("it holds no certificate in PEM form that can be read") from error
    try:
        private = serialization.load_pem_private_key(key, None)
    except TypeError as error:
        raise CertificateError("the key is encrypted; tailproxy needs one that is not") from error
    except ValueError as error:
        raise CertificateError("it holds no private key in PEM form that can be read") from error
    own = certificates[0]
    if own.public_key() != private.public_key():
        raise CertificateError("the key does not belong to the first certificate")
    return KeyPair(chain, key, own.not_valid_after_utc)


def next_attempt(error: Exception, failures: int) -> tuple[float, int]:
    """Say when to ask again for a certificate, as dataplane.md 2.6 has it.

    :param error: why it failed this time.
    :param failures: how often it failed before, as counted here.
    :returns: seconds to wait, and the new count.
    """
    if isinstance(error, LocalAPIError):
        if error.status is None:
            return _TRANSIENT, failures
        if error.status == 429 and error.retry_after is not None:
            return error.retry_after, failures + 1
    wait = _WAITS[failures] if failures < len(_WAITS) else _LONGEST_WAIT
    return wait, failures + 1


def _utc_now() -> datetime:
    return datetime.now(UTC)


@implementer(ICertificateSource)
class _Source(Service):
    """What all sources have in common: a pair for everybody, or one by name.

    :param now: the time of day, to judge a certificate by.
    """

    log = Logger()

    def __init__(self, metrics: Metrics, now: Callable[[], datetime] = _utc_now) -> None:
        self._metrics = metrics
        self._now = now
        self._default: KeyPair | None = None
        self._pairs: dict[str, KeyPair] = {}
        self._problem = "there is none yet"

    def pair(self, server_name: str | None) -> KeyPair | None:
        """See `ICertificateSource.pair`."""
        if server_name is None:
            return self._default
        return self._pairs.get(server_name, self._default)

    def check(self) -> CheckResult:
        """Whether there is a certificate that is in force."""
        pair = self._default
        if pair is None:
            return CheckResult(ok=False, detail=f"no certificate: {self._problem}")
        until = pair.not_after.isoformat(timespec="seconds")
        if pair.not_after <= self._now():
            return CheckResult(
                ok=False, detail=f"the certificate ran out at {until}: {self._problem}"
            )
        return CheckResult(ok=True, detail=f"the certificate is valid until {until}")

    def _publish(self, name: str, pair: KeyPair) -> None:
        """Note a new pair where people look."""
        until = pair.not_after
        self._metrics.certificate_expiry.labels(name).set(until.timestamp())
        self.log.info(
            "New certificate for {name}, valid until {until}",
            name=name,
            until=until.isoformat(timespec="seconds"),
        )


class _Renewal:
    """How it stands with the certificate of one name.

    :ivar failures: as `next_attempt` counts them.
    :ivar problem: why there is no new one, in words; empty when all is well.
    :ivar limited: whether the issuer wants to be left alone until the next attempt.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.problem = ""
        self.limited = False
        self.asking: Deferred[None] | None = None
        self.next: IDelayedCall | None = None

    def unschedule(self) -> None:
        if self.next is not None:
            self.next.cancel()
            self.next = None

    def stop(self) -> None:
        self.unschedule()
        if self.asking is not None:
            self.asking.cancel()


class TailnetCertificates(_Source):
    """Certificates that tailscaled has issued for the node's name, and further ones.

    Give its `node_changed` to `NodeMonitor.watch`.

    :param clock: for the time between attempts.
    :param api: the tailscaled.
    :param metrics: where the certificates' ends are shown.
    :param names: further names, in lower case.
    :param now: the time of day.
    """

    def __init__(
        self,
        clock: IReactorTime,
        api: LocalAPI,
        metrics: Metrics,
        names: Sequence[str] = (),
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        super().__init__(metrics, now)
        self._clock = clock
        self._api = api
        self._names = tuple(names)
        self._node = Node()
        self._renewals: dict[str, _Renewal] = {}
        self._problem = "the node is not on the tailnet yet"

    def node_changed(self, node: Node) -> None:
        """Ask for what the node may have certificates for now.

        While it is away everything stays as it is: it will hardly come back as another one.
        """
        returned = node.up and not self._node.up
        self._node = node
        if self.running and node.up:
            self._begin(returned=returned)

    def startService(self) -> None:
        """Ask for certificates from now on."""
        super().startService()
        if self._node.up:
            self._begin(returned=True)

    def stopService(self) -> None:
        """Ask no more; what is there can be served on."""
        super().stopService()
        for renewal in self._renewals.values():
            renewal.stop()
        self._renewals.clear()

    def _begin(self, *, returned: bool) -> None:
        """Look after each name that there should be a certificate for.

        :param returned: the node was away, so that what failed before may work now.
        """
        wanted = dict.fromkeys((self._node.fqdn, *self._names))
        for name in self._renewals.keys() - wanted.keys():
            self._renewals.pop(name).stop()
        for name in wanted:
            renewal = self._renewals.setdefault(name, _Renewal())
            if name not in self._node.cert_domains:
                renewal.stop()
                self._complain(
                    name,
                    f"the tailnet offers none for {name or 'a node without a name'}; have its "
                    "administrator enable HTTPS certificates",
                )
            elif renewal.next is None or (returned and renewal.problem and not renewal.limited):
                self._ask(name)

    def _ask(self, name: str) -> None:
        renewal = self._renewals[name]
        if renewal.asking is not None and not renewal.asking.called:
            return
        renewal.unschedule()
        renewal.asking = Deferred.fromCoroutine(self._renew(name, renewal))
        renewal.asking.addErrback(lambda failure: failure.trap(CancelledError))

    async def _renew(self, name: str, renewal: _Renewal) -> None:
        """Ask once, and settle when to ask again."""
        try:
            pair = read_pair(*await self._api.cert_pair(name))
            if pair.not_after <= self._now():
                raise CertificateError("tailscaled gave one that ran out")
        except (LocalAPIError, CertificateError) as error:
            wait, renewal.failures = next_attempt(error, renewal.failures)
            renewal.limited = isinstance(error, LocalAPIError) and error.status == 429
            self._complain(name, f"{error}; next attempt in {wait:g} s")
        else:
            wait, renewal.failures, renewal.limited, renewal.problem = REFRESH, 0, False, ""
            if self._pairs.get(name) != pair:
                self._pairs[name] = pair
                self._publish(name, pair)
            if name == self._node.fqdn or self._default is None:
                self._default = self._pairs[name]
        renewal.next = self._clock.callLater(wait, self._due, name)

    def _due(self, name: str) -> None:
        self._renewals[name].next = None
        self._ask(name)

    def _complain(self, name: str, problem: str) -> None:
        renewal = self._renewals[name]
        if renewal.problem != problem:
            self.log.warn(
                "Cannot get a certificate for {name}: {problem}", name=name, problem=problem
            )
        renewal.problem = problem
        if name == self._node.fqdn:
            self._problem = problem


class FileCertificates(_Source):
    """A certificate that somebody else keeps in files.

    They are looked at every few seconds, by content, so that any way of replacing them is
    noticed: written over, renamed, or switched by a symbolic link as Kubernetes does.

    :param clock: for the time between looks.
    :param chain: path of the certificate chain, PEM.
    :param key: path of its key, PEM; may be the same file.
    :param metrics: where the certificate's end is shown.
    :param now: the time of day.
    :raises CertificateError: the files cannot be used as they are now.
    """

    def __init__(
        self,
        clock: IReactorTime,
        chain: Path,
        key: Path,
        metrics: Metrics,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        super().__init__(metrics, now)
        self._paths = (chain, key)
        self._problem = "its files have not been renewed"
        self._default = self._read()
        self._publish(str(chain), self._default)
        self._complaint = ""
        self._poll = LoopingCall(self._look)
        self._poll.clock = clock

    def startService(self) -> None:
        """Look at the files from now on."""
        super().startService()
        self._poll.start(POLL, now=False)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        if self._poll.running:
            self._poll.stop()

    def _look(self) -> None:
        """Take what is new if it can be used; else keep what we have."""
        try:
            pair = self._read()
        except CertificateError as error:
            if str(error) != self._complaint:
                self.log.warn("Keeping the old certificate: {reason}", reason=error)
            self._complaint = self._problem = str(error)
            return
        self._complaint = ""
        self._problem = "its files have not been renewed"
        if pair != self._default:
            self._default = pair
            self._publish(str(self._paths[0]), pair)

    def _read(self) -> KeyPair:
        chain, key = self._paths
        try:
            return read_pair(chain.read_bytes(), key.read_bytes())
        except OSError as error:
            raise CertificateError(
                f"cannot read {error.filename}: {error.strerror}; see Tailproxy.Certificates"
            ) from error
        except CertificateError as error:
            raise CertificateError(
                f"cannot use the certificate {chain} with the key {key}: {error}; see "
                "Tailproxy.Certificates"
            ) from error


class SelfSigned(_Source):
    """A certificate that nobody vouches for, made at the start: for development.

    :param addresses: that clients dial, besides the name ``localhost``.
    :param metrics: where the certificate's end is shown.
    :param now: the time of day.
    """

    def __init__(
        self,
        addresses: Sequence[IPAddress],
        metrics: Metrics,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        super().__init__(metrics, now)
        self._problem = "restart tailproxy to have a new one"
        self._default = _self_signed(addresses, now())
        self._publish("localhost", self._default)


def _self_signed(addresses: Sequence[IPAddress], now: datetime) -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tailproxy, for development")])
    until = (now + _SELF_SIGNED_FOR).replace(microsecond=0)
    names = [x509.DNSName("localhost"), *map(x509.IPAddress, addresses)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks differ a little, in containers too.
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        until,
    )
