"""The example of a plugin is what the page shows, and works."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tailproxy import config
from tests.docs.pages import blocks, code, text
from tests.docs.plugin import EXAMPLE, install

PAGE = "docs/plugins.md"


def test_the_page_shows_the_files_as_they_are():
    shown = re.findall(r"^\[([^]]+)\]\(example-plugin/\1\)\n\n```", text(PAGE), re.MULTILINE)
    inside = [code for language, code in code(PAGE) if language in {"ini", "toml", "python"}]
    assert inside == [(EXAMPLE / name).read_text() for name in shown]
    files = {str(path.relative_to(EXAMPLE)) for path in EXAMPLE.rglob("*.*") if path.is_file()}
    assert {name for name in files if "pycache" not in name} - set(shown) == {
        "tailproxy_greeting/__init__.py"
    }


def test_its_own_tests_pass_where_it_is_installed(tmp_path):
    source, target = install(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_its_options_are_an_object_under_its_name():
    (example,) = blocks(PAGE, "hujson")
    assert config.parse(example, "example").tailproxy.plugins == {"greeting": {"Word": "good day"}}
