"""Kill peers, trials and drivers of small studies at random moments, and compare with a study that was left alone.

    python benchmarks/chaos.py                     20 kills
    python benchmarks/chaos.py --kills 100 --seed 3

A grid study must end with the same trials, every row of its records once, and equal weights to the bit; one with
Optuna and ASHA, whose trials depend on timing, with every trial over once and its records complete. Prints a line a
kill, and at the end one JSON line.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 600.0
TIMED = {"images_per_s", "train_s", "exchange_s"}
KINDS = ("peer", "trial", "driver")

NUM_ROUNDS = 24
COMMON = f"""
name: chaos
data: {{name: digits, limit: 600}}
model: {{name: resnet8}}
training: {{epochs: {NUM_ROUNDS}, batch_size: 64, schedule: cosine, precision: float32}}
population: {{num_peers: 2, max_peer_restarts: 1000}}
"""
SPACES = {
    "grid": COMMON + "graft: {A: {grid: [0.2, 0.4]}}\ntune: {search: grid, max_failures: 1000}\n",
    "optuna": COMMON + "graft: {A: {uniform: [0.0, 1.0]}, c: {loguniform: [1, 500]}}\n"
                       "tune: {search: optuna, scheduler: asha, num_samples: 4, max_failures: 1000}\n",
}


class Study:
    """One study as a user runs it, from the command line, through as many drivers as it takes."""

    def __init__(self, space: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "space.yaml").write_text(space)
        self.run = folder / "run"
        self._first = ["--space", str(folder / "space.yaml"), "--out", str(self.run)]
        self.driver = self._start(self._first)

    def _start(self, options: list[str]) -> "subprocess.Popen[bytes]":
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with (self.run.parent / "log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "graftpop.tune", *options], cwd=self.run.parent,
                                    env=environment, stdout=log, stderr=subprocess.STDOUT)

    def resume(self) -> None:
        """Go on with the run, or begin it where the driver was killed before there was one."""
        is_run = all((self.run / name).exists() for name in ("space.yaml", "run.json", "tune"))
        if not is_run:
            subprocess.run(["rm", "-rf", str(self.run)], check=True)
        self.driver = self._start(["--resume", str(self.run)] if is_run else self._first)

    def processes(self, kind: str) -> list[psutil.Process]:
        """Return the processes of a kind that there are now."""
        if kind == "driver":
            return [psutil.Process(self.driver.pid)]
        found = []
        for process in psutil.Process(self.driver.pid).children(recursive=True):
            try:
                title = " ".join(process.cmdline())
            except psutil.Error:
                continue
            is_peer = title.startswith(("ray::peer-", "ray::PeerActor"))
            is_trial = title.startswith(("ray::population", "ray::PopulationTrainable", "ray::ImplicitFunc"))
            if is_peer if kind == "peer" else is_trial:
                found.append(process)
        return found

    def log(self) -> str:
        return (self.run.parent / "log").read_text(errors="replace")


def disturb(study: Study, rng: random.Random, num_kills: int, kinds: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Kill processes of a study until it has ended; yield what was killed when, and how long the next round took."""
    deadline = time.monotonic() + LIMIT_S
    done = 0
    while study.driver.poll() is None:
        if time.monotonic() > deadline:
            raise AssertionError(f"{study.run}: not over within {LIMIT_S:g} s, {done} kills:\n{study.log()[-3000:]}")
        if done == num_kills:
            time.sleep(0.1)
            continue
        kind = rng.choice(kinds)
        if rng.random() < 0.8:  # somewhere in the next rounds, else anywhere, the start of everything included
            wanted = rounds_done(study.run) + rng.randint(1, 6)
            while rounds_done(study.run) < wanted and study.driver.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(rng.uniform(0.0, 0.5))
        else:
            time.sleep(rng.uniform(0.0, 15.0))
        if study.driver.poll() is not None or not (victims := study.processes(kind)):
            continue
        victim = rng.choice(sorted(victims, key=lambda process: process.pid))
        victim.send_signal(signal.SIGKILL)
        done += 1
        yield {"kind": kind, "pid": victim.pid, "round": rounds_done(study.run)}
        if kind == "driver":
            study.driver.wait()
            study.resume()


@contextmanager
def started(space: str, folder: Path) -> Iterator[Study]:
    """Start a study, and end what is left of it at the end of the block."""
    study = Study(space, folder)
    try:
        yield study
    finally:
        study.driver.kill()
        study.driver.wait()


