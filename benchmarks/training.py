"""Measure images per second of a training population, against two baselines in as many processes.

    python benchmarks/training.py [--models resnet20 ...] [--peers 1 2 4] [--turns 5] [--baselines plain competent]

The baselines are the plain recipe (`plain.py`) and the loop of an experienced user (`competent.py`). Each has its
tables and lines of JSON, one per goal. CIFAR-10 from GRAFTPOP_DATA. All train the same networks on equal numbers of
augmented images and equal batch sizes; graftpop and the competent loop train in the precision that `auto` selects. In
each turn, one population trains an epoch of few images while the others are idle. The time is from the request to the
last peer's result. It includes graftpop's evaluation on a few validation images and its calls through Ray. Each peer
has its share of the cores; `taskset -c 0` before the command leaves one core to all.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import torch
from competent import CompetentPeers
from peers import NUM_CORES, peers_of, this_machine
from plain import PlainPeers
from turns import NUM_TURNS, Case, in_turns, report

BASELINES = {"plain": PlainPeers, "competent": CompetentPeers}
MODELS = ("resnet20", "resnet32", "torchvision:resnet18", "mobilenetv2")
PEERS = (1, 2, 4)
NUM_IMAGES = {"cpu": {"mobilenetv2": 512}, "cuda": {}}  # of all peers
OTHERWISE = {"cpu": 2_048, "cuda": 40_960}  # CIFAR-10 has 50,000
LARGEST_BATCH = 128
WANTED = {"cpu": 1.7, "cuda": 5.0}
WANTED_OF_COMPETENT = {"mobilenetv2": 2.0}
OTHERWISE_OF_COMPETENT = 1.25
VAL_IMAGES = 10
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--peers", nargs="+", type=int, default=PEERS)
    parser.add_argument("--turns", type=int, default=NUM_TURNS)
    parser.add_argument("--baselines", nargs="+", choices=BASELINES, default=list(BASELINES))
    given = parser.parse_args()

    found: dict[tuple[str, float], list[Case]] = {}
    with this_machine():
        for model in given.models:
            for num_peers in given.peers:
                for baseline, case in measured(model, num_peers, given.baselines, given.turns).items():
                    found.setdefault((baseline, wanted(baseline, model)), []).append(case)
    for (baseline, goal), cases in found.items():
        print(f"\nbaseline: {baseline}")
        report("training", f"times the images/s of the {baseline} baseline", goal, cases, baseline=baseline)


def wanted(baseline: str, model: str) -> float:
    """Return the smallest acceptable ratio."""
    return WANTED[DEVICE] if baseline == "plain" else WANTED_OF_COMPETENT.get(model, OTHERWISE_OF_COMPETENT)


def measured(model: str, num_peers: int, baselines: Sequence[str], num_turns: int) -> dict[str, Case]:
    """Return the case of each baseline, by its name; all are measured in the same turns."""
    images = NUM_IMAGES[DEVICE].get(model, OTHERWISE[DEVICE])
    each = images // num_peers
    batch = min(LARGEST_BATCH, each)
    with (
        population(model, num_peers, each, batch) as train,
        tempfile.TemporaryDirectory() as folder,
        ExitStack() as ends,
    ):
        ways: list[Callable[[], float]] = [train]
        for baseline in baselines:
            processes = BASELINES[baseline](model, num_peers, Path(folder), NUM_CORES, batch)
            ends.callback(processes.close)
            ways.append(partial(processes.ask, f"train {each // batch}"))
        ours_s, *theirs_s = in_turns(*ways, num_turns=num_turns)
    return {
        baseline: Case(
            f"{model}, {num_peers} peer{'s' * (num_peers > 1)}",
            ours_s,
            seconds,
            {
                "batch": batch,
                "graftpop, images/s": images / median(ours_s),
                f"{baseline}, images/s": images / median(seconds),
            },
        )
        for baseline, seconds in zip(baselines, theirs_s, strict=True)
    }


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
