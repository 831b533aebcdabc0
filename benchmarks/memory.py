"""Measure a node's memory per additional peer and per additional trial, against the plain recipe.

    python benchmarks/memory.py [--models resnet20 ...] [--turns 5]      about four minutes on 2 cores

Peers train on CIFAR-10 in batches of 128. The measure is the peak of their total proportional set size (PSS) during
training. A page shared by several processes counts once, so the data set, which all of them map, does too. The cost of
an additional peer is half the cost of two: once with a process per peer, once with all three peers in one process. An
additional trial also has a process that leads it; that is measured in a study with two trials at once.

The budget of an additional peer is 350 MB besides its weights and momentum. For reference, the benchmark reports the
memory of a process that only imports torch.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

import psutil
from peers import NUM_CORES, peers_of, this_machine
from plain import PlainPeers
from studies import started
from turns import NUM_TURNS, Case, report

MODELS = ("resnet20",)
FEW, MORE = 1, 3
BATCH, NUM_BATCHES = 128, 3
VAL_IMAGES = 10
BUDGET_MB = 350
MB = 1e6
LIMIT_S = 120.0
STUDY = """
name: memory
data: {name: digits}
model: {name: resnet20}
training: {epochs: 1000, lr: {grid: [0.05, 0.1]}}
population: {num_peers: 1}
resources: {cpus_per_peer: 0.5}
tune: {sampler: grid}
"""
SAMPLED_EVERY_S = 0.2
IDLE = [sys.executable, "-c", "import torch; print('imported', flush=True); input()"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--turns", type=int, default=NUM_TURNS)
    given = parser.parse_args()
    with this_machine():
        cases = [case for model in given.models for case in measured(model, given.turns)]
    leaders = [leading() for _ in range(given.turns)]
    imported = importing()
    report(
        "memory",
        "times the plain recipe's memory",
        1.0,
        cases,
        torch_alone_mb=round(imported),
        leading_a_trial_mb=[round(one) for one in leaders],
        wanted_mb_besides_weights=BUDGET_MB,
    )
    print(
        f"goal besides weights and momentum: at most {BUDGET_MB} MB; an additional trial: its peers and "
        f"{statistics.median(leaders):.0f} MB; `import torch` alone: {imported:.0f} MB"
    )


def measured(model: str, num_turns: int) -> list[Case]:
    ways: dict[str, list[float]] = {"a process each": [], "one process": []}
    plain = []
    for _ in range(num_turns):
        few, num_bytes = of_peers(model, FEW, 1)
        for together, further in zip((1, MORE), ways.values(), strict=True):
            further.append((of_peers(model, MORE, together)[0] - few) / (MORE - FEW))
        plain.append((of_plain(model, MORE) - of_plain(model, FEW)) / (MORE - FEW))
    weights = num_bytes / MB
    return [
        Case(
            f"{model}, {way}",
            further,
            plain,
            {
                "graftpop, MB": round(statistics.median(further), 1),
                "plain, MB": round(statistics.median(plain), 1),
                "weights and momentum, MB": round(weights, 1),
                "besides weights and momentum, MB": round(statistics.median(further) - weights, 1),
            },
        )
        for way, further in ways.items()
    ]


def of_peers(model: str, num_peers: int, together: int) -> tuple[float, int]:
    """Return the peak memory of some peers together in MB, and the bytes of one peer's weights and momentum.

    Args:
        model: name of the network.
        num_peers: number of peers.
        together: number of peers per process.
    """
    with peers_of(
        {
            "data": {
                "name": "cifar10",
                "max_train_images": BATCH * NUM_BATCHES + VAL_IMAGES,
                "val_fraction": VAL_IMAGES / (BATCH * NUM_BATCHES + VAL_IMAGES),
            },
            "model": {"name": model},
            "training": {"epochs": 10**4, "batch_size": BATCH},
            "population": {"num_peers": num_peers, "peers_per_actor": together},
            "resources": {"cpus_per_peer": min(1, NUM_CORES / num_peers)},
        }
    ) as ask:
        peers = range(num_peers)
        pids = set(ask("process_id", dict.fromkeys(peers, ())).values())
        most = most_of(pids, lambda: ask("train", dict.fromkeys(peers, (1,))))
        return most, len(ask("save", {0: ()})[0])


def of_plain(model: str, num_peers: int) -> float:
    """Return the peak memory of `num_peers` processes of the plain recipe with their workers, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        plain = PlainPeers(model, num_peers, Path(folder), NUM_CORES, BATCH)
        try:
            plain.ask("train 1")  # its workers start with the first batch
            pids = [number for root in plain.process_ids for number in with_children(root)]
            most = most_of(pids, lambda: plain.ask(f"train {NUM_BATCHES}"))
        finally:
            plain.close()
    return most


def leading() -> float:
    """Return the memory of a process that leads a trial, in MB, with two such processes running."""
    with tempfile.TemporaryDirectory() as folder, started(STUDY, Path(folder) / "study") as study:
        deadline = time.monotonic() + LIMIT_S
        records = study.run / "tune" / "records"
        while len(list(records.glob("*.rounds.parquet"))) < 2:
            if time.monotonic() > deadline or study.driver.poll() is not None:
                raise SystemExit(f"memory.py: no second trial within {LIMIT_S:g} s:\n{study.log()}")
            time.sleep(0.1)
        time.sleep(1.0)
        found = study.processes("trial")
        return sum(pss(process.pid) for process in found) / len(found)


def importing() -> float:
    """Return the memory of an additional process that only imports torch, in MB."""
    idle = [subprocess.Popen(IDLE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for process in idle:
            assert process.stdout
            process.stdout.readline()
        together = sum(pss(process.pid) for process in idle)
        idle[0].kill()
        idle[0].wait()
        return together - pss(idle[1].pid)
    finally:
        for process in idle:
            process.kill()
            process.wait()


def with_children(pid: int) -> list[int]:
    """Return the IDs of a process and all its descendants."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def most_of(pids: Collection[int], act: Callable[[], object]) -> float:
    """Return the peak of the processes' total memory in MB while `act` runs."""
    thread = threading.Thread(target=act)
    thread.start()
    most = 0.0
    while thread.is_alive():
        most = max(most, sum(map(pss, pids)))
        time.sleep(SAMPLED_EVERY_S)
    return most


def pss(pid: int) -> float:
    """Return the proportional set size of a process in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    match = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
    assert match
    return int(match[1]) * 1024 / MB


if __name__ == "__main__":
    main()
