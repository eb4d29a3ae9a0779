"""The files that the pages load: style sheets, the player, our own few lines of script."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_OURS = resources.files("tailproxy.sessions") / "static"
# The look of the page at /.tailproxy/ is that of these.
_SHARED = resources.files("tailproxy.proxy") / "page.css"
_CSS, _JS = "text/css; charset=utf-8", "text/javascript; charset=utf-8"


@attrs.frozen
class File:
    """One of them.

    :ivar etag: another one when the content is another.
    """

    content_type: str
    content: bytes
    etag: str


def _file(content_type: str, path: Traversable) -> File:
    content = path.read_bytes()
    return File(content_type, content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def files() -> dict[str, File]:
    """All of them, by the name that pages use."""
    return {
        "page.css": _file(_CSS, _SHARED),
        "sessions.css": _file(_CSS, _OURS / "sessions.css"),
        "sessions.js": _file(_JS, _OURS / "sessions.js"),
        "asciinema-player.css": _file(_CSS, _OURS / "asciinema-player.css"),
        "asciinema-player.js": _file(_JS, _OURS / "asciinema-player.min.js"),
        "asciinema-player.LICENSE": _file(
            "text/plain; charset=utf-8", _OURS / "asciinema-player.LICENSE"
        ),
    }
