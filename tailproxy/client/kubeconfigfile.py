"""The file that a kubeconfig is in: which one, and how it is changed.

A change is whole or not made at all: the new text is written beside the old one, reaches the disk,
and takes its name. Whoever reads or is killed meanwhile has the old file or the new one. kubectl
and others who change the file keep out by client-go's lock, a file of that name with ``.lock``.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import os
import stat
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tailproxy.wire.kubeconfig import Edit

# Seconds to wait for somebody else who changes the file, and between two looks.
PATIENCE = 5.0
_LOOK = 0.05
# The mode of our lock files, which nobody else's have. Such a one is void if its maker is gone.
_OURS = 0o400


class KubeconfigFileError(Exception):
    """The file cannot be read or changed. It says which, why, and what to do."""


def choose(files: Sequence[Path]) -> Path:
    """The file to write to (spec/dataplane.md 7.3): the first that is there, else the last.

    Folders do not count. One that cannot be looked at does: to write elsewhere would surprise.

    :param files: those that kubectl reads (`tailproxy.kubeconfig.kubeconfig_paths`).
    """
    for file in files:
        try:
            if not stat.S_ISDIR(file.stat().st_mode):
                return file
        except FileNotFoundError:
            continue
        except OSError:
            return file
    return files[-1]


def read(file: Path) -> str:
    """The text of a file; empty if it is not there.

    :raises KubeconfigFileError: it cannot be read.
    """
    return _text(file, _content(file) or b"")


def read_authority(file: Path) -> str:
    """Certificates to put into a kubeconfig.

    :param file: PEM; what else is in it stays there.
    :returns: the certificates as PEM, in base64.
    :raises KubeconfigFileError: the file cannot be read, or has none.
    """
    content = _content(file)
    if content is None:
        raise KubeconfigFileError(f"{file} is not there; --ca wants a file of certificates")
    try:
        found = x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise KubeconfigFileError(f"{file} holds no certificate in PEM format") from error
    return base64.b64encode(b"".join(each.public_bytes(Encoding.PEM) for each in found)).decode()


def change(file: Path, edit: Callable[[str], Edit], *, patience: float = PATIENCE) -> Edit:
    """Change a file under its lock.

    A symbolic link stays one: what it leads to is changed. A new file is its user's alone; the
    mode of one that is there stays, and its owner as far as the system allows.

    :param edit: makes the new text of the old one. It may be called again, if somebody who knows
        no lock has written meanwhile.
    :param patience: seconds to wait for the lock.
    :returns: what `edit` made of the text that was replaced.
    :raises KubeconfigFileError: the file cannot be changed; it is as it was.
    """
    target = Path(os.path.realpath(file))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _error("create the folder of", file, error) from error
    with ExitStack() as locks:
        for path in sorted({file.absolute(), target}):
            locks.enter_context(_locked(path, patience))
        while True:
            before = _content(target)
            made = edit(_text(file, before or b""))
            after = made.text.encode()
            if after == (before or b"") and (before is not None or not after):
                return made
            try:
                done = _replace(target, before, after)
            except OSError as error:
                raise _error("write", file, error) from error
            if done:
                return made


def _content(file: Path) -> bytes | None:
    """What is in a file; None if it is not there."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise KubeconfigFileError(f"{file} is no regular file; choose another one")
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _error("read", file, error) from error


def _text(file: Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise KubeconfigFileError(f"{file} is no kubeconfig: it is not UTF-8 ({error})") from error


def _error(what: str, file: Path, error: OSError) -> KubeconfigFileError:
    why = error.strerror or str(error)
    if error.errno == errno.EBUSY:
        why += "; it is mounted by itself, so that it cannot be replaced in one step"
    return KubeconfigFileError(
        f"cannot {what} {file}: {why}; choose a file with KUBECONFIG or --kubeconfig, or print "
        "the entry with -o -"
    )


def _replace(target: Path, before: bytes | None, after: bytes) -> bool:
    """Put a new content in the place of the old one.

    :returns: False if the old one is not what it was any more; then nothing is changed.
    """
    if before is not None:
        # A file that is written protected is meant to stay as it is, though renaming could.
        os.close(os.open(target, os.O_WRONLY))
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    fresh = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            if before is not None:
                _resemble(number, target)
            file.write(after)
            file.flush()
            os.fsync(number)
        if _content(target) != before:
            return False
        fresh.replace(target)
    finally:
        with suppress(FileNotFoundError):
            fresh.unlink()
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def _resemble(number: int, target: Path) -> None:
    """Give a new file the mode and the owner of another one."""
    old = target.stat()
    new = os.fstat(number)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with suppress(PermissionError):
            os.fchown(number, old.st_uid, old.st_gid)
    os.fchmod(number, stat.S_IMODE(old.st_mode))


@contextmanager
def _locked(file: Path, patience: float) -> Iterator[None]:
    """Hold the lock of a file that client-go's ``ModifyConfig`` takes.

    Whoever makes the lock file has the lock. If we are killed it stays, but the system's lock on
    it goes: by that the next of us knows that it is void.

    :raises KubeconfigFileError: somebody else holds it too long.
    """
    lock = file.with_name(f"{file.name}.lock")
    deadline = time.monotonic() + patience
    while True:
        try:
            number = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_RDWR, _OURS)
        except FileExistsError:
            if _clear(lock):
                continue
            if time.monotonic() > deadline:
                raise KubeconfigFileError(
                    f"{lock} is there: another program changes {file}; if none does, a killed one "
                    "has left it, so remove it"
                ) from None
            time.sleep(_LOOK)
            continue
        except OSError as error:
            raise _error("lock", file, error) from error
        fcntl.flock(number, fcntl.LOCK_EX)
        if _is_still(lock, number):
            break
        os.close(number)  # somebody took it for a void one
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(number)


def _clear(lock: Path) -> bool:
    """Remove a lock that a killed one of us has left; False if it is not such a one."""
    try:
        number = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_IMODE(os.fstat(number).st_mode) != _OURS:
            return False
        if _is_still(lock, number):
            lock.unlink()
    except OSError:
        return False
    finally:
        os.close(number)
    return True


def _is_still(path: Path, number: int) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(number))
    except FileNotFoundError:
        return False
