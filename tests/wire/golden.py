"""The golden cases of the streaming specification."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

REQUESTS = Path(__file__).parent / "requests.jsonl"
STREAMS = Path(__file__).parent / "streams.jsonl"


def cases(kind, file=REQUESTS):
    """Return a table for `pytest.mark.parametrize`: input and expected output."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    table = [
        pytest.param(case["in"], case["out"], id=f"st_{case['id']}")
        for case in lines
        if case["kind"] == kind
    ]
    assert table, kind
    return table
