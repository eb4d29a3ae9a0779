"""A played service that speaks as much of S3 as a writer of objects needs."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

_SMALLEST_PART = 5 << 20


class S3:
    """One bucket's service, in a thread.

    :ivar objects: by key, those that are whole.
    :ivar types: their content types.
    :ivar parts: by upload ID, of those that are not.
    :ivar requests: method and target of each.
    :ivar refusing: a status to answer everything with, or None.
    :ivar signed: the credential of each request, as it was signed.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.requests: list[str] = []
        self.signed: list[str] = []
        self.refusing: int | None = None
        service = self

        class Handler(_Handler):
            s3 = service

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    s3: S3

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_PUT(self) -> None:
        body, key, query = self._read()
        if "uploadId" in query:
            self.s3.parts[query["uploadId"][0]][int(query["partNumber"][0])] = body
        elif self.s3.refusing is None:
            self.s3.objects[key] = body
            self.s3.types[key] = self.headers.get("Content-Type", "")
        self._answer(b"", {"ETag": '"x"'})

    def do_POST(self) -> None:
        _, key, query = self._read()
        if "uploads" in query:
            upload = f"upload-{len(self.s3.parts)}"
            self.s3.parts[upload] = {}
            self.s3.types[key] = self.headers.get("Content-Type", "")
            self._answer(
                f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId>"
                "</InitiateMultipartUploadResult>".encode()
            )
            return
        parts = self.s3.parts.pop(query["uploadId"][0])
        *most, last = (parts[number] for number in sorted(parts))
        if any(len(part) < _SMALLEST_PART for part in most):
            self._answer(b"<Error><Code>EntityTooSmall</Code></Error>", status=400)
            return
        self.s3.objects[key] = b"".join([*most, last])
        self._answer(
            b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
        )

    def _read(self) -> tuple[bytes, str, dict[str, list[str]]]:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = urlsplit(self.path)
        self.s3.requests.append(f"{self.command} {self.path}")
        kind, _, signature = self.headers.get("Authorization", "").partition(" ")
        assert kind == "AWS4-HMAC-SHA256"
        self.s3.signed.append(signature.partition(",")[0])
        return body, unquote(target.path), parse_qs(target.query, keep_blank_values=True)

    def _answer(
        self, body: bytes, headers: dict[str, str] | None = None, status: int = 200
    ) -> None:
        self.send_response(self.s3.refusing or status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
