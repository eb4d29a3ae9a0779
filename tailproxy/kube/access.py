"""The way to the API server: from the pod's service account, or from a kubeconfig file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from OpenSSL import SSL, crypto
from twisted.application.service import IService, MultiService
from zope.interface import implementer

from tailproxy.errors import UpstreamError
from tailproxy.interfaces import IClusterAccess
from tailproxy.kube.credentials import (
    Anonymous,
    ClientPair,
    Credential,
    Token,
    certificates,
    private_key,
    token,
)
from tailproxy.kube.files import Content, WatchedFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twisted.internet.interfaces import IReactorTime

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@attrs.frozen
class Server:
    """Where the API server is.

    :ivar host: name or address to connect to.
    :ivar port: TCP port.
    :ivar prefix: path in front of every request target, without a final slash.
    :ivar name: what its certificate must be for.
    """

    host: str
    port: int
    prefix: bytes
    name: str


@implementer(IClusterAccess)
class ClusterAccess(MultiService):
    """A server, the certificates it is verified with, and our credential.

    :param server: where it is.
    :param ca: PEM text of the certificates to trust; None for those of the system.
    :param credential: our own. If it is a service, it is run with this one.
    """

    def __init__(self, server: Server, ca: Content | None, credential: Credential) -> None:
        super().__init__()
        self.host = server.host
        self.port = server.port
        self.prefix = server.prefix
        self.server_name = server.name
        self._ca = ca
        self._credential = credential
        self._made_of: tuple[bytes | None, ClientPair | None] | None = None
        self._context: SSL.Context | None = None
        if IService.providedBy(credential):
            credential.setServiceParent(self)

    def bearer(self) -> bytes | None:
        """See `IClusterAccess.bearer`."""
        return self._credential.bearer()

    def rejected(self) -> None:
        """See `IClusterAccess.rejected`."""
        self._credential.rejected()

    def tls_context(self) -> SSL.Context:
        """See `IClusterAccess.tls_context`."""
        ca = None
        if self._ca is not None:
            ca = self._ca.read()
            if ca is None:
                raise UpstreamError(503, "no-ca", f"no CA certificate: {self._ca.error}")
        pair = self._credential.client_pair()
        if self._context is None or self._made_of != (ca, pair):
            self._context = client_context(ca, pair)
            self._made_of = (ca, pair)
        return self._context


def client_context(ca: bytes | None, pair: ClientPair | None) -> SSL.Context:
    """A context for connecting to the API server (`IClusterAccess.tls_context`).

    :param ca: PEM text of the certificates to trust; None for those of the system.
    :param pair: ours; the key is the certificate's.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    # An idle connection, such as a watch's, holds no buffers.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_verify(SSL.VERIFY_PEER)
    # HTTP/2 has no upgrades, which exec and port-forward need (spec/dataplane.md 1.1).
    context.set_alpn_protos([b"http/1.1"])
    if ca is None:
        context.set_default_verify_paths()
    else:
        store = context.get_cert_store() or crypto.X509Store()
        for certificate in certificates(ca):
            store.add_cert(crypto.X509.from_cryptography(certificate))
    if pair is not None:
        leaf, *rest = certificates(pair.chain)
        context.use_certificate(leaf)
        for certificate in rest:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(private_key(pair.key))
    return context


def in_cluster(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process runs in a pod that may talk to the API server."""
    return bool(
        environment.get("KUBERNETES_SERVICE_HOST") and environment.get("KUBERNETES_SERVICE_PORT")
    )


def pod_access(
    clock: IReactorTime,
    *,
    anonymous: bool,
    environment: Mapping[str, str] = os.environ,
    folder: Path = SERVICE_ACCOUNT,
) -> ClusterAccess:
    """The way in of a pod (spec/dataplane.md 1.12). Files that are missing are errors at use, not
    here: the kubelet may be late.

    :param clock: for reading the files anew.
    :param anonymous: without the service account's token: `noauth` mode.
    :param environment: says where the API server is.
    :param folder: the service account's files.
    """
    host = environment["KUBERNETES_SERVICE_HOST"]
    return ClusterAccess(
        Server(host, int(environment["KUBERNETES_SERVICE_PORT"]), b"", host),
        WatchedFile(folder / "ca.crt", clock, certificates),
        Anonymous() if anonymous else Token(WatchedFile(folder / "token", clock, token)),
    )
