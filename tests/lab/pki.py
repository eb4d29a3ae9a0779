"""Keys and certificates of the lab's cluster, good ones and, for tests, bad ones."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import (
        CertificateIssuerPrivateKeyTypes,
    )

YEAR = dt.timedelta(days=365)
#: Names by which the API server is known inside every cluster, and on this machine.
SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "127.0.0.1",
    "10.96.0.1",
)


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, both as PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write ``NAME.crt`` and ``NAME.key`` (0600) into *folder*; their paths."""
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(self.certificate)
        key.touch(mode=0o600)
        key.write_bytes(self.key)
        return certificate, key


def _pem(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _subject(common_name: str, organizations: Iterable[str] = ()) -> x509.Name:
    return x509.Name(
        [
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in organizations),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Authority:
    """A certificate authority that lives in memory.

    :param name: its common name; two authorities of one name are still two, with two keys.
    """

    def __init__(self, name: str = "lab-ca") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(_subject(name))
            .issuer_name(_subject(name))
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + YEAR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .add_extension(
                x509.KeyUsage(
                    digital_signature=False,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .sign(self._key, hashes.SHA256())
        )

    @property
    def certificate(self) -> bytes:
        """The authority's own certificate, PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        common_name: str,
        *,
        organizations: Iterable[str] = (),
        names: Iterable[str] = (),
        valid_from: dt.datetime | None = None,
        valid_until: dt.datetime | None = None,
    ) -> KeyPair:
        """A certificate for servers and clients.

        :param organizations: what Kubernetes takes as the groups of a client.
        :param names: DNS names and IP addresses (subjectAltName); none for a client.
        :param valid_from: an hour ago, unless told.
        :param valid_until: in a year, unless told.
        """
        now = dt.datetime.now(dt.UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(_subject(common_name, organizations))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(valid_from or now - dt.timedelta(hours=1))
            .not_valid_after(valid_until or now + YEAR)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
        )
        general_names = [_general_name(name) for name in names]
        if general_names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(general_names), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        return KeyPair(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))

    def issue_expired(self, common_name: str, *, names: Iterable[str] = ()) -> KeyPair:
        """A certificate that went out of date an hour ago."""
        now = dt.datetime.now(dt.UTC)
        return self.issue(
            common_name,
            names=names,
            valid_from=now - dt.timedelta(days=2),
            valid_until=now - dt.timedelta(hours=1),
        )


def write_cluster(folder: Path, server_names: Iterable[str] = ()) -> None:
    """All that a cluster needs, in *folder*: ``NAME.crt`` and ``NAME.key`` each.

    ``ca`` (certificate only), ``apiserver`` and ``kubelet`` (for `SERVER_NAMES` and
    *server_names*), ``admin``, ``controller-manager`` and ``scheduler`` (clients), and ``sa.key``
    with ``sa.pub``, which sign the tokens of service accounts.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = Authority()
    (folder / "ca.crt").write_bytes(authority.certificate)
    names = list(dict.fromkeys((*SERVER_NAMES, *server_names)))
    authority.issue("kube-apiserver", names=names).write(folder, "apiserver")
    authority.issue("system:node:lab", organizations=["system:nodes"], names=names).write(
        folder, "kubelet"
    )
    authority.issue("admin", organizations=["system:masters"]).write(folder, "admin")
    for name in ("controller-manager", "scheduler"):
        authority.issue(f"system:kube-{name}").write(folder, name)
    signer = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "sa.key").touch(mode=0o600)
    (folder / "sa.key").write_bytes(_pem(signer))
    (folder / "sa.pub").write_bytes(
        signer.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
