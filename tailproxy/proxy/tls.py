"""TLS towards clients: contexts made of whatever certificate is at hand right now.

A connection asks at its handshake, so a new certificate serves new connections at once and the
old ones go on undisturbed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL
from twisted.internet.ssl import CertificateOptions, TLSVersion

if TYPE_CHECKING:
    import socket

    from tailproxy.interfaces import ICertificateSource, KeyPair

# Names with a certificate of their own: the node, its Services, and the ones before a swap.
_CONTEXTS = 16
_PROTOCOL = b"http/1.1"


class ServerTLS:
    """Makes server connections with the certificate that the client's server name asks for.

    TLS 1.2 or newer. ALPN offers `http/1.1` alone, since SPDY cannot ride on HTTP/2
    (spec/dataplane.md 1.1). Clients that send no server name get the default certificate.
    """

    def __init__(self, certificates: ICertificateSource) -> None:
        self._certificates = certificates
        self._contexts: dict[KeyPair, SSL.Context] = {}
        # Without a certificate there is no cipher in common: the handshake ends at once, unless
        # there is one for the name that the client asks for.
        self._bare = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._bare.set_min_proto_version(SSL.TLS1_2_VERSION)
        self._bare.set_tlsext_servername_callback(self._choose)

    def accept(self, connection: socket.socket) -> SSL.Connection:
        """TLS over a socket, in accept state."""
        tls = SSL.Connection(self._context(None), connection)
        tls.set_accept_state()
        return tls

    def _context(self, server_name: str | None) -> SSL.Context:
        pair = self._certificates.pair(server_name)
        if pair is None:
            return self._bare
        context = self._contexts.get(pair)
        if context is None:
            while len(self._contexts) >= _CONTEXTS:
                del self._contexts[next(iter(self._contexts))]
            context = self._contexts[pair] = self._make(pair)
        return context

    def _make(self, pair: KeyPair) -> SSL.Context:
        # Twisted's hints lag behind: it takes objects of `cryptography`, and pyOpenSSL warns
        # about its own.
        leaf, *rest = cast("list[Any]", load_pem_x509_certificates(pair.chain))
        options = CertificateOptions(
            privateKey=cast("Any", load_pem_private_key(pair.key, None)),
            certificate=leaf,
            extraCertChain=rest,
            raiseMinimumTo=TLSVersion.TLSv1_2,
        )
        context: SSL.Context = options.getContext()
        context.set_alpn_select_callback(_select_protocol)
        context.set_tlsext_servername_callback(self._choose)
        return context

    def _choose(self, connection: SSL.Connection) -> None:
        name = connection.get_servername()
        if name is not None:
            context = self._context(name.decode("ascii", "replace").lower())
            if context is not connection.get_context():
                connection.set_context(context)


def _select_protocol(_: SSL.Connection, offered: list[bytes]) -> Any:
    return _PROTOCOL if _PROTOCOL in offered else SSL.NO_OVERLAPPING_PROTOCOLS
