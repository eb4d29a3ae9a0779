"""Each dependency is declared and argued."""

from __future__ import annotations

import ast
import sys

import pytest

from tests.docs.pages import SOURCES, ini, lines, quoted, rows, tree


@pytest.mark.parametrize(
    ("section", "key", "heading"),
    [
        ("options", "install_requires", "## The service"),
        ("options.extras_require", "age", "## Encryption at rest (extra `age`)"),
        ("options.extras_require", "s3", "## Buckets (extra `s3`)"),
        ("options.extras_require", "test", "## Tests (extra `test`)"),
        ("options.extras_require", "lint", "## Checks (extra `lint`)"),
        ("options.extras_require", "fuzz", "## Fuzzing (extra `fuzz`)"),
        ("options.extras_require", "docs", "## Documentation (extra `docs`)"),
    ],
)
def test_each_is_argued_with_its_bound(section, key, heading):
    argued = rows("docs/dependencies.md", heading)
    assert [quoted(row[0])[0] for row in argued] == lines(ini("setup.cfg")[section][key])
    assert all(all(row) for row in argued), "an empty cell argues nothing"


def test_every_import_is_declared():
    given = {
        "OpenSSL": "pyopenssl",
        "attr": "attrs",
        "httptools": "httptools",
        "prometheus_client": "prometheus-client",
        "service_identity": "service-identity",
        "twisted": "twisted[tls]",
        "yaml": "PyYAML",
        "zope": "zope.interface",
    }
    imported = {
        name.partition(".")[0]
        for path in SOURCES
        for each in ast.walk(tree(path))
        for name in (
            [alias.name for alias in each.names]
            if isinstance(each, ast.Import)
            else [each.module or ""]
            if isinstance(each, ast.ImportFrom)
            else []
        )
    } - set(sys.stdlib_module_names)
    config = ini("setup.cfg")
    extras = config["options.extras_require"]
    wanted = [config["options"]["install_requires"], extras["s3"], extras["age"]]
    declared = {line.split(" ")[0] for text in wanted for line in lines(text)}
    assert {given.get(name, name) for name in imported - {"tailproxy"}} <= declared
