"""Whatever a reader is given, it accepts it or says in one line why not. The long form is benchmarks/fuzz.py."""

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
from checkpoint_inputs import best_input, peer_input, weights_input
from fuzzed_readers import READERS, outcome
from image_inputs import image_input
from parquet_inputs import parquet_input
from space_inputs import space_input

NUM_INPUTS = {"space": 300, "parquet": 200, "image": 1000, "checkpoint": 200}
LIMIT_S = 10.0  # of the processor, not of a clock that runs on while others work
LIMIT_KIB = 2**20


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_accepts_or_refuses_in_one_line_soon_and_in_little_memory(reader: str, tmp_path: Path) -> None:
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow and torch about what they read; as errors they would hide others
        for seed in range(NUM_INPUTS[reader]):
            start = time.process_time()
            outcomes.append(outcome(reader, seed, tmp_path))
            assert time.process_time() - start < LIMIT_S, seed
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before < LIMIT_KIB
    assert 0.02 < outcomes.count("accepted") / len(outcomes) < 0.9  # most checks are reached
    assert len(set(outcomes)) > 15


def hash_of_inputs() -> str:
    makers = (space_input, parquet_input, image_input, best_input, weights_input, peer_input)
    inputs = [make(random.Random(f"{seed}")) for make in makers for seed in range(100)]
    return hashlib.sha256(repr(inputs).encode()).hexdigest()


def test_an_input_can_be_repeated_in_another_process() -> None:
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
