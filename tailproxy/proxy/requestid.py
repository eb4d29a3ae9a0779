"""IDs of requests: by them our log and the API server's are joined."""

from __future__ import annotations

import os
from binascii import hexlify
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_BYTES = 16  # as many random bits as a UUID has, and a few more
_AT_ONCE = 64  # asking the kernel once per request would cost more than all the rest


def _ids() -> Iterator[str]:
    size = 2 * _BYTES
    while True:
        digits = hexlify(os.urandom(_BYTES * _AT_ONCE)).decode()
        yield from [digits[start : start + size] for start in range(0, len(digits), size)]


#: Returns an ID that nobody had before and nobody can guess: 32 hexadecimal digits. The API server
#: shortens nothing below 64 characters (k8s.io/apiserver, pkg/audit `GetAuditIDTruncated`).
new_id = _ids().__next__
