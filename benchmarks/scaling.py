"""Measure rounds per second and CPU time for 1 to 64 simulated peers with a fixed training time.

    python benchmarks/scaling.py [--peers 1 64] [--rounds 7]      about four minutes on 2 cores

Each number of peers is one trial of Ray Tune with all parts of a round: calls to every peer, snapshots, grafts, states,
checkpoints, records. Only the peers' computation is simulated: a peer sleeps instead of training, and publishes fixed
weights of ResNet-20's size. All peers thus fit on this machine, and the additional time with more peers is the
framework's, on cores that all of them share. Each peer has its own process. Training takes 10 s; the additional time
per round does not depend on that.

The ratio is the round time of one peer, which does not exchange, divided by that of many. CPU time is per round, for
the driver and for the process that leads the trial.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import psutil
import safetensors.numpy
from turns import Case, report

from graftpop.cluster import actors, study
from graftpop.cluster.connection import Connection, connect
from graftpop.cluster.peer_actor import PeerActor
from graftpop.cluster.resources import ResourceRequest
from graftpop.cluster.trainable import PopulationTrainable
from graftpop.run.tables import RunFolder
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


class SimulatedPeer:
    """A peer that answers a population's calls without a network."""

    def __init__(self, index: int) -> None:
        self._index, self._epoch = index, 0
        weights = np.random.default_rng(index).standard_normal(NUM_WEIGHTS, dtype=np.float32)
        self._weights, self._predicted = weights, np.zeros(NUM_VAL, np.int64)
        self._state = safetensors.numpy.save(
            {"network/weights": weights, "momentum/weights": weights}, {"model_card": CARD}
        )

    def train(self, num_epochs: int) -> dict[str, Any]:
        time.sleep(STEP_S)
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

    def graft(self, donor: tuple[int, Any, Any]) -> dict[str, list[Any]]:
        self._weights = 0.5 * (self._weights + donor[1])
        floats, counts = [0.5] * NUM_SITES, [0] * NUM_SITES
        return {
            "receiver": [self._index] * NUM_SITES,
            "donor": [donor[0]] * NUM_SITES,
            "site": [f"layer{number}" for number in range(NUM_SITES)],
            "receiver_entropy_nats": floats,
            "donor_entropy_nats": floats,
            "alpha": floats,
            "num_invalid_before": counts,
            "num_invalid_after": counts,
        }

    def save(self) -> bytes:
        return self._state

    def load(self, state: bytes) -> None:
        raise AssertionError(f"SimulatedPeer.load: no peer is lost here, got {len(state)} bytes")

    def predict(self, split: str) -> tuple[Any, Any]:
        return np.zeros((NUM_VAL, 10), np.float32), self._predicted

    def ensemble_accuracy(self, *predictions: tuple[Any, Any]) -> float:
        return float(np.mean(sum(probability for probability, _ in predictions)))

    def cost(self) -> dict[str, int]:
        return {"parameters": NUM_WEIGHTS, "flops": 0}


class SimulatedActor(PeerActor):
    """An actor with simulated peers."""

    def __init__(
        self, settings: dict[str, Any], peers: Sequence[int], request: ResourceRequest, parts: bytes | None
    ) -> None:
        self._name = settings["name"]
        self._peers = {peer: SimulatedPeer(peer) for peer in peers}

    def call(self, peer: int, method: str, *arguments: Any) -> Any:
        return getattr(self._peers[peer], method)(*arguments)


class SimulatedTrainable(PopulationTrainable):
    """A trial with simulated peers; it also reports its process's CPU seconds per round after the first."""

    def step(self) -> dict[str, Any]:
        actors.PeerActor = SimulatedActor  # type: ignore[attr-defined, assignment]  # in this process alone
        result = super().step()
        spent = psutil.Process().cpu_times()
        spent_s = spent.user + spent.system
        if result["round"] == 1:
            self._first_spent_s = spent_s
        return result | {"leading_cpu_s": (spent_s - self._first_spent_s) / max(1, result["round"] - 1)}


class Watch:
    """Records when the driver saw each round, with the driver's CPU seconds until then."""

    def __init__(self) -> None:
        self.at: dict[int, tuple[float, float]] = {}
        self._process = psutil.Process()

    def __call__(self, trials: list[Trial]) -> None:
        spent = self._process.cpu_times()
        for trial in trials:
            if trial.round:
                self.at.setdefault(trial.round, (time.perf_counter(), spent.user + spent.system))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", nargs="+", type=int, default=PEERS, help="numbers of peers; the first is the baseline"
    )
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
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
    at, spent_s = zip(*(watch.at[number] for number in range(1, num_rounds)), strict=True)
    return [after - before for before, after in pairwise(at)], {
        "driver, CPU s a round": round((spent_s[-1] - spent_s[0]) / (len(at) - 1), 3),
        "leading, CPU s a round": round(trial.result["leading_cpu_s"], 3),
    }


if __name__ == "__main__":
    main()
