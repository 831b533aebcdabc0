"""Measure images per second of a training population, against the plain recipe in as many processes.

    python benchmarks/training.py [--models resnet20 ...] [--peers 1 2 4] [--turns 5]

CIFAR-10 from GRAFTPOP_DATA. Both train the same networks on equal numbers of augmented images and equal batch sizes;
graftpop trains in the precision that `auto` selects. In each turn, one population trains an epoch of few images while
the other is idle. The time is from the request to the last peer's result. It includes graftpop's evaluation on a few
validation images and its calls through Ray. Each peer has its share of the cores.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from peers import NUM_CORES, peers_of, this_machine
from plain import PlainPeers
from turns import NUM_TURNS, Case, in_turns, report

MODELS = ("resnet20", "resnet32", "mobilenetv2")
PEERS = (1, 2, 4)
NUM_IMAGES = {"cpu": {"resnet20": 512, "resnet32": 512}, "cuda": {}}  # of all peers in a turn
OTHERWISE = {"cpu": 128, "cuda": 40_960}  # CIFAR-10 has 50,000
LARGEST_BATCH = 128
WANTED = {"cpu": 1.7, "cuda": 5.0}
VAL_IMAGES = 10
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--peers", nargs="+", type=int, default=PEERS)
    parser.add_argument("--turns", type=int, default=NUM_TURNS)
    given = parser.parse_args()

    with this_machine():
        cases = [measured(model, num_peers, given.turns) for model in given.models for num_peers in given.peers]
    report("training", "times the images/s of the plain recipe", WANTED[DEVICE], cases)


def measured(model: str, num_peers: int, num_turns: int) -> Case:
    images = NUM_IMAGES[DEVICE].get(model, OTHERWISE[DEVICE])
    each = images // num_peers
    batch = min(LARGEST_BATCH, each)
    with population(model, num_peers, each, batch) as train, tempfile.TemporaryDirectory() as folder:
        plain = PlainPeers(model, num_peers, Path(folder), NUM_CORES, batch)
        try:
            ours_s, plain_s = in_turns(train, lambda: plain.ask(f"train {each // batch}"), num_turns=num_turns)
        finally:
            plain.close()
    return Case(
        f"{model}, {num_peers} peer{'s' * (num_peers > 1)}",
        ours_s,
        plain_s,
        {"batch": batch, "graftpop, images/s": images / median(ours_s), "plain, images/s": images / median(plain_s)},
    )


@contextmanager
def population(model: str, num_peers: int, images_each: int, batch: int) -> Iterator[Callable[[], float]]:
    """Start peers; yield a function that trains all of them for an epoch of `images_each` images."""
    with peers_of(
        {
            "data": {
                "name": "cifar10",
                "max_train_images": images_each + VAL_IMAGES,
                "val_fraction": VAL_IMAGES / (images_each + VAL_IMAGES),
            },
            "model": {"name": model},
            "training": {"epochs": 10**4, "batch_size": batch},
            "population": {"num_peers": num_peers},
            "resources": {"cpus_per_peer": max(1, NUM_CORES // num_peers) if num_peers <= NUM_CORES else "auto"},
        }
    ) as ask:

        def train() -> float:
            start = time.perf_counter()
            rows = ask("train", dict.fromkeys(range(num_peers), (1,)))
            assert all(row["train_images"] == images_each for row in rows.values())
            return time.perf_counter() - start

        yield train


if __name__ == "__main__":
    main()
