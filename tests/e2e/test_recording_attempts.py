"""Where recording is enforced a command is recorded or does not run, however it is asked for."""

from __future__ import annotations

import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from tests.e2e.attempts import by_node, order, shows, spdy, websocket
from tests.e2e.client import connect

AT_ONCE = 8


def attempt_of(kind, random, command, node):
    if random.random() < 0.03:
        return by_node(random, command, node)
    return {"spdy": spdy, "websocket": websocket}[kind](random, command)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["spdy", "websocket"])
def test_nothing_runs_unrecorded(lab, proxy, demand, recorder, tmp_path, soak, kind):
    """A word that only the command can make up, and a file that only it can leave (where it runs
    on this machine), show that it ran; then a recording has the word, or at least the command
    whose output nobody saw.
    """
    source = demand(recorder.address)
    seed, count = secrets.randbits(32), 2000 if soak else 150
    node = lab.cluster.api.call("GET", "/api/v1/nodes")["items"][0]["metadata"]["name"]
    print(f"seed {seed}, {count} attempts over {kind}")

    def run(number: int) -> tuple[bytes, bytes]:
        random = Random(f"{seed} {kind} {number}")
        command, word = order(str(tmp_path), number)
        attempt = attempt_of(kind, random, command, node)
        with connect(lab, proxy, source) as sock:
            return word, attempt.run(sock, word, random)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        seen = dict(enumerate(threads.map(run, range(count))))
    shown = {number for number, (word, data) in seen.items() if shows(data, word)}
    ran = {int(mark.name) for mark in tmp_path.iterdir() if mark.name.isdigit()}
    switched = sum(data.startswith(b"HTTP/1.1 101 ") for _, data in seen.values())
    print(f"{switched} switched protocols, {len(ran)} ran, {len(shown)} showed their output")

    def recorded(_) -> bool:
        texts = [bytes(each.data) for each in recorder.recordings]
        outputs = {int(n) for text in texts for n in re.findall(rb"\bout-8(\d{5})-z\b", text)}
        orders = {int(n) for text in texts for n in re.findall(rb"\$\(\(800000\+(\d+)\)\)", text)}
        missing[:] = sorted((shown - outputs) | (ran - outputs - orders))
        return not missing

    missing: list[int] = []
    try:
        recorder.wait(recorded)
    except AssertionError:
        for number in missing:
            random = Random(f"{seed} {kind} {number}")
            command, _ = order(str(tmp_path), number)
            print(number, attempt_of(kind, random, command, node), seen[number][1], sep="\n  ")
        pytest.fail(f"seed {seed}: {len(missing)} of {count} attempts over {kind} are unrecorded")
    # Many of them are refused, and so they should; but the rest must be worth something.
    assert len(shown) >= count // 10, f"seed {seed}"
