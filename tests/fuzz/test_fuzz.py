"""Every reader accepts a random input or refuses it in one line. benchmarks/fuzz.py tries many more."""

import hashlib
import os
import random
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from arrow_inputs import arrow_input
from checkpoint_inputs import best_input, peer_input, weights_input
from fuzzed_readers import READERS, outcome
from image_inputs import image_input
from parquet_inputs import parquet_input
from space_inputs import space_input

NUM_INPUTS = {"space": 300, "parquet": 200, "arrow": 200, "image": 1000, "checkpoint": 200}
LIMIT_S = 10.0  # processor time, independent of other load
LIMIT_KIB = 2**20


@pytest.mark.parametrize("reader", READERS)
def test_reader_accepts_or_refuses_within_time_and_memory(reader: str, tmp_path: Path) -> None:
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = []
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # warnings of Pillow and torch about their input; as errors they would hide others
        for seed in range(NUM_INPUTS[reader]):
            start = time.process_time()
            outcomes.append(outcome(reader, seed, tmp_path))
            assert time.process_time() - start < LIMIT_S, seed
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before < LIMIT_KIB
    assert 0.02 < outcomes.count("accepted") / len(outcomes) < 0.9  # most checks are reached
    assert len(set(outcomes)) > 15


def hash_of_inputs() -> str:
    makers = (space_input, parquet_input, arrow_input, image_input, best_input, weights_input, peer_input)
    inputs = [make(random.Random(f"{seed}")) for make in makers for seed in range(25)]
    return hashlib.sha256(repr(inputs).encode()).hexdigest()


def test_inputs_depend_on_the_seed_alone() -> None:
    other = subprocess.run(
        [sys.executable, "-c", "from test_fuzz import hash_of_inputs; print(hash_of_inputs())"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert other.stdout.strip() == hash_of_inputs()
