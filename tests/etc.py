"""The files below `etc/`, read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ETC = Path(__file__).parent.parent / "etc"


def text(name: str) -> str:
    return (ETC / name).read_text(encoding="utf-8")


def kubernetes() -> list[dict[str, Any]]:
    """The objects of the cluster's manifest."""
    return list(yaml.safe_load_all(text("kubernetes.yaml")))


def one(kind: str, name: str = "") -> dict[str, Any]:
    """The only object of a kind, or the one of that name."""
    (found,) = (
        each
        for each in kubernetes()
        if each["kind"] == kind and name in {"", each["metadata"]["name"]}
    )
    return found
