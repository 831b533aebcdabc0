"""Kill peers, trials, drivers and nodes of small studies at random moments; compare with an undisturbed study.

    python benchmarks/chaos.py                     20 kills
    python benchmarks/chaos.py --kills 100 --seed 3

Every second study runs on a cluster of three nodes, each in its own namespaces. Any node except the head may die; a new
node replaces it. The other studies run on this machine. Without permission for namespaces, all studies do, and no node
dies.

A grid study must end with the same trials, each row of its records once, and bit-identical weights. A study with Optuna
and ASHA, whose trials depend on timing, must end with every trial ended once and complete records. Prints one line per
kill and one JSON line at the end.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from nodes import SEEN_DEAD_SOON
from safetensors.torch import load_file
from studies import KINDS, KINDS_ON_NODES, Study, has_namespaces, rounds_done, started

LIMIT_S = 900.0
REFUSED = 2
REFUSAL_LIMIT_S = 120.0
MAX_WITHOUT_KILL = 3  # studies in a row; more mean that victims are not found
TIMED = {"images_per_s", "train_s", "exchange_s"}
CPUS = (0, 1, 1)  # a trial needs both nodes that can die, so each death affects it

NUM_ROUNDS = 24
COMMON = """
name: chaos
data: {name: digits, max_train_images: 600}
model: {name: resnet8}
training: {epochs: NUM_ROUNDS, batch_size: 64, schedule: cosine, precision: float32}
population: {num_peers: 2, max_peer_restarts: 1000}
"""
SPACES = {
    "grid": COMMON + "graft: {A: {grid: [0.2, 0.4]}}\ntune: {sampler: grid, max_failures: 1000}\n",
    "optuna": COMMON + "graft: {A: {uniform: [0.0, 1.0]}, c: {loguniform: [1, 500]}}\n"
    "tune: {sampler: tpe, scheduler: asha, num_samples: 4, max_failures: 1000}\n",
}
NUM_TRIALS = {"grid": 2, "optuna": 4}


def disturb(
    study: Study, rng: random.Random, num_kills: int, kinds: tuple[str, ...], due: list[str]
) -> Iterator[dict[str, Any]]:
    """Kill processes and nodes of a study until it ends; yield for each kill its kind, victim and number of rounds.

    `due` has the kinds that are next in turn, also in the next study; it is refilled with `kinds`.
    """
    deadline = time.monotonic() + LIMIT_S
    done, node_killed_at = 0, -REFUSAL_LIMIT_S
    while True:
        if study.driver.poll() is not None:
            # a driver that starts while a node dies exits with an error; its user would start it again
            if study.driver.returncode != REFUSED or time.monotonic() - node_killed_at > REFUSAL_LIMIT_S:
                return
            print(f"  refused: {study.log().splitlines()[-1]}", flush=True)
            study.resume()
        if time.monotonic() > deadline:
            raise AssertionError(f"{study.run}: not finished within {LIMIT_S:g} s, {done} kills:\n{study.log()}")
        if done == num_kills:
            time.sleep(0.1)
            continue
        if not set(due) & set(kinds):
            due += rng.sample(kinds, len(kinds))
        kind = next(kind for kind in due if kind in kinds)
        if rng.random() < 0.8:  # in one of the next rounds; else at any moment, including the start of Ray
            study.wait_for_rounds(rounds_done(study.run) + rng.randint(1, 6), deadline - time.monotonic())
            time.sleep(rng.uniform(0.0, 0.5))
        else:
            time.sleep(rng.uniform(0.0, 15.0))
        if study.driver.poll() is not None or not (victim := study.kill(kind, rng)):
            continue
        due.remove(kind)
        done += 1
        yield {"kind": kind, "victim": victim, "round": rounds_done(study.run)}
        if kind == "driver":
            study.driver.wait()
            study.resume()
        if kind == "node":
            node_killed_at = time.monotonic()
            study.add_node()


def check_ended_well(study: Study, num_trials: int, num_rounds: int) -> None:
    """Check that every trial ended once and its records are complete."""
    assert study.driver.returncode == 0, f"{study.run}: ended with {study.driver.returncode}:\n{study.log()}"
    trials = pq.read_table(study.run / "trials.parquet").to_pylist()
    assert [row["trial_id"] for row in trials] == [f"{number:05}" for number in range(num_trials)], trials
    rounds = pq.read_table(study.run / "rounds.parquet").to_pylist()
    for trial in trials:
        assert trial["status"] in ("completed", "stopped"), trial
        own = [(row["round"], row["peer"]) for row in rounds if row["trial_id"] == trial["trial_id"]]
        assert own == [(round_, peer) for round_ in range(1, len(own) // 2 + 1) for peer in (0, 1)], own
        assert (len(own) == 2 * num_rounds) == (trial["status"] == "completed"), trial
    assert sum(row["trial_id"] in {trial["trial_id"] for trial in trials} for row in rounds) == len(rounds)


def check_equal(study: Study, calm: Study) -> None:
    """Check that two runs of a grid have equal records and bit-identical weights."""
    for name in ("rounds", "grafts", "diagnostics"):
        tables = [pq.read_table(each.run / f"{name}.parquet") for each in (study, calm)]
        disturbed, undisturbed = (table.drop_columns(sorted(TIMED & set(table.column_names))) for table in tables)
        assert disturbed.equals(undisturbed), f"{name}.parquet of {study.run} differs from {calm.run}"
    for trial in sorted((calm.run / "tune" / "checkpoints").iterdir()):
        last = sorted(trial.iterdir())[-1]
        for file in sorted(last.glob("*.safetensors")):
            disturbed_file = study.run / "tune" / "checkpoints" / trial.name / last.name / file.name
            assert disturbed_file.read_bytes() == file.read_bytes(), f"{disturbed_file} differs from {file}"
    # The header of best/ has the metrics too, and those have times.
    best, undisturbed_best = (load_file(each.run / "best" / "model.safetensors") for each in (study, calm))
    assert best.keys() == undisturbed_best.keys(), f"{study.run}/best differs from {calm.run}/best"
    for name, tensor in best.items():
        assert torch.equal(tensor, undisturbed_best[name]), f"{study.run}/best: {name} differs from {calm.run}/best"


def chaos(
    folder: Path,
    num_kills: int,
    seed: int,
    *,
    per_study: int = 5,
    kinds: tuple[str, ...] = KINDS_ON_NODES,
    num_rounds: int = NUM_ROUNDS,
) -> dict[str, Any]:
    """Run studies until `num_kills` kills are done, and return the results.

    Args:
        folder: folder for the runs.
        num_kills: number of kills in all studies together.
        seed: seed for the kinds and moments of the kills; the victim also depends on timing.
        per_study: largest number of kills in one study.
        kinds: kinds of victims; nodes are killed only if the machine permits namespaces.
        num_rounds: number of rounds of a trial; enough for `per_study` kills, with up to six rounds before each.

    Raises:
        AssertionError: a study lost or changed something.
    """
    rng = random.Random(seed)
    print(f"seed {seed}", flush=True)
    has_nodes = "node" in kinds and has_namespaces()
    if "node" in kinds and not has_nodes:
        print("no node will die: network namespaces are not permitted here, or `unshare` is not installed", flush=True)
    kills: list[dict[str, Any]] = []
    due: list[str] = []  # each kind comes as often as any other, in random order, in all studies together
    events: Counter[str] = Counter()
    back_s: list[float] = []
    number = without_kill = 0
    start = time.monotonic()
    spaces = {name: space.replace("NUM_ROUNDS", str(num_rounds)) for name, space in SPACES.items()}
    with started(spaces["grid"], folder / "calm") as calm:
        list(disturb(calm, rng, 0, KINDS, []))
        check_ended_well(calm, NUM_TRIALS["grid"], num_rounds)
    while len(kills) < num_kills:
        search = "optuna" if number % 3 == 2 else "grid"
        on_nodes = has_nodes and number % 2 == 0
        where = f"{search}, {len(CPUS)} nodes" if on_nodes else search
        with started(
            spaces[search], folder / f"{number}-{search}", *CPUS * on_nodes, environment=SEEN_DEAD_SOON
        ) as study:
            possible = tuple(kind for kind in kinds if on_nodes or kind != "node")
            before = len(kills)
            for kill in disturb(study, rng, min(per_study, num_kills - len(kills)), possible, due):
                kills.append(kill)
                print(
                    f"kill {len(kills):3} of {num_kills}: {kill['kind']:6} after {kill['round']:2} rounds of study "
                    f"{number} ({where}), {kill['victim']}",
                    flush=True,
                )
            without_kill = 0 if len(kills) > before else without_kill + 1
            assert without_kill < MAX_WITHOUT_KILL, f"{without_kill} studies had no process of kind {', '.join(due)}"
            check_ended_well(study, NUM_TRIALS[search], num_rounds)
        if search == "grid":
            check_equal(study, calm)
        for event in pq.read_table(study.run / "events.parquet").to_pylist():
            events[event["event"]] += 1
            if event["event"] == "replaced":
                back_s.append(event["took_s"])
        number += 1
    by_kind = Counter(kill["kind"] for kill in kills)
    return {
        "name": "chaos",
        "seed": seed,
        "kills": len(kills),
        "lost": 0,
        "studies": number,
        "studies_on_nodes": (number + 1) // 2 * has_nodes,
        "by_kind": {kind: by_kind[kind] for kind in kinds},
        "events": dict(events),
        "peer_back_after_s": {"median": statistics.median(back_s), "max": max(back_s)} if back_s else None,
        "set_on_nodes": SEEN_DEAD_SOON if has_nodes else None,
        "took_s": round(time.monotonic() - start),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(chaos(Path(folder), options.kills, options.seed)))


if __name__ == "__main__":
    main()
