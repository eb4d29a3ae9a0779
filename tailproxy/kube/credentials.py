"""The ways in which we prove to the API server who we are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tailproxy.errors import UpstreamError

if TYPE_CHECKING:
    from tailproxy.kube.files import Content

_PrivateKey: TypeAlias = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey


@attrs.frozen
class ClientPair:
    """A client certificate with its chain and its key, PEM."""

    chain: bytes
    key: bytes = attrs.field(repr=False)


class Credential(Protocol):
    """One way."""

    def bearer(self) -> bytes | None:
        """The token.

        :raises UpstreamError: there should be one and there is none.
        """

    def client_pair(self) -> ClientPair | None:
        """The client certificate; the same object as long as it is the same.

        :raises UpstreamError: there should be one and there is none.
        """

    def rejected(self) -> None:
        """The API server does not accept it: get it anew."""


class Anonymous:
    """No credential, as in `noauth` mode, where the client brings its own."""

    def bearer(self) -> bytes | None:
        """None."""
        return None

    def client_pair(self) -> ClientPair | None:
        """None."""
        return None

    def rejected(self) -> None:
        """Nothing to get."""


class Token(Anonymous):
    """A bearer token."""

    def __init__(self, content: Content) -> None:
        self._content = content

    def bearer(self) -> bytes | None:
        """The token in the file.

        :raises UpstreamError: no token could be read yet.
        """
        content = self._content.read()
        if content is None:
            raise UpstreamError(503, "no-credential", f"no token: {self._content.error}")
        return content.strip()

    def rejected(self) -> None:
        """Read the token anew at the next use."""
        self._content.expire()


class Certificate(Anonymous):
    """A client certificate."""

    def __init__(self, chain: Content, key: Content) -> None:
        self._chain = chain
        self._key = key
        self._pair: ClientPair | None = None

    def client_pair(self) -> ClientPair | None:
        """The pair; while its files do not fit together, which happens when they are being
        replaced, the last one that did.

        :raises UpstreamError: there was none yet.
        """
        chain, key = self._chain.read(), self._key.read()
        if chain is not None and key is not None and not self._is(chain, key):
            pair = ClientPair(chain, key)
            if fits(pair):
                self._pair = pair
        if self._pair is None:
            reason = self._chain.error or self._key.error or "its key is another one's"
            raise UpstreamError(503, "no-credential", f"no client certificate: {reason}")
        return self._pair

    def _is(self, chain: bytes, key: bytes) -> bool:
        return self._pair is not None and self._pair.chain is chain and self._pair.key is key

    def rejected(self) -> None:
        """Read both files anew at the next use."""
        self._chain.expire()
        self._key.expire()


def token(content: bytes) -> None:
    """Check that it is one line of visible characters, white space around it aside.

    :raises ValueError: it is not; the message does not hold any of it.
    """
    text = content.strip()
    if not text:
        raise ValueError("the file is empty")
    if not all(0x21 <= byte <= 0x7E for byte in text):
        raise ValueError("there is something else than a token in the file")


def certificates(content: bytes) -> list[x509.Certificate]:
    """The certificates in a PEM text, at least one.

    :raises ValueError: there is none.
    """
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise ValueError("there is no certificate in PEM form in it") from None


def private_key(content: bytes) -> _PrivateKey:
    """The private key in a PEM text, of a kind that TLS uses.

    :raises ValueError: there is none, or it needs a passphrase.
    """
    try:
        key = load_pem_private_key(content, None)
    except (ValueError, TypeError):
        raise ValueError("there is no private key in PEM form without a passphrase in it") from None
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise ValueError("the private key is of a kind that is not used here")  # noqa: TRY004
    return key


def fits(pair: ClientPair) -> bool:
    """Whether the key is that of the certificate."""
    certificate = certificates(pair.chain)[0]
    return certificate.public_key() == private_key(pair.key).public_key()
