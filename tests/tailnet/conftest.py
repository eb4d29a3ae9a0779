"""A fake tailscaled behind a real socket, and time that only tests move."""

from __future__ import annotations

from datetime import timedelta

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor
from twisted.internet.task import Clock

from tailproxy.metrics import Metrics
from tailproxy.tailnet.localapi import LocalAPI
from tailproxy.testing import FakeLocalAPI


class ClockedReactor(Clock):
    """Real unix sockets, but time stands still until a test lets it pass."""

    def connectUNIX(self, address, factory, timeout=30, checkPID=0):
        return reactor.connectUNIX(address, factory, timeout=timeout, checkPID=checkPID)


@pytest.fixture
def clock():
    return ClockedReactor()


@pytest.fixture
def daemon(tmp_path):
    """A tailscaled that runs."""
    fake = FakeLocalAPI()
    fake.start(reactor, str(tmp_path / "tailscaled.sock"))
    yield fake
    pytest_twisted.blockon(fake.stop())


@pytest.fixture
def api(clock, daemon):
    client = LocalAPI(clock, daemon.path)
    yield client
    pytest_twisted.blockon(client.close())


@pytest.fixture
def metrics():
    return Metrics("test")


def node_answer(user="ada@corp.example", name="laptop.corp-cat.ts.net.", caps=None, **node):
    """What WhoIs answers about a user's node."""
    return {
        "Node": {
            "ID": 7,
            "StableID": "nABC",
            "Name": name,
            "Addresses": ["100.64.0.5/32", "fd7a:115c:a1e0::5/128"],
            **node,
        },
        "UserProfile": {"ID": 77, "LoginName": user, "DisplayName": "Ada"},
        "CapMap": caps,
    }


def granting(*groups):
    """A capability map with a rule that impersonates groups."""
    return {"tailscale.com/cap/kubernetes": [{"impersonate": {"groups": list(groups)}}]}


def pem_pair(name, until):
    """Make a certificate for a name, and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - timedelta(days=1000))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )
