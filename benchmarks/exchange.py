"""Measure an exchange, from publishing to the last graft, against the plain recipe and a copy in memory.

    python benchmarks/exchange.py [--models resnet32 ...] [--peers 2 8] [--turns 5]
    python benchmarks/exchange.py --steps [--models resnet20] [--peers 2 4]

Peers run in Ray actors on this machine, in a ring, as in a trial. The plain recipe exchanges weights through files in a
temporary folder. The copy moves as many bytes as all peers publish, buffer by buffer in one process, into memory that
was written before. The alignment of a donor (`align: {}`) is measured apart, in one thread of this process.

With `--steps`, peers exchange after every optimizer step. The table has the milliseconds by which a step takes longer
than without an exchange, in alternating turns, on images of 8 x 8 pixels, where training is short. The copy then is of
the weights of all peers, which every peer gathers.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from peers import NUM_CORES, peers_of, this_machine
from plain import PlainPeers
from turns import NUM_TURNS, Case, in_turns, print_table, report

from graftpop.exchange.alignment import Alignment
from graftpop.models import build
from graftpop.sites.channel_groups import find_channel_groups
from graftpop.training.flat_state import FlatState

MODELS = ("resnet32", "mobilenetv2", "torchvision:resnet50")
PEERS = (2, 8)
ALIGNED = ("resnet8", "resnet20", "vgg16")
STEP_RULES: Mapping[str, Mapping[str, Any]] = {
    "papa": {"papa": {}},
    "graft": {"graft": {}},
    "graft and align": {"graft": {}, "align": {}},
    "wash": {"wash": {}},
    "sparta": {"sparta": {}},
    "outer": {"outer": {}},
}
BATCH, NUM_STEPS = 32, 32
LARGE_BYTES = 10_000_000
MOST_COPIES = 4.0
BYTES_A_WEIGHT = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--peers", nargs="+", type=int, default=PEERS)
    parser.add_argument("--turns", type=int, default=NUM_TURNS)
    parser.add_argument("--steps", action="store_true")
    given = parser.parse_args()
    if given.steps:
        with this_machine():
            for model, num_peers in itertools.product(given.models, given.peers):
                print_steps(model, num_peers, given.turns)
        return

    cases = []
    with this_machine():
        for model, num_peers in itertools.product(given.models, given.peers):
            with exchanging(model, num_peers) as (exchange, num_bytes):
                cases.append(measured(model, num_peers, given.turns, exchange, num_bytes))
    large = [case for case in cases if float(case.shown["MB a peer"]) * 1e6 >= LARGE_BYTES]
    most = max((case.shown["times a copy"] for case in large), default=None)
    report(
        "exchange",
        "times as fast as the plain recipe",
        1.0,
        cases,
        times_a_copy=most,
        wanted_times_a_copy=MOST_COPIES,
        alignment_ms=(of_alignment := {name: round(alignment_ms(name, given.turns), 1) for name in ALIGNED}),
    )
    for name, milliseconds in of_alignment.items():
        print(f"alignment of a donor, {name}, one thread: {milliseconds} ms")
    if large:
        print(f"of {LARGE_BYTES / 1e6:g} MB and more: at most {most} times a copy, goal below {MOST_COPIES:g}")


def measured(model: str, num_peers: int, num_turns: int, exchange: Callable[[], float], num_bytes: int) -> Case:
    with tempfile.TemporaryDirectory() as folder:
        plain = PlainPeers(model, num_peers, Path(folder), NUM_CORES)
        try:
            ours_s, plain_s, copy_s = in_turns(
                exchange, lambda: plain.ask("exchange"), copying(num_peers, num_bytes), num_turns=num_turns
            )
        finally:
            plain.close()
    copies = median(own / copy for own, copy in zip(ours_s, copy_s, strict=True))
    return Case(
        f"{model}, {num_peers} peers",
        ours_s,
        plain_s,
        {
            "MB a peer": round(num_bytes / 1e6, 1),
            "graftpop, ms": round(1000 * median(ours_s), 1),
            "plain, ms": round(1000 * median(plain_s), 1),
            "copy, ms": round(1000 * median(copy_s), 2),
            "times a copy": round(copies, 2),
        },
    )


def print_steps(model: str, num_peers: int, num_turns: int) -> None:
    """Print what an exchange after every step costs by each rule."""
    num_bytes = BYTES_A_WEIGHT * sum(tensor.numel() for tensor in build(model, 10).parameters())
    rows = []
    for name, rule in STEP_RULES.items():
        with training(model, num_peers, {}) as plain, training(model, num_peers, rule) as own:
            plain_s, own_s, copy_s = in_turns(plain, own, copying(num_peers, num_bytes), num_turns=num_turns)
        more = [1000 * (one - other) / NUM_STEPS for one, other in zip(own_s, plain_s, strict=True)]
        texts = (1000 * median(plain_s) / NUM_STEPS, median(more), min(more), max(more), 1000 * median(copy_s))
        rows.append([name, *(f"{value:.2f}" for value in texts)])
    print(f"\n{model}, {num_peers} peers, {num_bytes / 1e6:.2f} MB each")
    print_table(["rule", "step alone, ms", "exchange, ms", "from", "to", "copy of all, ms"], rows)


@contextmanager
def training(model: str, num_peers: int, rule: Mapping[str, Any]) -> Iterator[Callable[[], float]]:
    """Start peers; yield a function that trains all of them for an epoch and returns the seconds of the slowest."""
    tree = {
        "data": {"name": "digits", "max_train_images": BATCH * NUM_STEPS + BATCH, "val_fraction": 1 / (NUM_STEPS + 1)},
        "model": {"name": model},
        "training": {"epochs": 10**4, "batch_size": BATCH},
        "population": {"num_peers": num_peers, **({"exchange_every": 1} if rule else {})},
        "resources": {"cpus_per_peer": NUM_CORES / (2 * num_peers)},  # two populations at a time
        **rule,
    }
    with peers_of(tree) as ask:

        def train() -> float:
            rows = ask("train", dict.fromkeys(range(num_peers), (1,)))
            return max(float(row["train_s"]) for row in rows.values())

        yield train


def alignment_ms(model: str, num_turns: int) -> float:
    """Return the median duration of the alignment of one network to another, both with initial weights."""
    torch.set_num_threads(1)
    network, donor = build(model, 10), build(model, 10)
    alignment = Alignment(FlatState(network), find_channel_groups(network, (3, 32, 32), model))
    theirs = FlatState(donor).buffer

    def align() -> float:
        weights, start = theirs.clone(), time.perf_counter()
        alignment.align_(weights)
        return time.perf_counter() - start

    return 1000 * median(in_turns(align, num_turns=num_turns)[0])


def copying(num_peers: int, num_bytes: int) -> Callable[[], float]:
    sources = [np.ones(num_bytes, np.uint8) for _ in range(num_peers)]
    targets = [np.zeros(num_bytes, np.uint8) for _ in range(num_peers)]

    def copy() -> float:
        start = time.perf_counter()
        for target, source in zip(targets, sources, strict=True):
            np.copyto(target, source)
        return time.perf_counter() - start

    return copy


@contextmanager
def exchanging(model: str, num_peers: int) -> Iterator[tuple[Callable[[], float], int]]:
    """Start peers; yield a function that runs one exchange, and the bytes that each peer publishes."""
    with peers_of(
        {"data": {"name": "digits"}, "model": {"name": model}, "population": {"num_peers": num_peers}, "graft": {}}
    ) as ask:

        def exchange() -> float:
            start = time.perf_counter()
            snapshots = ask("publish", dict.fromkeys(range(num_peers), ()), result_mode="ref")
            ask("exchange", {peer: (snapshots[(peer - 1) % num_peers],) for peer in snapshots})
            return time.perf_counter() - start

        yield exchange, BYTES_A_WEIGHT * ask("cost", {0: ()})[0]["parameters"]


if __name__ == "__main__":
    main()
