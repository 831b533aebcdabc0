"""Measure a study's recovery from the loss of a peer and of a node, and a trial's bytes on disk.

    python benchmarks/recovery.py                  about four minutes on 2 cores

In one study on this machine, a peer's process is killed three times. Another study runs on a cluster of six nodes, each
in its own namespaces, with Ray's defaults. There, three times, a node with a peer dies with its address, and another
node has room for the peer. The node with the process that leads the trial is spared: without that process, a trial
resumes from its checkpoint. Without permission for namespaces, no node dies.

The kernel closes a dead node's connections, so the loss is noticed at once. But Ray places the peer elsewhere only
after its health check fails, as after a loss of power or network.

Each kill is at a random moment of a round. Prints a table and one JSON line.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq
from safetensors.numpy import load_file
from studies import Study, has_namespaces, read_rows, started

T = TypeVar("T")

NUM_PEERS, NUM_ROUNDS = 2, 30
KILLED_AFTER = (5, 12, 19)
CPUS = (0, 1, 1, 1, 1, 1)  # no peer on the head, and a spare node for each that dies
SPACE = f"""
name: recovery
data: {{name: digits}}
model: {{name: resnet8}}
training: {{epochs: {NUM_ROUNDS}, batch_size: 64, schedule: cosine, precision: float32}}
population: {{num_peers: {NUM_PEERS}}}
graft: {{A: 0.4}}
tune: {{sampler: grid}}
"""
TRIAL = "00000"
LIMIT_S = 180.0
POLL_S = 0.01


class Watched:
    """A study of one trial, with the time at which each round was recorded, in seconds since 1970."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.at: dict[int, float] = {}
        self._records = study.run / "tune" / "records"

    def wait_for(self, find: Callable[[], T | None], what: str) -> T:
        """Wait until `find` returns a result, and note the times of rounds meanwhile."""
        deadline = time.monotonic() + LIMIT_S
        while (found := find()) is None:
            assert time.monotonic() < deadline, f"no {what} within {LIMIT_S:g} s:\n{self.study.log()}"
            time.sleep(POLL_S)
            self._look()
        return found

    def wait_for_round(self, number: int) -> None:
        """Wait until a round, or a later one, is recorded."""
        self.wait_for(lambda: max(self.at, default=0) >= number or None, f"round {number}")

    def wait_for_event(self, name: str, since: float) -> dict[str, Any]:
        """Wait for the first event with a name after a given time; events are recorded with their round."""
        file = self._records / f"{TRIAL}.events.parquet"
        return self.wait_for(
            lambda: next(
                (row for row in read_rows(file) if row["event"] == name and row["at"].timestamp() > since), None
            ),
            f"event '{name}'",
        )

    def _look(self) -> None:
        file = self._records / f"{TRIAL}.rounds.parquet"
        if not file.exists():
            return
        with file.open("rb") as stream:  # the path may be replaced between stat and read
            recorded_at = os.fstat(stream.fileno()).st_mtime
            if recorded_at not in self.at.values() and (rounds := pq.read_table(stream)["round"].to_pylist()):
                self.at.setdefault(max(rounds), recorded_at)


def recoveries(study: Study, kill: Callable[[Study], None], rng: random.Random) -> dict[str, list[float]]:
    """Kill a peer or node after each round of `KILLED_AFTER`, and return durations in seconds, one per kill.

    The durations are until the loss is `noticed`, until the peer is `back`, and until the `next_round` is recorded.
    `round` has the durations of undisturbed rounds.
    """
    watched = Watched(study)
    turns: dict[str, list[float]] = {"noticed": [], "back": [], "next_round": []}
    disturbed: set[int] = set()
    for number in KILLED_AFTER:
        watched.wait_for_round(number)
        time.sleep(rng.uniform(0.0, watched.at[number] - watched.at[number - 1]))
        killed_at = time.time()
        kill(study)
        lost = watched.wait_for_event("lost", killed_at)
        back = watched.wait_for_event("replaced", lost["at"].timestamp())
        watched.wait_for_round(lost["round"])
        turns["noticed"].append(lost["at"].timestamp() - killed_at)
        turns["back"].append(back["at"].timestamp() - killed_at)
        turns["next_round"].append(watched.at[lost["round"]] - killed_at)
        disturbed.update(range(number + 1, lost["round"] + 2))
    watched.wait_for_round(NUM_ROUNDS)
    assert study.driver.wait(LIMIT_S) == 0, study.log()
    calm = [number for number in watched.at if number - 1 in watched.at and number not in disturbed]
    return turns | {"round": [watched.at[number] - watched.at[number - 1] for number in calm if number < NUM_ROUNDS]}


