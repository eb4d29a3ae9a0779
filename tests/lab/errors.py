"""What goes wrong in the lab."""

from __future__ import annotations


class LabError(Exception):
    """Something the lab needs is missing or failed; the text says what, why and what to do next."""
