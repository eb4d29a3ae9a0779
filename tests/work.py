"""Counts what a function does, so that a test can say that it does not do more and more of it.

Time would tell the same, but not twice alike.
"""

from __future__ import annotations

import sys
from collections.abc import Callable


def work(function: Callable[[], object]) -> int:
    """How many lines of Python run, and how many functions are called, in Python or in C."""
    steps = 0

    def trace(*_):
        nonlocal steps
        steps += 1
        return trace

    def profile(_, event, __):
        nonlocal steps
        steps += event == "c_call"

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before[1])
        sys.settrace(before[0])
    return steps


def assert_linear(make: Callable[[int], Callable[[], object]], small: int, large: int) -> None:
    """Assert that work grows no faster than the size.

    :param make: makes the function for a size.
    """
    assert work(make(large)) <= work(make(small)) * large / small * 1.2


def assert_constant(make: Callable[[int], Callable[[], object]], small: int, large: int) -> None:
    """Assert that work does not grow with the size."""
    assert work(make(large)) == work(make(small))
