"""`tailproxy doctor` as an administrator sees it."""

from __future__ import annotations

import json

from tests.cli.host import run


def test_a_problem_is_a_line_and_an_exit_status(tmp_path):
    said = run("doctor", "--config", tmp_path / "gone", code=1)
    assert " ".join(said.split()) == (
        f"problem configuration {tmp_path}/gone: cannot read the configuration: "
        "No such file or directory"
    )


def test_programs_get_json(tmp_path):
    [found] = json.loads(run("doctor", "--config", tmp_path / "gone", "-o", "json", code=1))
    assert (found["name"], found["ok"]) == ("configuration", False)
