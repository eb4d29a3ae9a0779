"""Handshakes in memory, and certificates in PEM."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from OpenSSL.crypto import X509

from tests.proxy.servers import Authority


def pem(thing: object) -> bytes:
    """A certificate or a private key as text."""
    if isinstance(thing, x509.Certificate):
        return thing.public_bytes(serialization.Encoding.PEM)
    return thing.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def client_pair(authority: Authority, user: str) -> tuple[bytes, bytes]:
    """A client certificate for that user and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, user)]))
        .issuer_name(authority.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(authority.key, hashes.SHA256())
    )
    return pem(certificate), pem(key)


def server_context(authority: Authority, *names: str, days: int = 10) -> SSL.Context:
    """A server that asks for a client certificate and takes any of that CA, or none."""
    certificate, key = authority.issue(*names, days=days)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(certificate)
    context.use_privatekey(key)
    context.get_cert_store().add_cert(X509.from_cryptography(authority.certificate))
    context.set_verify(SSL.VERIFY_PEER)
    context.set_alpn_select_callback(lambda _, offered: offered[0])
    return context


def handshake(client: SSL.Context, server: SSL.Context) -> tuple[SSL.Connection, SSL.Connection]:
    """Both ends after a handshake.

    :raises SSL.Error: the client refuses the server.
    """
    ends = SSL.Connection(client, None), SSL.Connection(server, None)
    ends[0].set_connect_state()
    ends[1].set_accept_state()
    for _ in range(10):
        for end, other in (ends, ends[::-1]):
            with suppress(SSL.WantReadError):
                end.do_handshake()
            with suppress(SSL.WantReadError):
                other.bio_write(end.bio_read(65536))
    return ends
