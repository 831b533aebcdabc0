"""Measure rounds per second and CPU time with up to 64 simulated peers, or the driver's cost with many trials.

    python benchmarks/scaling.py [--peers 1 64] [--rounds 7]      about four minutes on 2 cores
    python benchmarks/scaling.py --trials 1000 [--sampler random]  about half an hour on 2 cores
    python benchmarks/scaling.py --large 10 100 300 1000           about ten minutes on 2 cores

Each number of peers is one trial of Ray Tune with all parts of a round: calls to every peer, snapshots, grafts, states,
checkpoints, records. Only the peers' computation is simulated: a peer sleeps instead of training, and publishes fixed
weights of ResNet-20's size. All peers thus fit on this machine, and the additional time with more peers is the
framework's, on cores that all of them share. Each peer has its own process. Training takes 10 s; the additional time
per round does not depend on that.

The ratio is the round time of one peer, which does not exchange, divided by that of many. CPU time is per round, for
the driver and for the process that leads the trial.

With `--trials` a study of that many trials runs instead, each with one simulated peer that neither trains nor waits and
three rounds. Ray, Tune, records, checkpoints, tables and the report are real. The table has the CPU seconds of the
driver per trial, with its threads, as the mean over the trials around the named one; its memory; and the number of
files in the run folder. The ratio is the cost of the 10th trial divided by that of the last.

With `--large` each number of peers runs under each topology, without training and with small weights. Up to 16 peers
share a process, which stands for a node, so 1,000 peers are 63 processes. Topology `all` runs with up to 300 peers. The
table has the CPU seconds per round of the leading process and of the driver, the seconds per round of all processes on
this machine, the seconds to add a round to the trial's records after 200 rounds, and the memory of the leading process.
Two tables follow with the bytes per round between nodes and in their object stores, computed by `traffic.py`. The ratio
is the leading process's cost per peer with the fewest peers divided by that with the most, the smallest of the
topologies with one donor.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import psutil
import safetensors.numpy
from traffic import PEERS_PER_NODE, report_traffic, seconds_per_gb, text
from turns import Case, print_table, report

from graftpop.cluster import actors, study
from graftpop.cluster.connection import Connection, connect
from graftpop.cluster.peer_actor import PeerActor
from graftpop.cluster.resources import ResourceRequest
from graftpop.cluster.trainable import PopulationTrainable
from graftpop.metrics import ACCURACY
from graftpop.ops.topology import TOPOLOGIES
from graftpop.population import Round
from graftpop.run.provenance import run_provenance
from graftpop.run.run_folder import RunFolder
from graftpop.run.storage import Folder
from graftpop.run.trial_records import TrialRecords
from graftpop.space import parse_space
from graftpop.study.trials import Trial

STEP_S = 10.0
NUM_WEIGHTS, NUM_SITES = 274_442, 21  # of ResNet-20
NUM_VAL = 5_000
CARD = json.dumps(
    {"model": "resnet20", "num_classes": 10, "image_shape": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3}
)
PEERS = (1, 64)
WANTED = 0.9
CPUS_IN_ALL = 1.9
"""CPUs that all peers reserve together; they need none."""

TINY_WEIGHTS = 1_000
GROWTH_ROUNDS = 3
MEASURED_TRIALS = {10: 10, 100: 50, 400: 50, 1000: 50}
"""Trials at which the driver's cost is measured, with the number of trials around each that are averaged."""

WANTED_GROWTH = 1 / 1.2


LARGE_ROUNDS = 6
LARGE_WEIGHTS = 30_000
"""Ray copies smaller results through the leading process, instead of leaving them in their node's store."""

WANTED_LARGE = 0.5
MOST_IN_ALL = 300
"""Most peers with topology `all`, which passes a reference per pair of peers."""

RECORDED_ROUNDS = 200


