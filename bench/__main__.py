"""``python -m bench``: see docs/performance.md."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import platform
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import tailproxy
from bench import goals, guard, meter, picture, report, rows
from bench.ground import Ground
from bench.session import Plan, Session, steps
from bench.workloads import WORKLOADS
from tests.lab.errors import LabError
from tests.lab.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from bench.rows import Row, Samples

ROOT = Path(__file__).parent.parent
LATEST = ROOT / "bench/out/latest.json"
FACTS = ROOT / "bench/out/facts.json"
PAGE = ROOT / "docs/performance.md"
PICTURE = ROOT / "docs/performance.svg"


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _names(text: str) -> list[str]:
    return text.split(",")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = words.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("full", help="everything, about 30 minutes (without a command)")
    commands.add_parser("quick", help="what the goals speak of, about 8 minutes")
    commands.add_parser("goals", help="how the goals stand by bench/out/latest.json")
    commands.add_parser("report", help="docs/performance.md and its picture, anew from that file")
    watch = commands.add_parser("guard", help="whether a small GET has become dearer; 2 minutes")
    watch.add_argument("--accept", action="store_true", help="keep the new figure")
    only = commands.add_parser("only", help="some workloads, for development; written to no file")
    only.add_argument(
        "workloads", type=_names, metavar="WORKLOAD[,...]", help="names, suffix or no"
    )
    only.add_argument("--proxies", type=_names, metavar="NAME[,...]", help="all, unless told")
    only.add_argument("--rounds", type=int, default=3)
    only.add_argument("--seconds", type=float, default=3.0, help="for each measurement")
    words.set_defaults(command="full")
    return words


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _measure(plan: Plan) -> Samples:
    """Run a plan on ground of its own."""
    with Ground(Progress(), peer=goals.PEER in plan.proxies) as ground:
        return Session(ground, plan).run()


def full_plan() -> Plan:
    """Everything."""
    return Plan(steps(WORKLOADS), rounds=5, seconds=2.0)


def quick_plan() -> Plan:
    """What the goals speak of, and no proxy beside it where that is subtracted."""
    wanted = goals.wanted()
    found = steps(WORKLOADS, list(wanted))
    return Plan(
        [step.restricted([*wanted[step.name], "direct"]) for step in found if step.name in wanted],
        rounds=3,
        seconds=1.5,
    )


def _write(found: Sequence[Row], took: float, command: str) -> None:
    LATEST.write_text(json.dumps(rows.as_json(found), indent=1) + "\n", encoding="utf-8")
    facts = {
        **meter.machine(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "python": platform.python_version(),
        "tailproxy": tailproxy.__version__,
        "command": command,
        "minutes": f"{took / 60:.0f}",
    }
    FACTS.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _latest() -> list[Row]:
    try:
        return rows.from_json(json.loads(LATEST.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise LabError(f"{LATEST} is not there; `python -m bench` makes it") from None


def _report(found: Sequence[Row]) -> None:
    facts = json.loads(FACTS.read_text(encoding="utf-8"))
    machine = (
        f"Measured on {facts['date']} with tailproxy {facts['tailproxy']} on Python "
        f"{facts['python']}, in {facts['minutes']} minutes, on {facts['cores']} cores of "
        f"{facts['processor']}, {facts['kernel']}."
    )
    parts = {
        "machine": machine,
        "goals": report.goals_table(found),
        "figures": report.figures_tables(found),
    }
    PAGE.write_text(report.filled(PAGE.read_text(encoding="utf-8"), parts), encoding="utf-8")
    PICTURE.write_text(picture.draw(goals.judge(found)), encoding="utf-8")


def _guard(*, accept: bool) -> int:
    names = [goals.STDLIB, goals.ONE]
    plan = Plan(steps(WORKLOADS, [guard.WORKLOAD]), guard.ROUNDS, guard.SECONDS).restricted(names)
    samples = _measure(plan)
    ours, theirs = (
        samples.values(guard.WORKLOAD, name, goals.CPU) for name in (goals.ONE, goals.STDLIB)
    )
    ratio = guard.ratio(ours, theirs)
    if accept:
        guard.keep(ratio)
        _say(f"kept: {ratio:.3f}")
        return 0
    finding = guard.Finding(ratio, guard.kept())
    _say(finding.text)
    return 0 if finding.good else 1


def _run(args: argparse.Namespace) -> int:
    if args.command == "goals":
        _say(report.goals_table(_latest()))
    elif args.command == "report":
        _report(_latest())
    elif args.command == "guard":
        return _guard(accept=args.accept)
    elif args.command == "only":
        plan = Plan(steps(WORKLOADS, args.workloads), args.rounds, args.seconds)
        plan = plan.restricted(args.proxies) if args.proxies else plan
        if not plan.steps:
            raise LabError(f"nothing to measure in {','.join(args.workloads)}")
        _say(report.plain(_measure(plan).rows()))
    else:
        began = time.monotonic()
        found = _measure(quick_plan() if args.command == "quick" else full_plan()).rows()
        _write(found, time.monotonic() - began, args.command)
        if args.command == "full":
            _report(found)
        _say(report.goals_table(found))
    return 0


def main() -> int:
    """Run a command; the exit status."""
    args = parser().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        return _run(args)
    except LabError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("ended\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
