"""Whatever a reader is given, it accepts it or says in one line why not. The long form is benchmarks/fuzz.py."""

import resource
import time
import warnings
from pathlib import Path

import pytest
from fuzzed_readers import READERS, outcome

NUM_INPUTS = {"space": 300, "parquet": 200, "image": 1000, "checkpoint": 200}
LIMIT_S = 5.0
LIMIT_KIB = 2**20


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_accepts_or_refuses_in_one_line_soon_and_in_little_memory(reader: str, tmp_path: Path) -> None:
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # of Pillow and torch about what they read; as errors they would hide others
        for seed in range(NUM_INPUTS[reader]):
            start = time.monotonic()
            outcomes.append(outcome(reader, seed, tmp_path))
            assert time.monotonic() - start < LIMIT_S, seed
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before < LIMIT_KIB
    assert 0.02 < outcomes.count("accepted") / len(outcomes) < 0.9     # most checks are reached
    assert len(set(outcomes)) > 15
