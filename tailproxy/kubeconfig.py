"""Kubeconfig files as they are found and read by kubectl: several of them, merged.

What an entry means is its reader's business: `tailproxy.kube.kubeconfig` for the service's own way
to the API server, `tailproxy.client.access` for a person's way to the proxy.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import yaml

from tailproxy.schema import ConfigError
from tailproxy.wire.yamltree import Loader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT = Path("~/.kube/config")


@attrs.frozen
class Entry:
    """One named entry.

    :ivar file: the file it is in, to which its paths are relative.
    :ivar section: `context`, `cluster` or `user`.
    """

    file: Path
    section: str
    name: str
    body: Mapping[str, Any] = attrs.field(repr=False)  # it may hold a token

    def wrong(self, message: str) -> ConfigError:
        """An error about this entry."""
        return ConfigError(str(self.file), f"{self.section} {self.name!r}: {message}")

    def text(self, key: str) -> str:
        """A value that must be a string; empty if there is none.

        :raises ConfigError: it is something else.
        """
        value = self.body.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.wrong(f"{key} is not a string")
        return value


def kubeconfig_paths(
    configured: Path | None, environment: Mapping[str, str] = os.environ
) -> list[Path]:
    """The files to read: the configured one, those of KUBECONFIG, or the one in the home folder."""
    if configured is not None:
        return [configured]
    named = [Path(part) for part in environment.get("KUBECONFIG", "").split(os.pathsep) if part]
    return named or [DEFAULT.expanduser()]


class Kubeconfig:
    """Kubeconfig files, merged: of entries with the same name the first counts.

    :param paths: of the files. As with kubectl, those that are not there are passed over as long as
        one is.
    :param another_file: what to do to have another file read, for errors.
    :param another_context: the same for a context.
    :raises ConfigError: a file cannot be read, or is none.
    """

    def __init__(self, paths: Sequence[Path], another_file: str, another_context: str) -> None:
        self._paths = paths
        self._another_context = another_context
        present = [path for path in paths if path.exists()] or list(paths[:1])
        self._documents = [(path, _document(path, another_file)) for path in present]

    def current_context(self) -> str:
        """The name of the context that is in force.

        :raises ConfigError: none is.
        """
        for _, document in self._documents:
            if document.get("current-context"):
                return str(document["current-context"])
        raise self._wrong(f"no current-context; {self._another_context}")

    def entry(self, section: str, name: str) -> Entry:
        """An entry by its section, in the singular, and its name.

        :raises ConfigError: there is none of that name.
        """
        names = []
        for path, document in self._documents:
            for item in document.get(f"{section}s") or ():
                if isinstance(item, dict):
                    names.append(str(item.get("name")))
                    if item.get("name") == name:
                        return Entry(path, section, name, item.get(section) or {})
        known = ", ".join(names) or "none"
        raise self._wrong(f"no {section} {name!r}; there is {known}")

    def _wrong(self, message: str) -> ConfigError:
        return ConfigError(os.pathsep.join(map(str, self._paths)), message)


def _document(path: Path, another_file: str) -> Mapping[str, Any]:
    try:
        # The first document alone counts, as to kubectl; an empty file says nothing.
        documents = yaml.load_all(path.read_text(encoding="utf-8"), Loader=Loader)
        document = next(documents, None) or {}
    except OSError as error:
        raise ConfigError(
            str(path), f"cannot read the kubeconfig: {error.strerror}; {another_file}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
        raise ConfigError(str(path), "the kubeconfig is not YAML", line=line, column=1) from None
    if not isinstance(document, dict):
        raise ConfigError(str(path), "the kubeconfig is not a YAML object")
    return document
