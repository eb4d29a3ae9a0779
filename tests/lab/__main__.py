"""``python -m tests.lab up|down|status|kubeconfig NAME``: a lab to try things by hand."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from pathlib import Path

import yaml

from tests.lab import keeper
from tests.lab.errors import LabError
from tests.lab.lab import NODES, SERVER, base
from tests.lab.process import leftovers, replace, written_down
from tests.lab.progress import Progress
from tests.lab.tailnet import CALLERS


def _up(args: argparse.Namespace) -> None:
    run = keeper.up(args.name, args.node, args.kubeconfig, Progress())
    print(f"\nThe lab {args.name!r} is up. Logs and state: {run}")
    print("kubeconfigs:")
    for name in ("admin", "proxy", *CALLERS):
        print(f"  {name:8} {run / f'{name}.kubeconfig'}")
    print(f"End it with: python -m tests.lab down --name {args.name}")


def _down(args: argparse.Namespace) -> None:
    if keeper.down(args.name, print):
        print(f"The lab {args.name!r} is down.")
    else:
        print(f"There is no lab {args.name!r}.")


def _status(_args: argparse.Namespace) -> None:
    labs = keeper.names()
    if not labs:
        print("No lab is up.")
    for name in labs:
        found = keeper.state(name) or {}
        run = base() / name
        if found.get("alive"):
            print(f"{name}: {found['state']}, {found['node']}, kept by process {found['pid']}")
            for row in written_down(run):
                print(f"  {row.name:26} {row.pid:>8}  {'running' if row.running else 'ended'}")
        else:
            word = "failed" if found.get("state") == "failed" else "crashed"
            print(f"{name}: {word}; its logs are in {run}")
            print(f"  remove it with: python -m tests.lab down --name {name}")
            for row in leftovers(run):
                print(f"  {row.name:26} {row.pid:>8}  left over")


def _kubeconfig(args: argparse.Namespace) -> None:
    run = base() / args.name
    path = run / f"{args.caller}.kubeconfig"
    if not (keeper.state(args.name) or {}).get("alive"):
        raise LabError(
            f"no lab {args.name!r} is up; next step: python -m tests.lab up --name {args.name}"
        )
    if args.server != SERVER:
        config = yaml.safe_load(path.read_text())
        config["clusters"][0]["cluster"]["server"] = args.server
        server = re.sub(r"\W+", "-", args.server)
        path = run / f"{args.caller}-{server}.kubeconfig"
        replace(path, yaml.safe_dump(config, sort_keys=False))
    print(path)


def _keep(args: argparse.Namespace) -> None:
    keeper.keep(args.name, args.node, args.kubeconfig, args.report)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    commands = words.add_subparsers(required=True, metavar="up|down|status|kubeconfig")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", default="default", help="tells apart labs that run at once")
    making = argparse.ArgumentParser(add_help=False, parents=[common])
    making.add_argument("--node", choices=NODES, default="kwok", help="kubelet needs root")
    making.add_argument(
        "--kubeconfig", type=Path, help="a cluster that is there already: only bring up a tailnet"
    )
    commands.add_parser("up", parents=[making], help="bring a lab up").set_defaults(do=_up)
    keep = commands.add_parser("keep", parents=[making])
    keep.add_argument("--report", type=int, required=True)
    keep.set_defaults(do=_keep)
    down = commands.add_parser("down", parents=[common], help="end a lab, or what is left of it")
    down.set_defaults(do=_down)
    status = commands.add_parser("status", help="list the labs and their processes")
    status.set_defaults(do=_status)
    config = commands.add_parser(
        "kubeconfig", parents=[common], help="print the path of a caller's kubeconfig"
    )
    config.add_argument("caller", choices=("admin", "proxy", *CALLERS), metavar="NAME")
    config.add_argument("--server", default=SERVER, help=f"default: {SERVER}")
    config.set_defaults(do=_kubeconfig)
    return words


def main() -> int:
    """Run one command; the exit status."""
    args = parser().parse_args()
    try:
        args.do(args)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
