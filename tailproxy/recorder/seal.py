"""Recordings encrypted at rest, for age keys (age-encryption.org); by `pyrage`, an extra.

For a thread: it waits for the disk.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class SealError(ValueError):
    """Nothing can be encrypted so; the text says why."""


class Seal:
    """Encrypts files so that who has one of the keys reads them, and nobody here.

    :param recipients: public keys, `age1…`.
    :raises SealError: one of them is none, or the extra is not installed.
    """

    def __init__(self, recipients: Sequence[str]) -> None:
        try:
            import pyrage  # noqa: PLC0415 - an extra that few need
        except ImportError:
            raise SealError(
                "pyrage is not installed: pip install 'tailproxy[age]', or leave Encrypt out"
            ) from None
        self._age: Any = pyrage
        self._recipients = []
        for each in recipients:
            try:
                self._recipients.append(pyrage.x25519.Recipient.from_str(each))
            except pyrage.RecipientError as error:
                raise SealError(f"{each!r} is no public key of age: {error}") from None

    def encrypt(self, plain: Path, sealed: Path) -> None:
        """Write a file encrypted; once this is back, nothing loses it.

        :raises OSError: the disk does not let us.
        """
        with plain.open("rb") as reader, sealed.open("wb") as writer:
            os.fchmod(writer.fileno(), 0o600)
            self._age.encrypt_io(reader, writer, self._recipients)
            writer.flush()
            os.fsync(writer.fileno())
