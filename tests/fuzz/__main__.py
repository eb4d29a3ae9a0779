"""`python -m tests.fuzz READER [--seconds N] [--corpus FOLDER]`: a search with atheris."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import atheris

SEEDS = Path(__file__).parent / "corpus"
MAX_MEMORY = 1024  # MiB, of the whole process
MAX_SECONDS = 5  # for one input


def main() -> None:
    """Search until the time is over, or until something does not hold."""
    with atheris.instrument_imports(include=["tailproxy.wire"]):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - only what comes now is watched

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("reader", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="how long")
    parser.add_argument("--corpus", type=Path, help="where to keep what was found, and to go on")
    options = parser.parse_args()
    seeds = SEEDS / options.reader
    found = options.corpus / options.reader if options.corpus else None
    if found is not None:
        found.mkdir(parents=True, exist_ok=True)
    arguments = [
        sys.argv[0],
        f"-max_total_time={options.seconds}",
        f"-timeout={MAX_SECONDS}",
        f"-rss_limit_mb={MAX_MEMORY}",
        "-max_len=4096",
        "-print_final_stats=1",
        f"-artifact_prefix={found or options.reader}-",
        # What is new goes into the first folder.
        *([str(found)] if found is not None else []),
        str(seeds),
    ]
    atheris.Setup(arguments, TARGETS[options.reader])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
