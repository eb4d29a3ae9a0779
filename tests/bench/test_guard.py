from __future__ import annotations

import json

import pytest

from bench import guard
from bench.guard import Finding
from tests.lab.errors import LabError


def test_the_ratio_is_the_median_of_the_rounds():
    """One bad round, whoever it hit, does not decide."""
    assert guard.ratio([50.0, 500.0, 60.0], [100.0, 100.0, 100.0]) == 0.6
    assert guard.ratio([50.0, 50.0, 60.0], [100.0, 10.0, 100.0]) == 0.6


def test_rounds_of_one_proxy_alone_are_an_error():
    with pytest.raises(ValueError, match="argument"):
        guard.ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("ratio", "good"), [(0.5, True), (0.8, True), (0.919, True), (0.921, False), (2.0, False)]
)
def test_more_than_15_percent_above_what_is_kept_is_too_much(ratio, good):
    assert Finding(ratio, kept=0.8).good is good


def test_a_failure_says_by_how_much_and_what_to_do():
    text = Finding(1.0, kept=0.8).text
    assert "1.000 of the CPU of go-stdlib; kept is 0.800, so it is 25.0 % more" in text
    assert "at most 15% will do" in text
    assert "bench only get-16-tls" in text
    assert "guard --accept" in text


def test_a_good_one_says_so():
    assert Finding(0.6, kept=0.8).text.endswith("25.0 % less: good")


def test_what_is_accepted_is_what_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "FILE", tmp_path / "guard.json")
    guard.keep(0.71234)
    assert guard.kept() == 0.712


def test_a_missing_or_foreign_file_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "guard.json"
    monkeypatch.setattr(guard, "FILE", file)
    with pytest.raises(LabError, match="--accept"):
        guard.kept()
    file.write_text(json.dumps({"workload": "get-1", "figure": "p50_ms", "ratio": 1.0}))
    with pytest.raises(LabError, match="is not about cpu_us_per_request of get-16-tls"):
        guard.kept()