def rounds_done(run: Path) -> int:
    """Return how many rounds the trials have recorded together."""
    total = 0
    for path in (run / "tune" / "records").glob("*.rounds.parquet"):
        with path.open("rb") as file:  # by one open file: the path may get a newer one meanwhile
            total += len(set(pq.read_table(file)["round"].to_pylist()))
    return total


def check_ended_well(study: Study, num_trials: int) -> list[dict[str, Any]]:
    """Check that every trial is over once and its records are whole; return the table of trials."""
    assert study.driver.returncode == 0, f"ended with {study.driver.returncode}:\n{study.log()[-3000:]}"
    trials = pq.read_table(study.run / "trials.parquet").to_pylist()
    assert [row["trial_id"] for row in trials] == [f"{number:05}" for number in range(num_trials)], trials
    rounds = pq.read_table(study.run / "rounds.parquet").to_pylist()
    for trial in trials:
        assert trial["status"] in ("completed", "stopped"), trial
        own = [(row["round"], row["peer"]) for row in rounds if row["trial_id"] == trial["trial_id"]]
        assert own == [(round_, peer) for round_ in range(1, len(own) // 2 + 1) for peer in (0, 1)], own
        assert (len(own) == 2 * NUM_ROUNDS) == (trial["status"] == "completed"), trial
    assert sum(row["trial_id"] in {trial["trial_id"] for trial in trials} for row in rounds) == len(rounds)
    return trials


def check_equal(study: Study, calm: Study) -> None:
    """Check that two runs of a grid have equal records, and equal weights to the bit."""
    for name in ("rounds", "grafts", "measures"):
        tables = [pq.read_table(one.run / f"{name}.parquet") for one in (study, calm)]
        one, other = (table.drop_columns(sorted(TIMED & set(table.column_names))) for table in tables)
        assert one.equals(other), f"{name}.parquet of {study.run} differs from {calm.run}"
    for trial in sorted((calm.run / "tune" / "checkpoints").iterdir()):
        last = sorted(trial.iterdir())[-1]
        for file in sorted(last.glob("*.safetensors")):
            there = study.run / "tune" / "checkpoints" / trial.name / last.name / file.name
            assert there.read_bytes() == file.read_bytes(), f"{there} differs from {file}"
    best = [(one.run / "best" / "model.safetensors").read_bytes() for one in (study, calm)]
    assert best[0] == best[1], f"{study.run}/best differs from {calm.run}/best"


def chaos(folder: Path, num_kills: int, seed: int, *, per_study: int = 5,
          kinds: tuple[str, ...] = KINDS) -> dict[str, Any]:
    """Run studies until enough was killed, and return the figures; an AssertionError names what was lost."""
    rng = random.Random(seed)
    print(f"seed {seed}", flush=True)
    with started(SPACES["grid"], folder / "calm") as calm:
        list(disturb(calm, rng, 0, kinds))
        check_ended_well(calm, 2)
    kills: list[dict[str, Any]] = []
    events: Counter[str] = Counter()
    recoveries_s: list[float] = []
    number = 0
    while len(kills) < num_kills:
        search = "optuna" if number % 3 == 2 else "grid"
        with started(SPACES[search], folder / f"{number}-{search}") as study:
            for kill in disturb(study, rng, min(per_study, num_kills - len(kills)), kinds):
                kills.append(kill | {"study": number, "search": search})
                print(f"kill {len(kills):3} of {num_kills}: {kill['kind']:6} after {kill['round']:2} rounds of study "
                      f"{number} ({search})", flush=True)
            check_ended_well(study, 2 if search == "grid" else 4)
        if search == "grid":
            check_equal(study, calm)
        for event in pq.read_table(study.run / "events.parquet").to_pylist():
            events[event["event"]] += 1
            if event["event"] == "replaced":
                recoveries_s.append(event["took_s"])
        number += 1
    back_s = {"median": statistics.median(recoveries_s), "max": max(recoveries_s)} if recoveries_s else None
    return {
        "name": "chaos", "seed": seed, "kills": len(kills), "lost": 0, "studies": number,
        "by_kind": dict(Counter(kill["kind"] for kill in kills)), "events": dict(events),
        "peer_back_after_s": back_s,
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
