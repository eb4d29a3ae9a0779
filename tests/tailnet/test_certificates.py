"""Where the listener's certificate comes from."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from zope.interface.verify import verifyObject

from tailproxy.interfaces import ICertificateSource, KeyPair
from tailproxy.tailnet.certificates import (
    POLL,
    REFRESH,
    CertificateError,
    FileCertificates,
    SelfSigned,
    TailnetCertificates,
    next_attempt,
    read_pair,
)
from tailproxy.tailnet.localapi import LocalAPIError
from tailproxy.tailnet.node import Node
from tests.tailnet.conftest import pem_pair

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
FQDN = "api-0.corp-cat.ts.net"
OTHER = "kube.corp-cat.ts.net"
UP = Node(
    state="Running",
    addresses=(ip_address("100.64.0.9"),),
    fqdn=FQDN,
    cert_domains=(FQDN,),
)
UNREACHABLE = LocalAPIError(None, "tailscaled is not there")
BROKEN = LocalAPIError(500, "acme: no")


class Issuer:
    """In place of a LocalAPI: questions that a test answers by hand."""

    def __init__(self):
        self.asked = []
        self._answers = []

    def cert_pair(self, domain):
        self.asked.append(domain)
        answer = Deferred()
        self._answers.append(answer)
        return answer

    def answer(self, result):
        """Answer the oldest question that has none."""
        answer = self._answers.pop(0)
        if isinstance(result, Exception):
            answer.errback(result)
        else:
            answer.callback(result)


@attrs.define
class Day:
    """The time of day."""

    now: datetime = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def day():
    return Day()


@pytest.fixture
def still():
    return Clock()


@pytest.fixture
def issuer():
    return Issuer()


@pytest.fixture
def source(still, issuer, metrics, day):
    made = TailnetCertificates(still, issuer, metrics, now=day)
    made.startService()
    yield made
    if made.running:
        made.stopService()


@pytest.fixture
def warned():
    events = []

    def observe(event):
        if event["log_level"] is LogLevel.warn:
            events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


def pem(name=FQDN, days=90):
    return pem_pair(name, NOW + timedelta(days=days))


def expiry(metrics, name):
    return metrics.registry.get_sample_value(
        "tailproxy_certificate_expiry_timestamp_seconds", {"name": name}
    )


class TestReadingPairs:
    def test_the_end_is_that_of_the_first_certificate(self):
        chain, key = pem(days=5)
        longer, _ = pem("ca", days=900)
        pair = read_pair(chain + longer, key)
        assert pair == KeyPair(chain + longer, key, NOW + timedelta(days=5))

    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda pair: (b"", pair[1]), "no certificate"),
            (lambda pair: (pair[0][:-60], pair[1]), "no certificate"),
            (lambda pair: (pair[0], b""), "no private key"),
            (lambda pair: (pair[0], pem()[1]), "does not belong"),
            (lambda pair: (pair[0], encrypted(pair[1])), "encrypted"),
        ],
    )
    def test_what_cannot_be_used_is_said(self, spoil, said):
        with pytest.raises(CertificateError, match=said):
            read_pair(*spoil(pem()))

    def test_the_key_is_not_in_the_repr(self):
        pair = read_pair(*pem())
        assert pair.key.decode().splitlines()[1] not in repr(pair)


def encrypted(key):
    private = serialization.load_pem_private_key(key, None)
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


@pytest.mark.parametrize(
    ("error", "failures", "expected"),
    [
        pytest.param(LocalAPIError(429, "slow down", 900.0), 2, (900.0, 3), id="dp_s10"),
        pytest.param(UNREACHABLE, 2, (60.0, 2), id="dp_s11"),
        pytest.param(BROKEN, 7, (86400.0, 8), id="dp_s12"),
        pytest.param(BROKEN, 0, (60.0, 1), id="first"),
        pytest.param(BROKEN, 1, (600.0, 2), id="second"),
        pytest.param(BROKEN, 2, (6000.0, 3), id="third"),
        pytest.param(BROKEN, 3, (86400.0, 4), id="fourth"),
        pytest.param(LocalAPIError(429, "slow down"), 0, (60.0, 1), id="429 without a time"),
        pytest.param(CertificateError("mismatch"), 0, (60.0, 1), id="unusable pair"),
    ],
)
def test_how_long_to_wait_after_a_failure(error, failures, expected):
    assert next_attempt(error, failures) == expected


class TestTailnetCertificates:
    def test_it_is_a_source(self, source):
        verifyObject(ICertificateSource, source)

    def test_there_is_nothing_before_the_node_is_up(self, source, issuer):
        source.node_changed(Node())
        assert issuer.asked == []
        assert source.pair(None) is None
        assert source.check().ok is False
        assert "not on the tailnet yet" in source.check().detail

    def test_the_nodes_certificate_serves_everybody(self, source, issuer, metrics):
        source.node_changed(UP)
        assert issuer.asked == [FQDN]
        issuer.answer(pair := pem())
        served = source.pair(FQDN)
        assert (served.chain, served.key) == pair
        assert source.pair(None) is served
        assert source.pair("elsewhere.example") is served
        assert source.check().ok
        assert expiry(metrics, FQDN) == (NOW + timedelta(days=90)).timestamp()

    def test_it_may_be_told_of_the_node_before_it_starts(self, still, issuer, metrics, day):
        source = TailnetCertificates(still, issuer, metrics, now=day)
        source.node_changed(UP)
        assert issuer.asked == []
        source.startService()
        assert issuer.asked == [FQDN]
        source.stopService()

    def test_further_names_have_their_own(self, still, issuer, metrics, day):
        source = TailnetCertificates(still, issuer, metrics, (OTHER,), day)
        source.startService()
        source.node_changed(attrs.evolve(UP, cert_domains=(FQDN, OTHER)))
        assert issuer.asked == [FQDN, OTHER]
        issuer.answer(pem())
        issuer.answer(other := pem(OTHER))
        assert source.pair(OTHER).chain == other[0]
        assert source.pair(None) is source.pair(FQDN)
        source.stopService()

    def test_a_further_name_alone_is_better_than_nothing(self, still, issuer, metrics, day):
        source = TailnetCertificates(still, issuer, metrics, (OTHER,), day)
        source.startService()
        source.node_changed(attrs.evolve(UP, cert_domains=(FQDN, OTHER)))
        issuer.answer(BROKEN)
        issuer.answer(pem(OTHER))
        assert source.pair(None) is source.pair(OTHER)
        source.stopService()

    def test_it_is_asked_for_again_every_hour(self, source, issuer, still, metrics):
        source.node_changed(UP)
        issuer.answer(first := pem())
        still.advance(REFRESH - 1)
        assert len(issuer.asked) == 1
        still.advance(1)
        assert len(issuer.asked) == 2
        assert source.pair(None).chain == first[0], "nobody waits for the new one"
        issuer.answer(second := pem(days=180))
        assert source.pair(None).chain == second[0]
        assert expiry(metrics, FQDN) == (NOW + timedelta(days=180)).timestamp()

    def test_the_same_certificate_stays_the_same_object(self, source, issuer, still):
        source.node_changed(UP)
        issuer.answer(pair := pem())
        before = source.pair(None)
        still.advance(REFRESH)
        issuer.answer(pair)
        assert source.pair(None) is before

    @pytest.mark.parametrize(
        "failure",
        [
            UNREACHABLE,
            BROKEN,
            (b"", b""),
            pem(days=-1),
            (pem()[0], pem()[1]),
        ],
        ids=["unreachable", "refused", "empty", "ran out", "mismatch"],
    )
    def test_a_failure_keeps_the_old_one(self, source, issuer, still, warned, failure):
        source.node_changed(UP)
        issuer.answer(good := pem())
        still.advance(REFRESH)
        issuer.answer(failure)
        assert source.pair(None).chain == good[0]
        assert source.check().ok
        assert len(warned) == 1
        still.advance(60)
        assert len(issuer.asked) == 3

    def test_one_that_ran_out_is_not_ready_and_says_why(self, source, issuer, still, day):
        source.node_changed(UP)
        issuer.answer(pem(days=1))
        still.advance(REFRESH)
        issuer.answer(BROKEN)
        day.now = NOW + timedelta(days=2)
        assert source.check().ok is False
        assert "ran out at 2026-11-24T12:00:00+00:00" in source.check().detail
        assert "acme: no" in source.check().detail
        assert source.pair(None) is not None

    def test_a_tailnet_without_certificates_is_not_asked(self, source, issuer, warned):
        source.node_changed(attrs.evolve(UP, cert_domains=()))
        source.node_changed(attrs.evolve(UP, cert_domains=(), shields_up=True))
        assert issuer.asked == []
        assert "enable HTTPS certificates" in source.check().detail
        assert len(warned) == 1
        source.node_changed(UP)
        assert issuer.asked == [FQDN]

    def test_a_permission_that_is_missing_is_in_the_readiness(self, source, issuer):
        source.node_changed(UP)
        issuer.answer(LocalAPIError(403, "cert access denied; set TS_PERMIT_CERT_UID"))
        assert "TS_PERMIT_CERT_UID" in source.check().detail

    def test_what_failed_is_tried_at_once_when_the_node_returns(self, source, issuer, still):
        source.node_changed(UP)
        issuer.answer(BROKEN)
        source.node_changed(Node())
        source.node_changed(UP)
        assert len(issuer.asked) == 2
        issuer.answer(pem())
        assert len(still.getDelayedCalls()) == 1

    def test_but_not_what_the_issuer_wants_to_be_left_alone_with(self, source, issuer, still):
        source.node_changed(UP)
        issuer.answer(LocalAPIError(429, "slow down", 900.0))
        source.node_changed(Node())
        source.node_changed(UP)
        assert len(issuer.asked) == 1
        still.advance(900)
        assert len(issuer.asked) == 2

    def test_what_works_is_not_asked_for_because_the_node_was_away(self, source, issuer):
        source.node_changed(UP)
        issuer.answer(pem())
        source.node_changed(Node())
        source.node_changed(UP)
        assert len(issuer.asked) == 1

    def test_two_questions_for_a_name_are_never_under_way(self, source, issuer):
        source.node_changed(UP)
        source.node_changed(Node())
        source.node_changed(UP)
        assert len(issuer.asked) == 1

    def test_a_new_name_of_the_node_has_its_own(self, source, issuer, still):
        source.node_changed(UP)
        issuer.answer(old := pem())
        renamed = attrs.evolve(UP, fqdn=OTHER, cert_domains=(OTHER,))
        source.node_changed(renamed)
        assert issuer.asked == [FQDN, OTHER]
        assert source.pair(None).chain == old[0]
        issuer.answer(new := pem(OTHER))
        assert source.pair(None).chain == new[0]
        still.advance(REFRESH)
        assert issuer.asked == [FQDN, OTHER, OTHER]

    def test_a_stopped_one_asks_no_more_and_serves_on(self, source, issuer, still):
        source.node_changed(UP)
        issuer.answer(pem())
        source.stopService()
        assert still.getDelayedCalls() == []
        source.node_changed(Node())
        source.node_changed(UP)
        assert len(issuer.asked) == 1
        assert source.pair(None) is not None

    def test_stopping_gives_a_question_up(self, source, issuer, still):
        source.node_changed(UP)
        source.stopService()
        assert issuer._answers[0].called
        assert still.getDelayedCalls() == []


@pytest.fixture
def files(tmp_path):
    """A directory as a Secret is mounted: the files are links through ``..data``."""

    class Mounted:
        chain = tmp_path / "tls.crt"
        key = tmp_path / "tls.key"
        generation = 0

        def switch(self, pair):
            self.generation += 1
            new = tmp_path / f"..{self.generation}"
            new.mkdir()
            (new / "tls.crt").write_bytes(pair[0])
            (new / "tls.key").write_bytes(pair[1])
            link = tmp_path / "..new"
            link.symlink_to(new)
            link.replace(tmp_path / "..data")

    mounted = Mounted()
    mounted.switch(pem())
    for path in (mounted.chain, mounted.key):
        path.symlink_to(Path("..data") / path.name)
    return mounted


@pytest.fixture
def filed(still, files, metrics, day):
    made = FileCertificates(still, files.chain, files.key, metrics, day)
    made.startService()
    yield made
    made.stopService()


class TestFileCertificates:
    def test_it_is_a_source(self, filed):
        verifyObject(ICertificateSource, filed)

    def test_one_pair_serves_everybody(self, filed, files, metrics):
        assert filed.pair(None).chain == files.chain.read_bytes()
        assert filed.pair("any.example") is filed.pair(None)
        assert filed.check().ok
        assert expiry(metrics, str(files.chain)) == (NOW + timedelta(days=90)).timestamp()

    def test_a_switched_link_is_noticed(self, filed, files, still):
        files.switch(new := pem(days=180))
        still.advance(POLL)
        assert filed.pair(None).chain == new[0]

    def test_a_file_written_over_is_noticed_even_within_the_same_second(self, filed, files, still):
        before = files.chain.stat()
        new = pem(days=180)
        for path, content in zip((files.chain, files.key), new, strict=True):
            path.write_bytes(content)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        still.advance(POLL)
        assert filed.pair(None).chain == new[0]

    def test_the_same_content_stays_the_same_object(self, filed, files, still):
        before = filed.pair(None)
        files.switch((files.chain.read_bytes(), files.key.read_bytes()))
        still.advance(POLL)
        assert filed.pair(None) is before

    def test_a_broken_pair_keeps_the_old_one_and_is_logged_once(self, filed, files, still, warned):
        before = filed.pair(None)
        files.switch((b"", pem()[1]))
        still.advance(POLL)
        still.advance(POLL)
        assert filed.pair(None) is before
        assert len(warned) == 1
        files.switch(new := pem())
        still.advance(POLL)
        assert filed.pair(None).chain == new[0]

    def test_a_pair_that_is_half_written_is_taken_when_it_is_whole(self, filed, files, still):
        before = filed.pair(None)
        new = pem(days=180)
        files.chain.write_bytes(new[0])
        still.advance(POLL)
        assert filed.pair(None) is before
        files.key.write_bytes(new[1])
        still.advance(POLL)
        assert filed.pair(None).chain == new[0]

    def test_a_file_that_vanishes_keeps_the_old_one(self, filed, files, still, warned):
        files.key.unlink()
        still.advance(POLL)
        assert filed.pair(None) is not None
        assert str(files.key) in str(warned[0]["reason"])

    def test_one_that_ran_out_is_not_ready(self, filed, day):
        day.now = NOW + timedelta(days=91)
        assert filed.check().ok is False
        assert "have not been renewed" in filed.check().detail

    def test_a_stopped_one_looks_no_more(self, still, files, metrics):
        source = FileCertificates(still, files.chain, files.key, metrics)
        source.startService()
        source.stopService()
        assert still.getDelayedCalls() == []

    def test_a_missing_file_is_named_at_the_start(self, still, files, metrics):
        files.key.unlink()
        with pytest.raises(CertificateError, match=rf"cannot read {files.key}: No such file"):
            FileCertificates(still, files.chain, files.key, metrics)

    def test_files_that_do_not_match_are_named_at_the_start(self, still, files, metrics):
        files.key.write_bytes(pem()[1])
        with pytest.raises(CertificateError, match="does not belong") as caught:
            FileCertificates(still, files.chain, files.key, metrics)
        assert str(files.chain) in str(caught.value)
        assert str(files.key) in str(caught.value)
        assert "PRIVATE KEY" not in str(caught.value)


class TestSelfSigned:
    def test_it_is_a_source(self, metrics):
        source = SelfSigned([], metrics)
        verifyObject(ICertificateSource, source)
        assert source.check().ok

    def test_it_names_localhost_and_the_addresses(self, metrics, day):
        source = SelfSigned([ip_address("127.0.0.2"), ip_address("::1")], metrics, day)
        (certificate,) = x509.load_pem_x509_certificates(source.pair(None).chain)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["localhost"]
        assert names.get_values_for_type(x509.IPAddress) == [
            ip_address("127.0.0.2"),
            ip_address("::1"),
        ]
        assert certificate.not_valid_after_utc == source.pair("localhost").not_after
        assert certificate.not_valid_before_utc < NOW

    def test_a_client_that_trusts_it_accepts_it(self, metrics):
        pair = SelfSigned([ip_address("127.0.0.2")], metrics).pair(None)
        assert handshake(pair, "127.0.0.2") == "TLSv1.3"
        assert handshake(pair, "localhost") == "TLSv1.3"
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(pair, "127.0.0.3")

    def test_each_start_makes_another_key(self, metrics):
        assert SelfSigned([], metrics).pair(None).key != SelfSigned([], metrics).pair(None).key


def handshake(pair, name):
    """Shake hands in memory and give the version."""
    inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load(server, pair)
    client = ssl.create_default_context(cadata=pair.chain.decode())
    ends = (
        client.wrap_bio(inbound, outbound, server_hostname=name),
        server.wrap_bio(outbound, inbound, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0].version()


def load(context, pair):
    """Load a pair into a context of the standard library, which reads files only."""
    directory = os.memfd_create("pair")
    try:
        os.write(directory, pair.key + pair.chain)
        context.load_cert_chain(f"/proc/self/fd/{directory}")
    finally:
        os.close(directory)
