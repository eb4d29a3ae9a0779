"""What an error stream says."""

from __future__ import annotations

import json

import pytest

from tailproxy.wire.outcome import MAX_TEXT, ErrorStream, read_outcome
from tailproxy.wire.sessionevents import Outcome

from .golden import STREAMS, cases


@pytest.mark.parametrize(("text", "expected"), cases("exit_status", STREAMS))
def test_golden(text, expected):
    outcome = read_outcome(text.encode())
    assert outcome.kind == expected["outcome"]
    if "code" in expected:
        assert outcome.code == expected["code"]
    if "message" in expected:
        assert outcome.message == expected["message"]
    assert (outcome.code == 0) == (outcome.kind == "success")


def failure(**fields):
    return json.dumps({"status": "Failure", "reason": "NonZeroExitCode", **fields}).encode()


def causes(*values):
    return failure(message="m", details={"causes": list(values)})


class TestReadOutcome:
    @pytest.mark.parametrize("code", ["0", "1", "137", "255", "007"])
    def test_an_exit_code_is_a_decimal_number_of_eight_bits(self, code):
        text = causes({"reason": "Other"}, {"reason": "ExitCode", "message": code})
        assert read_outcome(text) == Outcome(int(code), "m", "exit")

    @pytest.mark.parametrize("code", ["256", "-1", "+1", "", "1_0", "\u0661", "9" * 5000, 1, None])
    def test_another_is_none(self, code):
        outcome = read_outcome(causes({"reason": "ExitCode", "message": code}))
        assert (outcome.code, outcome.kind) == (None, "protocol-error")

    @pytest.mark.parametrize(
        "text",
        [
            b"[]",
            b"null",
            b'{"status":"Pending"}',
            b'{"status":["Success"]}',
            b'{"status":"Success"',
            b"\xff",
            b"[" * 50_000,
            failure(),
            failure(details=[]),
            failure(details={"causes": {"reason": "ExitCode"}}),
            causes("ExitCode", {"reason": "Other", "message": "1"}),
        ],
    )
    def test_what_makes_no_sense_is_not_taken_for_success(self, text):
        assert read_outcome(text).kind == "protocol-error"

    def test_a_message_can_always_be_written(self):
        outcome = read_outcome(b'{"status":"Failure","message":"a\\ud800b"}')
        assert outcome.message.encode() == b"a?b"

    def test_a_message_may_be_missing(self):
        assert read_outcome(b'{"status":"Failure"}') == Outcome(None, "", "failure")


class TestErrorStream:
    def test_text_comes_in_pieces(self):
        error = ErrorStream(plain=False)
        assert not error
        error.add(b'{"status":')
        assert error
        error.add(b'"Success"}')
        assert error.outcome() == Outcome(0, "", "success")

    def test_nothing_is_success(self):
        assert ErrorStream(plain=False).outcome() == Outcome(0, "", "success")
        assert ErrorStream(plain=True).outcome() == Outcome(0, "", "success")

    def test_plain_text_is_a_failure(self):
        error = ErrorStream(plain=True)
        error.add(b"no \xff such container\n")
        assert error.outcome() == Outcome(None, "no \ufffd such container", "failure")

    def test_it_is_bounded(self):
        error = ErrorStream(plain=False)
        for _ in range(3):
            error.add(b" " * MAX_TEXT)
        error.add(b'{"status":"Success"}')
        assert error.outcome().kind == "protocol-error"
        assert len(error._text) == MAX_TEXT
