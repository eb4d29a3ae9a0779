"""The corpora of the fuzzers, and a little beside them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
ROUNDS = 3000


def seeds(reader):
    return sorted((CORPUS / reader).iterdir())


def mutated(data, others, rng):
    """Change some bytes, as a fuzzer would."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(changed))
        match rng.randrange(4):
            case 0:
                changed[at : at + 1] = rng.randbytes(rng.randint(0, 4))
            case 1:
                changed[at:at] = rng.choice(others)[: rng.randint(0, 64)]
            case 2:
                del changed[at : at + rng.randint(1, 8)]
            case 3:
                changed[at : at + 1] = rng.choice((b"\0", b"\x7f", b"\x80", b"\xff"))
    return bytes(changed)


def test_there_is_a_corpus_for_each_reader():
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize(
    ("reader", "seed"),
    [
        pytest.param(reader, seed, id=f"{reader}-{seed.name}")
        for reader in TARGETS
        for seed in seeds(reader)
    ],
)
def test_a_seed_holds(reader, seed):
    TARGETS[reader](seed.read_bytes())


@pytest.mark.parametrize("reader", TARGETS)
def test_what_is_beside_the_seeds_holds(reader):
    rng = random.Random(reader)
    texts = [seed.read_bytes() for seed in seeds(reader)]
    for _ in range(ROUNDS):
        data = mutated(rng.choice(texts), texts, rng)
        try:
            TARGETS[reader](data)
        except BaseException:
            print(f"{reader}: {data!r}")
            raise
