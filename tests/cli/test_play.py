"""`tailproxy play` as a person sees it, at a terminal of ours."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tailproxy.cli.main import main
from tests.lab.kubectl import Kubectl
from tests.lab.screen import Screen

PROGRAM = (sys.executable, "-c", "from tailproxy.cli.main import main; main()")
HEADER = {"version": 2, "width": 60, "height": 10, "timestamp": 1760000000}
LATE = 3600


def cast(path: Path, *events: list, header: dict = HEADER) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, *events)))
    return path


def play(*words: object, columns: int = 80, rows: int = 24) -> Screen:
    command = Kubectl(PROGRAM, env={**os.environ, "PYTHONPATH": str(Path.cwd())}, name="tailproxy")
    return Screen(command, "play", *map(str, words), columns=columns, rows=rows)


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "a.cast"


def test_terminal_shows_what_the_user_saw(file):
    cast(
        file,
        [0.01, "o", "one\r\n\x1b[5;10Hfi"],
        [0.02, "o", "ve\x1b[1;1HONE"],
        [0.03, "m", "exit 0"],
        [0.04, "o", "\x1b[7;1Hé€𝄞"],
    )
    with play(file) as screen:
        text = screen.shows(r"^é€𝄞")
        assert screen.wait() == 0
    lines = text.split("\n")
    assert lines[0] == "ONE"
    assert lines[4] == "         five"


def test_space_pauses_and_goes_on(file):
    cast(file, [0.0, "o", "begun"], [LATE, "o", " end"])
    with play(file, "--speed", LATE) as screen:
        screen.shows("begun")
        screen.type(b" ")
        screen.type(b" ")
        screen.shows("begun end")
        assert screen.wait() == 0


def test_step_and_marker_do_not_wait(file):
    cast(
        file,
        [0.0, "o", "begun"],
        [LATE, "o", " step"],
        [2 * LATE, "o", " more"],
        [3 * LATE, "m", "here"],
        [4 * LATE, "o", " never"],
    )
    with play(file) as screen:
        screen.shows("begun")
        screen.type(b".")
        screen.shows("begun step$")
        screen.type(b"]")
        screen.shows("begun step more$")
        screen.type(b"q")
        assert screen.wait() == 0


def test_faster_and_faster(file):
    cast(file, [0.0, "o", "begun"], [60.0, "o", " end"])
    with play(file) as screen:
        screen.shows("begun")
        screen.type(b"++++++")
        screen.shows("begun end")


def test_idle_makes_pauses_short(file):
    cast(file, [0.0, "o", "begun"], [LATE, "o", " end"])
    with play(file, "--idle", "0.1") as screen:
        screen.shows("begun end")


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_terminal_is_as_it_was_before(file, key):
    cast(file, [0.0, "o", "\x1b[?1049h\x1b[31mred\x1b[?25l\x1b[?2004h"], [LATE, "o", "never"])
    with play(file) as screen:
        screen.shows("red")
        screen.type(key)
        assert screen.expect(rb"\x1b\[\?1049l.*\x1b\[\?25h.*\x1b\[\?2004l")
        assert screen.wait() == 0


def test_reports_of_the_terminal_are_no_keys(file):
    cast(file, [0.0, "o", "begun"], [LATE, "o", " never"])
    with play(file) as screen:
        screen.shows("begun")
        # A cursor position, a device's attributes, a colour: all have letters and dots in them.
        screen.type(b"\x1b[12;40R\x1b[?62;22c\x1b]11;rgb:q.q]q/q/q\x1b\\")
        screen.type(b".")
        screen.shows("begun never")


def test_smaller_terminal_is_told(file):
    cast(file, [0.0, "o", "x"], [0.01, "r", "100x30"])
    with play(file) as screen:
        screen.shows("recorded in a terminal of 100x30, and this one has 80x24")
    with play(file, columns=100, rows=30) as screen:
        assert screen.wait() == 0
        assert "recorded" not in screen.text


def test_recordings_of_tsrecorder_have_their_sizes_turned(file):
    header = {**HEADER, "srcNode": "n.ts.net", "srcNodeID": "n1"}
    cast(file, [0.0, "o", "x"], [0.01, "r", "30x100"], header=header)
    with play(file) as screen:
        screen.shows("recorded in a terminal of 100x30")


def test_session_without_terminal_has_whole_lines(file):
    cast(file, [0.0, "o", "one\ntwo\nthree\n"], header={**HEADER, "width": 0, "height": 0})
    with play(file) as screen:
        assert re.search(r"^one\n(two)\nthree", screen.shows("^three"), re.MULTILINE)


def test_standard_input_is_played(file):
    cast(file, [0.0, "o", "from a pipe"], [LATE, "o", " end"])
    words = ("sh", "-c", f'cat {file} | "$0" "$@"', *PROGRAM)
    command = Kubectl(words, env={**os.environ, "PYTHONPATH": str(Path.cwd())}, name="tailproxy")
    with Screen(command, "play", "-") as screen:
        screen.shows("from a pipe")
        screen.type(b".")
        screen.shows("from a pipe end")


def run(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, ["play", *map(str, words)])
    assert done.exit_code == code, done.output
    return done.output


def test_output_may_go_into_a_file(file):
    cast(file, [0.0, "o", "plain"], header={**HEADER, "width": 0, "height": 0})
    assert run(file) == "plain"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 is no JSON"),
        ('{"version": 3}\n', "line 1 is no header of an asciicast of version 2"),
        (json.dumps(HEADER) + '\n{"a": 1}\n', "line 2 is no event"),
    ],
)
def test_file_that_is_no_recording_is_said(file, text, message):
    file.write_text(text)
    assert run(file, code=1).endswith(f"Error: {file}: {message}\n")


def test_file_that_is_not_there_is_said(tmp_path):
    said = run(tmp_path / "gone", code=1)
    assert said == f"Error: cannot read {tmp_path}/gone: No such file or directory\n"
