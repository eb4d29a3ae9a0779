"""A small client of the API server, for what the lab itself asks of it."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.lab.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.network import Network


@dataclass(frozen=True)
class Api:
    """The API server, as a client with a certificate sees it.

    :ivar address: numeric address and port, in *network*.
    """

    network: Network
    address: tuple[str, int]
    ca_file: Path
    certificate: Path
    key: Path

    def send(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """One request on a connection of its own: status and body of the answer.

        :param body: sent as JSON unless None.
        :raises OSError: the server cannot be reached.
        """
        context = ssl.create_default_context(cafile=str(self.ca_file))
        context.load_cert_chain(self.certificate, self.key)
        connection = http.client.HTTPSConnection(*self.address)
        raw = self.network.connect(self.address, timeout=10)
        try:
            connection.sock = context.wrap_socket(raw, server_hostname=self.address[0])
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            raise OSError(f"{self.address[0]}:{self.address[1]}: {error!r}") from error
        finally:
            connection.close()
            raw.close()

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The object that the API server answers with.

        :raises LabError: it refused; with its own words.
        :raises OSError: it cannot be reached.
        """
        status, answer = self.send(method, path, body)
        if status >= 400:
            text = answer.decode(errors="replace")[:600]
            raise LabError(f"the API server answered {status} to {method} {path}: {text}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def ready(self) -> bool:
        """Whether its /readyz says so."""
        return self.send("GET", "/readyz")[0] == 200

    def allowed(
        self,
        verb: str,
        resource: str,
        *,
        user: str = "nobody",
        groups: tuple[str, ...] = (),
        namespace: str = "",
    ) -> bool:
        """Whether RBAC allows this (SubjectAccessReview)."""
        review = self.call(
            "POST",
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {
                    "user": user,
                    "groups": list(groups),
                    "resourceAttributes": {
                        "verb": verb,
                        "resource": resource,
                        "namespace": namespace,
                    },
                },
            },
        )
        return bool(review["status"]["allowed"])

    def token(self, namespace: str, account: str, seconds: int = 86400) -> str:
        """A token of a service account (TokenRequest), good for that many seconds."""
        answer = self.call(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": seconds},
            },
        )
        return str(answer["status"]["token"])