class SimulatedPeer:
    """A peer that answers a population's calls without a network."""

    def __init__(self, index: int, step_s: float = STEP_S, num_weights: int = NUM_WEIGHTS) -> None:
        self._index, self._epoch, self._step_s = index, 0, step_s
        weights = np.random.default_rng(index).standard_normal(num_weights, dtype=np.float32)
        self._weights, self._predicted = weights, np.zeros(NUM_VAL, np.int64)
        self._state = safetensors.numpy.save(
            {"network/weights": weights, "momentum/weights": weights}, {"model_card": CARD}
        )

    def train(self, num_epochs: int) -> dict[str, Any]:
        time.sleep(self._step_s)
        self._epoch += num_epochs
        return {
            "peer": self._index,
            "epoch": self._epoch,
            "lr": 0.1,
            "train_loss": 1.0,
            "train_accuracy": 0.5,
            "val_loss": 1.0,
            "val_accuracy": 0.5,
            "num_invalid_filters": 0,
            "mean_entropy_nats": 1.0,
            "images_per_s": 1.0,
            "train_s": STEP_S,
            "train_images": 1,
            "diagnostics": [],
        }

    def publish(self) -> tuple[int, Any, Any]:
        return self._index, self._weights, self._predicted

    def exchange(self, *donors: tuple[int, Any, Any]) -> dict[str, Any]:
        self._weights = 0.5 * (self._weights + sum(donor[1] for donor in donors) / len(donors))
        floats, counts = [0.5] * NUM_SITES, [0] * NUM_SITES
        columns = {
            "receiver": [self._index] * NUM_SITES,
            "donor": [donors[0][0] if len(donors) == 1 else -1] * NUM_SITES,
            "site": [f"layer{number}" for number in range(NUM_SITES)],
            "receiver_entropy_nats": floats,
            "donor_entropy_nats": floats,
            "alpha": floats,
            "num_invalid_before": counts,
            "num_invalid_after": counts,
        }
        return {"figures": {}, "columns": columns}

    def save(self) -> bytes:
        return self._state

    def load(self, state: bytes) -> None:
        raise AssertionError(f"SimulatedPeer.load: no peer is lost here, got {len(state)} bytes")

    def predict(self, split: str) -> tuple[Any, Any]:
        return np.zeros((NUM_VAL, 10), np.float32), self._predicted

    def ensemble_scores(self, *predictions: tuple[Any, Any]) -> dict[str, float]:
        return {ACCURACY.name: float(np.mean(sum(probability for probability, _ in predictions)))}

    def cost(self) -> dict[str, int]:
        return {"parameters": NUM_WEIGHTS, "flops": 0}


class SimulatedActor(PeerActor):
    """An actor with simulated peers."""

    new_peer: Callable[[int], SimulatedPeer] = SimulatedPeer

    def __init__(
        self, settings: dict[str, Any], peers: Sequence[int], request: ResourceRequest, parts: bytes | None
    ) -> None:
        self._name = settings["name"]
        self.assign(settings, peers)

    def assign(self, settings: dict[str, Any], peers: Sequence[int]) -> None:
        self._peers = {peer: type(self).new_peer(peer) for peer in peers}

    def call(self, peer: int, method: str, *arguments: Any) -> Any:
        return getattr(self._peers[peer], method)(*arguments)


class TinyPeer(SimulatedPeer):
    """A simulated peer that is small and does not wait."""

    def __init__(self, index: int) -> None:
        super().__init__(index, 0.0, TINY_WEIGHTS)


class TinyActor(SimulatedActor):
    """An actor with small peers."""

    new_peer = TinyPeer


class LargeActor(SimulatedActor):
    """An actor whose peers do not wait and have the smallest weights that stay in a node's store."""

    @staticmethod
    def new_peer(index: int) -> SimulatedPeer:
        return SimulatedPeer(index, 0.0, LARGE_WEIGHTS)


