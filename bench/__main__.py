"""Entry point: see docs/performance.md."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from bench.ground import Ground
from bench.session import Plan, Session, steps
from bench.workloads import WORKLOADS
from tests.lab.errors import LabError
from tests.lab.progress import Progress

if TYPE_CHECKING:
    from types import FrameType


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _words(text: str) -> list[str]:
    return text.split(",")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench")
    commands = parser.add_subparsers(dest="command")
    only = commands.add_parser("only")
    only.add_argument("workloads", type=_words)
    only.add_argument("--proxies", type=_words)
    only.add_argument("--rounds", type=int, default=3)
    only.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    plan = Plan(steps(WORKLOADS, args.workloads), args.rounds, args.seconds)
    if args.proxies:
        plan = plan.restricted(args.proxies)
    try:
        with Ground(Progress(), peer="go-peer" in plan.proxies) as ground:
            session = Session(ground, plan)
            for row in session.run().rows():
                print(
                    f"{row.workload:18} {row.proxy:12} {row.figure:20} {row.median:10} "
                    f"({row.min}..{row.max}) {row.unit}"
                )
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ended", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
