"""The player is the one that its makers published."""

from __future__ import annotations

import hashlib
import re
from importlib import resources

import pytest

STATIC = resources.files("tailproxy.sessions") / "static"
# SHA-256 of the files in the npm package that docs/dependencies.md names.
PUBLISHED = {
    "asciinema-player.min.js": "752c9b528b664f5b16f27c68ba22fc7973d1d6063a1c3e4795a4c8015943acf6",
    "asciinema-player.css": "981fe7bc6042048b2a373b6da297f747e324e90a8b6264e833e3a92cec22dfb9",
    "asciinema-player.LICENSE": "63422284ed65be54ab38d8a94e7518d27e222fbb26c9ae4cd984c63926e91c12",
}


@pytest.mark.parametrize(("name", "sum_"), PUBLISHED.items())
def test_player_is_as_it_was_published(name, sum_):
    assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == sum_


@pytest.mark.parametrize("name", ["asciinema-player.css", "sessions.css"])
def test_style_sheets_load_nothing(name):
    text = (STATIC / name).read_text()
    assert re.findall(r"@import|url\(", text) == []


def test_player_makes_no_code_of_text():
    """Its Content-Security-Policy would not let it."""
    text = (STATIC / "asciinema-player.min.js").read_text()
    assert re.findall(r"\beval\(|new Function\(|createObjectURL|new Worker\(", text) == []