class SimulatedTrainable(PopulationTrainable):
    """A trial with simulated peers; it also reports its process's CPU seconds per round after the first."""

    actor: type[SimulatedActor] = SimulatedActor

    def step(self) -> dict[str, Any]:
        actors.PeerActor = self.actor  # type: ignore[attr-defined]  # in this process alone
        result = super().step()
        process = psutil.Process()
        spent = process.cpu_times()
        spent_s = spent.user + spent.system
        if result["round"] == 1:
            self._first_spent_s = spent_s
        memory = process.memory_info()
        return result | {
            "leading_cpu_s": (spent_s - self._first_spent_s) / max(1, result["round"] - 1),
            "leading_bytes": memory.rss - memory.shared,
        }


class TinyTrainable(SimulatedTrainable):
    """A trial with simulated peers that are small and do not wait."""

    actor = TinyActor


class LargeTrainable(SimulatedTrainable):
    """A trial of a large population."""

    actor = LargeActor


class Watch:
    """Records when the driver saw each trial's rounds, with the driver's CPU seconds until then."""

    def __init__(self) -> None:
        self.at: dict[tuple[int, int], tuple[float, float]] = {}
        self._process = psutil.Process()

    def __call__(self, trials: list[Trial]) -> None:
        spent = self._process.cpu_times()
        for trial in trials:
            if trial.round:
                self.at.setdefault((trial.number, trial.round), (time.perf_counter(), spent.user + spent.system))


class WatchEnds:
    """Records the driver's CPU seconds and memory whenever a trial has ended, and the files of the run."""

    def __init__(self, folder: str) -> None:
        self.at: list[tuple[float, int]] = []
        self.files: dict[int, int] = {}
        self._folder, self._process = folder, psutil.Process()

    def __call__(self, trials: list[Trial]) -> None:
        over = sum(trial.is_over for trial in trials)
        if over > len(self.at):
            spent = self._process.cpu_times()
            memory = self._process.memory_info()
            self.at += [(spent.user + spent.system, memory.rss - memory.shared)] * (over - len(self.at))
            if over in MEASURED_TRIALS:
                self.files[over] = num_files(self._folder)
            if over % 100 == 0:
                print(f"{over} trials, {spent.user + spent.system:.1f} CPU s", file=sys.stderr, flush=True)


