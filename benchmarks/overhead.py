"""Measure the share of a trial's wall time that its peers spend training, against the plain recipe.

    python benchmarks/overhead.py [--images 5000] [--rounds 7]      about five minutes on 2 cores
    python benchmarks/overhead.py --tiny [--rounds 60]              about a minute

The study runs from the command line: ResNet-20, four peers that graft after each round, CIFAR-10, with checkpoints and
records. In each round, peers train on `--images` training images, less a tenth for validation. The share is the peers'
training time, by their own clocks, divided by their processes' time from one round's record to the next. The first
round, which starts the processes, and the last, which reads the test set, are reported separately: a real trial has two
hundred rounds of 45,000 images. Shorter rounds lower the share.

The plain recipe trains on as many images in four processes, evaluates on the same share of test images (10,000 per
50,000), and exchanges.

`--tiny` measures a round that hardly trains instead: two peers of ResNet-8, one batch of 64 digits. It prints the
milliseconds of a round and of the training in it, medians.
"""

import argparse
import json
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
from peers import NUM_CORES
from plain import TEST_BATCH, PlainPeers
from studies import timed_trial
from turns import Case, report

from graftpop.cluster.connection import local_node
from graftpop.cluster.resources import resource_request
from graftpop.space import load_space

NUM_PEERS, NUM_ROUNDS = 4, 7
BATCH = 128
VAL_FRACTION = 0.1
TEST_SHARE = 10_000 / 50_000
WANTED = 0.95
LIMIT_S = 900.0
SPACE = """
name: overhead
data: {{name: cifar10, max_train_images: {images}, val_fraction: {val_fraction}}}
model: {{name: resnet20}}
training: {{epochs: {rounds}, batch_size: {batch}}}
population: {{num_peers: {num_peers}}}
graft: {{}}
tune: {{sampler: grid}}
"""
TINY_SPACE = """
name: tiny
data: {{name: digits, max_train_images: 128, val_fraction: 0.5}}
model: {{name: resnet8}}
training: {{epochs: {rounds}, batch_size: 64}}
population: {{num_peers: 2}}
graft: {{}}
tune: {{sampler: grid}}
"""
TINY_ROUNDS = 60
WANTED_TINY_MS = 40.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5_000, help="training images per round, validation included")
    parser.add_argument("--tiny", action="store_true", help="measure a round that hardly trains")
    parser.add_argument("--rounds", type=int)
    given = parser.parse_args()
    rounds = given.rounds or (TINY_ROUNDS if given.tiny else NUM_ROUNDS)
    if rounds < 3:
        parser.error(f"--rounds: must be 3 or more, since the first and the last are left out, got {rounds}")
    if given.tiny:
        print(json.dumps(tiny_round(rounds)))
        return
    with tempfile.TemporaryDirectory() as folder:
        shares, first_s, last_s = of_a_study(Path(folder), given.images, rounds)
        plain = of_plain(Path(folder), given.images)
    case = Case(
        f"resnet20, {NUM_PEERS} peers",
        [1 / share for share in shares],
        [1 / plain] * len(shares),
        {"training": f"{statistics.median(shares):.1%}", "plain": f"{plain:.1%}"},
    )
    report(
        "overhead",
        "times the plain recipe's share",
        1.0,
        [case],
        share=round(statistics.median(shares), 4),
        wanted_share=WANTED,
        shares=[round(share, 4) for share in shares],
        plain_share=round(plain, 4),
        images=given.images,
        first_round_s=round(first_s, 2),
        last_round_s=round(last_s, 2),
    )
    print(f"peers train {statistics.median(shares):.1%} of the time, goal {WANTED:.0%}")


def of_a_study(folder: Path, images: int, rounds: int) -> tuple[list[float], float, float]:
    """Return the share for each round between the first and the last, and the seconds of the first and the last."""
    space = SPACE.format(images=images, val_fraction=VAL_FRACTION, rounds=rounds, batch=BATCH, num_peers=NUM_PEERS)
    ends = ends_of_rounds(space, folder, rounds)
    run = folder / "run"
    rows = pq.read_table(run / "rounds.parquet").to_pylist()
    processes = resource_request(load_space(run / "space.yaml").resolve(), [local_node()]).actors
    trained = {
        number: sum(row["train_s"] for row in rows if row["round"] == number) / len(processes)
        for number in range(1, rounds + 1)
    }
    seconds = {number: ends[number] - ends[number - 1] for number in trained}
    return [trained[number] / seconds[number] for number in range(2, rounds)], seconds[1], seconds[rounds]


def ends_of_rounds(space: str, folder: Path, rounds: int) -> list[float]:
    """Run a study of one trial; return when its records were written at its start and after each round."""
    _, *ends, _ = timed_trial(space, folder, LIMIT_S)
    if len(ends) != rounds + 1:
        raise SystemExit(f"overhead.py: {len(ends) - 1} rounds seen of {rounds}")
    return ends


def tiny_round(rounds: int) -> dict[str, float]:
    """Return the milliseconds of a round that hardly trains, and of the training in it."""
    with tempfile.TemporaryDirectory() as folder:
        ends = ends_of_rounds(TINY_SPACE.format(rounds=rounds), Path(folder), rounds)
        trained = [row["train_s"] for row in pq.read_table(Path(folder) / "run" / "rounds.parquet").to_pylist()]
    _, *between, _ = (end - start for start, end in pairwise(ends))
    return {
        "round_ms": round(1e3 * statistics.median(between), 1),
        "wanted_ms": WANTED_TINY_MS,
        "training_ms": round(1e3 * statistics.median(trained), 1),
    }


def of_plain(folder: Path, images: int) -> float:
    """Return the share of training in an epoch of the plain recipe."""
    num_batches = round(images * (1 - VAL_FRACTION)) // BATCH
    plain = PlainPeers("resnet20", NUM_PEERS, folder, NUM_CORES, BATCH)
    try:
        for once in ("train 2", "evaluate 2", "exchange"):
            plain.ask(once)
        train_s = plain.ask(f"train {num_batches}")
        other_s = plain.ask(f"evaluate {round(TEST_SHARE * num_batches * BATCH) // TEST_BATCH}") + plain.ask("exchange")
    finally:
        plain.close()
    return train_s / (train_s + other_s)


if __name__ == "__main__":
    main()
