"""``tox -e demo``: a short tour of tailproxy on real parts.

Brings the lab up, starts ``twistd tailproxy`` as a user would, and lets each caller run kubectl
through it. What each command should do is known, so a tour that goes wrong ends with an error.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab.errors import LabError
from tests.lab.lab import NODES, Lab
from tests.lab.tailnet import CALLERS

if TYPE_CHECKING:
    from types import FrameType

    from tests.lab.service import Service

STREAM_SECONDS = 15.0
GRANT_SECONDS = 15.0
#: What is done live to the tailnet's policy.
GRANT = (
    "An administrator of the tailnet adds mallory to the platform team's grant. "
    "Nothing is restarted."
)
#: In the logs of the lab's pod there is a line a second on the real node, and these by kwok.
LAST_LINE = {"kwok": "line 100", "kubelet": "tick"}


@dataclass(frozen=True)
class Step:
    """One command of the tour.

    :ivar what: a sentence about what is to be seen.
    :ivar words: of the command, behind the program.
    :ivar says: a part of its output that shows it went as it should.
    :ivar refused: whether it is to fail.
    """

    what: str
    caller: str
    words: str
    says: str
    refused: bool = False
    program: str = "kubectl"


PODS = Step(
    "alice may edit the namespace default. The token in her kubeconfig means nothing.",
    "alice",
    "get pods",
    "shell",
)
WHOAMI = [
    Step(
        "Who is alice? Her login name on the tailnet.", "alice", "auth whoami", "alice@example.com"
    ),
    Step(
        "ci is a node with a tag: its own name, and its tag as a group.",
        "ci",
        "auth whoami",
        "tag:engineering",
    ),
    Step(
        "grace has a group from a grant of the tailnet's policy.",
        "grace",
        "auth whoami",
        "platform-team",
    ),
]
MALLORY = Step(
    "mallory is on the tailnet, but nobody gave her rights: Kubernetes RBAC refuses.",
    "mallory",
    "get pods",
    'User "mallory@example.com" cannot list resource "pods"',
    refused=True,
)
WHY = Step(
    "And what does grace learn about herself, and why she is that?",
    "grace",
    "whoami",
    "platform-team: rule 1",
    program="tailproxy",
)
TOUR = [
    PODS,
    WHOAMI[0],
    MALLORY,
    WHOAMI[1],
    Step("The group tag:engineering may look around.", "ci", "get pods --all-namespaces", "shell"),
    WHOAMI[2],
    Step("Her group may list nodes.", "grace", "get nodes", "lab"),
    Step(
        "alice runs a command in a pod.",
        "alice",
        "exec shell -- sh -c 'echo hello from the pod'",
        "hello from the pod",
    ),
    WHY,
]
GRANTED = Step(
    "Now she is who RBAC knows as one of the platform team.",
    "mallory",
    "auth whoami",
    "platform-team",
)
MALLORY_LISTS = Step("And may list pods.", "mallory", "get pods", "shell")
TOUR_OF_GIVEN = [*WHOAMI, MALLORY, WHY]


class Tour:
    """Runs and shows the steps.

    :param colour: whether the terminal shows colours.
    """

    def __init__(self, lab: Lab, *, colour: bool) -> None:
        self._lab = lab
        self._bold, self._dim, self._plain = (
            ("\x1b[1m", "\x1b[2m", "\x1b[0m") if colour else ("",) * 3
        )

    def show(self, step: Step) -> None:
        """Run one step and show it.

        :raises LabError: it did not go as it should.
        """
        words = shlex.split(step.words)
        self._announce(step.what, step.caller, step.program, *words)
        if step.program == "kubectl":
            done = self._lab.kubectl(step.caller, *words)
        else:
            done = self._run_own(step.program, step.caller, *words)
        self._print(done.stdout + done.stderr)
        if (done.returncode != 0) is not step.refused or step.says not in done.stdout + done.stderr:
            raise LabError(
                f"the tour went wrong: {step.words!r} as {step.caller} was to show "
                f"{step.says!r} and {'fail' if step.refused else 'succeed'}"
            )

    def _run_own(self, program: str, caller: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of tailproxy as a caller to its end."""
        return subprocess.run(
            [
                *self._lab.cluster.kubectl_prefix,
                str(Path(sys.executable).with_name(program)),
                *words,
                f"--kubeconfig={self._lab.kubeconfig(caller)}",
            ],
            env=self._lab.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def show_stream(
        self, what: str, caller: str, words: str, says: str, poke: object = None
    ) -> None:
        """Show a command that goes on until it has said something.

        :param poke: called once it runs, to make it say that.
        :raises LabError: it does not say it in time.
        """
        self._announce(what, caller, "kubectl", *shlex.split(words))
        process = self._lab.kubectl_process(caller, *shlex.split(words), stderr=subprocess.STDOUT)
        timer = threading.Timer(STREAM_SECONDS, process.kill)
        timer.start()
        assert process.stdout is not None
        seen = False
        try:
            for number, line in enumerate(process.stdout):
                self._print(line.decode(errors="replace"))
                if number == 0 and callable(poke):
                    poke()
                if says in line.decode(errors="replace"):
                    seen = True
                    break
        finally:
            timer.cancel()
            process.kill()
            process.communicate()
        if not seen:
            raise LabError(f"the tour went wrong: {words!r} as {caller} did not show {says!r}")

    def show_grant(self, what: str, caller: str, *steps: Step) -> None:
        """Show that a grant takes effect at once, and what it changes; then take it back.

        :param caller: who gets what the tailnet's policy grants to the platform team.
        :raises LabError: it does not take effect in time, or a step did not go as it should.
        """
        before = self._lab.tailnet.policy
        user = self._lab.tailnet.nodes[caller].member.user

        def edit(policy: dict[str, Any]) -> None:
            for grant in policy["grants"]:
                if "app" in grant:
                    grant["src"].append(user)

        print(f"\n{self._bold}{what}{self._plain}")
        self._lab.tailnet.edit_policy(edit)
        start = time.monotonic()
        try:
            self._await_group(caller, GRANTED.says)
            self._print(f"in force after {time.monotonic() - start:.1f} s")
            for step in steps:
                self.show(step)
        finally:
            self._lab.tailnet.set_policy(before)

    def _await_group(self, caller: str, group: str) -> None:
        deadline = time.monotonic() + GRANT_SECONDS
        while group not in self._lab.kubectl(caller, "auth", "whoami").stdout:
            if time.monotonic() > deadline:
                raise LabError(f"the tour went wrong: {caller} did not get the group {group}")
            time.sleep(0.1)

    def _announce(self, what: str, caller: str, *words: str) -> None:
        print(f"\n{self._bold}{what}{self._plain}")
        print(f"{self._dim}{caller} $ {shlex.join(words)}{self._plain}", flush=True)

    def _print(self, text: str) -> None:
        print(textwrap.indent(text.rstrip(), "    "), flush=True)


def tour(lab: Lab) -> None:
    """The whole tour.

    :raises LabError: something did not go as it should.
    """
    guide = Tour(lab, colour=sys.stdout.isatty())
    first, *others = TOUR_OF_GIVEN if lab.given else TOUR
    guide.show(first)
    lab.progress.say("kubectl has its first answer through tailproxy")
    for step in others:
        guide.show(step)
    if lab.given:
        guide.show_grant(GRANT, "mallory", GRANTED)
        return
    guide.show_stream(
        "alice follows the logs of a pod.",
        "alice",
        "logs -f shell --tail=3 --all-containers",
        LAST_LINE[lab.node],
    )
    mark = f"seen-{int(time.time())}"
    guide.show_stream(
        "alice watches: a change made by somebody else arrives at once.",
        "alice",
        "get configmap small --watch -o jsonpath='{.metadata.labels.demo}{\"\\n\"}'",
        mark,
        lambda: lab.cluster.kubectl("label", "--overwrite", "configmap", "small", f"demo={mark}"),
    )
    guide.show_grant(GRANT, "mallory", GRANTED, MALLORY_LISTS)


def farewell(lab: Lab, service: Service, *, stays: bool) -> None:
    """Say how to go on by hand."""
    programs = (lab.binary("kubectl").parent, Path(sys.executable).parent)
    print("\nThe tour is over. To go on by hand, in another terminal:")
    print(f"  export PATH={':'.join(map(str, programs))}:$PATH")
    print(f"  cd {lab.run}")
    for caller in CALLERS:
        words = [*lab.cluster.kubectl_prefix, "kubectl", "--kubeconfig", f"{caller}.kubeconfig"]
        print(f"  {' '.join(words)} get pods")
    print(f"The tailnet's policy: {lab.tailnet.policy_file}; a change has effect at once")
    print(f"Its configuration: {service.file}")
    print(f"Its log:           {service.log}")
    print(f"Readiness:         http://{service.admin[0]}:{service.admin[1]}/readyz?verbose")
    if stays:
        print("Ctrl-C ends everything.", flush=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = argparse.ArgumentParser(prog="tox -e demo --", description=__doc__)
    words.add_argument("--once", action="store_true", help="end after the tour")
    words.add_argument("--node", choices=NODES, default="kwok", help="kubelet needs root")
    words.add_argument(
        "--kubeconfig",
        type=Path,
        help="of a cluster that is there already; only the tailnet is ours then",
    )
    return words


def main() -> int:
    """Run the demo; the exit status."""
    args = parser().parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Lab("demo", node=args.node, given=args.kubeconfig) as lab:
            service = lab.start_tailproxy("serve")
            lab.progress.say("tailproxy is ready")
            tour(lab)
            farewell(lab, service, stays=not args.once)
            if not args.once:
                signal.pause()
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nended", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