def num_files(folder: str) -> int:
    """Return the number of files below a folder."""
    return sum(len(files) for _, _, files in os.walk(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", nargs="+", type=int, default=PEERS, help="numbers of peers; the first is the baseline"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--trials", type=int, default=0, help="measure a study of so many trials instead")
    parser.add_argument("--sampler", default="random", choices=("random", "tpe"), help="with --trials: tune.sampler")
    parser.add_argument("--large", nargs="+", type=int, help="measure so many small peers under each topology instead")
    parser.add_argument("--topologies", nargs="+", default=tuple(TOPOLOGIES), help="with --large: the topologies")
    given = parser.parse_args()
    if given.large:
        print_large(given.large, given.topologies)
        return
    if given.trials:
        print_growth(given.trials, given.sampler)
        return
    if given.rounds < 3:
        parser.error(f"--rounds: must be 3 or more, since the first and the last are left out, got {given.rounds}")
    study.PopulationTrainable = SimulatedTrainable  # type: ignore[attr-defined]  # the driver's, in this process
    with connect(None) as connection:
        measured = [run(num_peers, given.rounds, connection) for num_peers in given.peers]
    first_s, _ = measured[0]
    cases = [
        Case(
            f"{num_peers} peers",
            seconds,
            first_s,
            {
                "s a round": round(statistics.median(seconds), 3),
                "ms longer, a peer": round(
                    1000 * (statistics.median(seconds) - statistics.median(first_s)) / (num_peers - given.peers[0]), 1
                ),
                **shown,
            },
        )
        for num_peers, (seconds, shown) in zip(given.peers[1:], measured[1:], strict=True)
    ]
    report("scaling", f"times the rounds/s of {given.peers[0]} peer", WANTED, cases, step_s=STEP_S)


def print_growth(num_trials: int, sampler: str) -> None:
    """Run a study of many trials; print a table of the driver's cost, and one line of JSON."""
    study.PopulationTrainable = TinyTrainable  # type: ignore[attr-defined]  # the driver's, in this process
    space = parse_space(
        {
            "name": "growth",
            "data": {"name": "digits"},
            "training": {"epochs": GROWTH_ROUNDS, "lr": {"loguniform": [0.01, 1.0]}},
            "population": {"num_peers": 1},
            "tune": {"num_samples": num_trials, "sampler": sampler},
            "resources": {"cpus_per_peer": CPUS_IN_ALL},
        }
    )
    with tempfile.TemporaryDirectory() as folder, connect(None) as connection:
        watch, run_folder = WatchEnds(folder), RunFolder(folder)
        run_folder.write_text("space.yaml", space.to_yaml())  # the report reads both
        run_folder.write_text("run.json", json.dumps(run_provenance([], 0)))
        trials = study.run_study(space, run_folder, connection, watch)
        files = num_files(folder)
    unfinished = [trial for trial in trials if trial.status != "completed"]
    if unfinished:
        raise SystemExit(f"scaling.py: trial {unfinished[0].number}: {unfinished[0].status}: {unfinished[0].error}")
    cases = []
    for number, around in MEASURED_TRIALS.items():
        if number <= num_trials:
            last = min(number + around // 2, num_trials)
            first = last - around
            (spent_s, _), (before_s, _) = watch.at[last - 1], watch.at[max(first - 1, 0)]
            cases.append(
                {
                    "trial": number,
                    "driver, CPU s": round((spent_s - before_s) / (last - max(first, 1)), 4),
                    "driver, MB": round(watch.at[number - 1][1] / 1e6, 1),
                    "files": watch.files[number],
                }
            )
    print_table(list(cases[0]), [[f"{value:,}" for value in case.values()] for case in cases])
    grown = (watch.at[-1][1] - watch.at[num_trials // 2 - 1][1]) / (num_trials - num_trials // 2)
    ratio = cases[0]["driver, CPU s"] / cases[-1]["driver, CPU s"]
    print(
        f"\nfiles at the end {files:,}; memory over the second half {grown / 1000:.1f} KB per trial, goal at most 50; "
        f"ratio {ratio:.2f}, goal at least {WANTED_GROWTH:.2f}"
    )
    provenance = run_provenance([], 0)
    print(
        json.dumps(
            {
                "name": "growth",
                "ratio": round(ratio, 3),
                "unit": "cost of the 10th trial, by that of the last",
                "wanted": round(WANTED_GROWTH, 3),
                "sampler": sampler,
                "trials": num_trials,
                "cases": cases,
                "files": files,
                "bytes_per_trial": round(grown),
                **{name: provenance[name] for name in ("hardware", "git", "versions")},
            }
        ),
        flush=True,
    )


def print_large(peers: Sequence[int], topologies: Sequence[str]) -> None:
    """Run populations under each topology; print tables of the processes' cost and of the traffic, and JSON."""
    study.PopulationTrainable = LargeTrainable  # type: ignore[attr-defined]  # the driver's, in this process
    with connect(None) as connection:
        copy_s = seconds_per_gb()
        cases = [case for num_peers in peers for case in run_topologies(num_peers, topologies, connection)]
    print_table(list(cases[0]), [[text(value) for value in case.values()] for case in cases])
    cost = {(case["topology"], case["peers"]): case["leading, CPU s"] / case["peers"] for case in cases}
    ratio = min(cost[name, min(peers)] / cost[name, max(peers)] for name in topologies if name != "all")
    print(f"\nratio {ratio:.2f}, goal at least {WANTED_LARGE}\n")
    traffic = report_traffic(peers, copy_s)
    provenance = run_provenance([], 0)
    line = {
        "name": "large",
        "ratio": round(ratio, 3),
        "unit": "leading process's CPU per peer, fewest peers by most",
        "wanted": WANTED_LARGE,
        "cases": cases,
        "traffic": traffic,
        **{name: provenance[name] for name in ("hardware", "git", "versions")},
    }
    print(json.dumps(line), flush=True)


def records_s(num_peers: int) -> float:
    """Return the seconds to add a round to the records of many, and to write them."""
    grafts = {
        column: values * num_peers
        for column, values in SimulatedPeer(0, 0.0, 1).exchange((0, np.zeros(1, np.float32), None))["columns"].items()
    }
    grafts |= {column: [0] * len(grafts["site"]) for column in ("round", "staleness")}
    many = {column: values * RECORDED_ROUNDS for column, values in grafts.items()}
    with tempfile.TemporaryDirectory() as folder:
        records = TrialRecords(Folder(folder), "00000", [ACCURACY])
        records.add_round(Round(1, False, [], many))
        start = time.perf_counter()
        records.add_round(Round(1, False, [], grafts))
        records.write()
        return round(time.perf_counter() - start, 3)


def run_topologies(num_peers: int, topologies: Sequence[str], connection: Connection) -> list[dict[str, Any]]:
    """Run one trial per topology; return the CPU seconds per round by process."""
    together, written_s = min(PEERS_PER_NODE, num_peers), records_s(num_peers)
    topologies = [name for name in topologies if name != "all" or num_peers <= MOST_IN_ALL]
    space = parse_space(
        {
            "name": "large",
            "data": {"name": "digits"},
            "training": {"epochs": LARGE_ROUNDS},
            "population": {"num_peers": num_peers, "peers_per_actor": together, "topology": {"grid": list(topologies)}},
            "graft": {},
            "tune": {"sampler": "grid"},
            "resources": {"cpus_per_peer": math.floor(10_000 * CPUS_IN_ALL / num_peers) / 10_000},
        }
    )
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        run_folder = RunFolder(folder)
        run_folder.write_text("space.yaml", space.to_yaml())  # the report reads both
        run_folder.write_text("run.json", json.dumps(run_provenance([], 0)))
        trials = study.run_study(space, run_folder, connection, watch)
    cases = []
    for trial in trials:
        if trial.status != "completed":
            raise SystemExit(f"scaling.py: {num_peers} peers: {trial.status}: {trial.error}")
        (first_s, spent_s), (last_s, all_s) = watch.at[trial.number, 1], watch.at[trial.number, LARGE_ROUNDS - 1]
        cases.append(
            {
                "topology": trial.sample["population.topology"],
                "peers": num_peers,
                "leading, CPU s": round(trial.result["leading_cpu_s"], 3),
                "driver, CPU s": round((all_s - spent_s) / (LARGE_ROUNDS - 2), 3),
                "all processes, s": round((last_s - first_s) / (LARGE_ROUNDS - 2), 3),
                "records, s": written_s,
                "leading, MB": round(trial.result["leading_bytes"] / 1e6),
            }
        )
    return cases


def run(num_peers: int, num_rounds: int, connection: Connection) -> tuple[list[float], dict[str, float]]:
    """Run one trial; return the seconds of each round, and the CPU seconds per round by process."""
    space = parse_space(
        {
            "name": "scaling",
            "data": {"name": "digits"},
            "training": {"epochs": num_rounds},
            "population": {"num_peers": num_peers},
            **({"graft": {}} if num_peers > 1 else {}),
            "tune": {"num_samples": 1},
            "resources": {"cpus_per_peer": round(CPUS_IN_ALL / num_peers, 4)},
        }
    )
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        (trial,) = study.run_study(space, RunFolder(folder), connection, watch)
    if trial.status != "completed":
        raise SystemExit(f"scaling.py: {num_peers} peers: {trial.status}: {trial.error}")
    # without the first round, which starts the peers, and the last, which evaluates them on the test set
    at, spent_s = zip(*(watch.at[trial.number, number] for number in range(1, num_rounds)), strict=True)
    return [after - before for before, after in pairwise(at)], {
        "driver, CPU s a round": round((spent_s[-1] - spent_s[0]) / (len(at) - 1), 3),
        "leading, CPU s a round": round(trial.result["leading_cpu_s"], 3),
    }


if __name__ == "__main__":
    main()
