"""Fragments of the changelog can become release notes."""

from __future__ import annotations

import tomllib

from tests.docs.pages import ROOT, rows, text


def test_fragments_have_an_issue_and_a_kind():
    kinds = {row[0].strip("`") for row in rows("changelog.d/README.md")}
    for path in ROOT.glob("changelog.d/*"):
        if path.name != "README.md":
            issue, kind, *_, suffix = path.name.split(".")
            assert issue.isdigit()
            assert kind in kinds
            assert suffix == "md"
            assert text(path).strip().endswith(".")


def test_release_notes_have_their_place():
    table = tomllib.loads(text("pyproject.toml"))["tool"]["towncrier"]
    assert "<!-- towncrier release notes start -->" in text(table["filename"])
    assert (ROOT / table["directory"]).is_dir()
