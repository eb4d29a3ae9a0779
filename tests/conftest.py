"""Options and plugins of the whole suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

pytest_plugins = ["tests.lab.fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of long counts."""
    parser.addoption(
        "--soak",
        action="store_true",
        help="run the long counts in full: gigabytes, hundreds of sessions",
    )