def kill_peer(study: Study, rng: random.Random) -> None:
    """Kill the process of a peer."""
    assert study.kill("peer", rng), "no peer runs"


def kill_node_of_peer(study: Study, rng: random.Random) -> None:
    """Kill a node with a peer and without the process that leads the trial."""
    study.kill_node(
        rng.choice(
            [node for node in study.nodes if study.processes("peer", node) and not study.processes("trial", node)]
        )
    )


def spread(values: list[float]) -> dict[str, float]:
    """Return median, minimum, maximum and number of some values."""
    return {
        "median": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
        "turns": len(values),
    }


def bytes_on_disk(run: Path) -> dict[str, int]:
    """Return the bytes that a finished study's trial has on disk, and those of all peers' weights and momentum."""
    checkpoints = sorted((run / "tune" / "checkpoints" / TRIAL).iterdir())
    state = sum(
        array.nbytes for file in checkpoints[-1].glob("peer-*.safetensors") for array in load_file(file).values()
    )
    return {
        "peers": NUM_PEERS,
        "rounds": NUM_ROUNDS,
        "checkpoints": len(checkpoints),
        "weights_and_momentum": state,
        "on_disk_checkpoints": sum(file.stat().st_size for folder in checkpoints for file in folder.iterdir()),
        "on_disk_records": sum(file.stat().st_size for file in (run / "tune" / "records").glob(f"{TRIAL}.*.parquet")),
    }


def print_tables(figures: dict[str, dict[str, dict[str, float]]], disk: dict[str, int]) -> None:
    """Print the tables."""
    print(f"\n{'seconds, median (min-max)':26}{'a peer dies':>24}{'its node dies':>24}")
    names = {
        "noticed": "until it is noticed",
        "back": "until the peer is back",
        "next_round": "until the next round",
        "round": "an undisturbed round",
    }
    for name, text in names.items():
        cells = [figures[what][name] if what in figures else None for what in ("peer", "node")]
        shown = [f"{cell['median']:.2f} ({cell['min']:.2f}-{cell['max']:.2f})" if cell else "-" for cell in cells]
        print(f"{text:26}{shown[0]:>24}{shown[1]:>24}")
    state, kept = disk["weights_and_momentum"], disk["on_disk_checkpoints"]
    print(
        f"\n{disk['peers']} peers' weights and momentum: {state:,} bytes; {disk['checkpoints']} checkpoints on disk: "
        f"{kept:,} bytes ({kept / state:.2f} times); records of {disk['rounds']} rounds: "
        f"{disk['on_disk_records']:,} bytes\n",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seed for the victims and moments of the kills")
    rng = random.Random(parser.parse_args().seed)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        with started(SPACE, Path(folder) / "peer") as study:
            figures["peer"] = recoveries(study, lambda study: kill_peer(study, rng), rng)
            disk, provenance = bytes_on_disk(study.run), json.loads((study.run / "run.json").read_text())
        if has_namespaces():
            with started(SPACE, Path(folder) / "node", *CPUS) as study:
                figures["node"] = recoveries(study, lambda study: kill_node_of_peer(study, rng), rng)
        else:
            print("no node dies: network namespaces are not permitted here, or `unshare` is not installed")
    shown = {what: {name: spread(values) for name, values in turns.items()} for what, turns in figures.items()}
    print_tables(shown, disk)
    print(
        json.dumps(
            {
                "name": "recovery",
                "unit": "s",
                "hardware": provenance["hardware"],
                "git": provenance["git"],
                "versions": provenance["versions"],
                "figures": shown,
                "bytes": disk,
            }
        )
    )


if __name__ == "__main__":
    main()
