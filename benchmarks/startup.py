"""Measure start-up: the help text, a study's first round, and the first round of the next trial.

    python benchmarks/startup.py [--turns 5]      about four minutes on 2 cores

- *help*: `python -m graftpop.tune --help`.
- *next trial*: from the record of a trial's last round, with its test accuracy, to the record of the next trial's first
  round, minus the duration of a later round.
- *first round*: from the command to the record of the first trial's first round (digits, ResNet-8, two peers). It
  includes the start of Ray and its dashboard, and has no baseline.

The plain recipe is the baseline of the first two. Its script imports torch and torchvision before it parses arguments,
and has to be started for each configuration: two processes, until they are ready to train, without loading data.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from peers import NUM_CORES
from plain import PlainPeers
from turns import NUM_TURNS, Case, in_turns, report

NUM_PEERS, NUM_ROUNDS = 2, 4
TRIALS = ("00000", "00001")
HELP_LIMIT_S, GAP_LIMIT_S = 1.0, 1.0
LIMIT_S = 300.0
SPACE = f"""
name: startup
data: {{name: digits}}
model: {{name: resnet8}}
training: {{epochs: {NUM_ROUNDS}, batch_size: 64}}
population: {{num_peers: {NUM_PEERS}}}
resources: {{cpus_per_peer: {max(1, NUM_CORES // NUM_PEERS)}}}
graft: {{A: {{grid: [0.2, 0.4]}}}}
tune: {{sampler: grid}}
"""
HELP = [sys.executable, "-m", "graftpop.tune", "--help"]
PLAIN_HELP = [sys.executable, "-c", "import argparse, torch, torchvision; argparse.ArgumentParser().parse_args()", "-h"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=NUM_TURNS)
    given = parser.parse_args()
    help_s, plain_help_s = in_turns(lambda: seconds_of(HELP), lambda: seconds_of(PLAIN_HELP), num_turns=given.turns)
    studies, plain_s = [], []
    for _ in range(given.turns):
        studies.append(one_study())
        plain_s.append(plain_start())
    first_s, next_s = ([one[place] for one in studies] for place in (0, 1))
    report(
        "startup",
        "times as fast as the plain recipe",
        1.0,
        [case("help", help_s, plain_help_s), case("next trial", next_s, plain_s)],
        first_round_s=[round(seconds, 2) for seconds in first_s],
        wanted_help_s=HELP_LIMIT_S,
        wanted_gap_s=GAP_LIMIT_S,
    )
    print(
        f"first round {statistics.median(first_s):.2f} s ({min(first_s):.2f} to {max(first_s):.2f}); "
        f"help {statistics.median(help_s):.2f} s, goal below {HELP_LIMIT_S:g}; next trial "
        f"{statistics.median(next_s):.2f} s, goal below {GAP_LIMIT_S:g}"
    )


def case(name: str, ours_s: list[float], plain_s: list[float]) -> Case:
    return Case(
        name,
        ours_s,
        plain_s,
        {"graftpop, s": round(statistics.median(ours_s), 2), "plain, s": round(statistics.median(plain_s), 2)},
    )


def seconds_of(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=LIMIT_S)
    return time.perf_counter() - start


def plain_start() -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        peers = PlainPeers("resnet8", NUM_PEERS, Path(folder), NUM_CORES)
        took_s = time.perf_counter() - start
        peers.close()
    return took_s


def one_study() -> tuple[float, float]:
    """Run a study of two trials; return the seconds to its first round and the seconds between the trials."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "space.yaml").write_text(SPACE)
        run = Path(folder) / "run"
        start = time.time()
        study = subprocess.Popen(
            [
                *HELP[:-1],
                "--space",
                str(Path(folder) / "space.yaml"),
                "--out",
                str(run),
                "--set",
                "resources.gpus_per_peer=0",
            ],
            stdout=subprocess.DEVNULL,
        )
        written: dict[str, list[float]] = {trial: [] for trial in TRIALS}
        while study.poll() is None:
            if time.time() - start > LIMIT_S:
                study.kill()
                raise SystemExit(f"startup.py: the study did not end within {LIMIT_S:g} s")
            for trial, times in written.items():
                file = run / "tune" / "records" / f"{trial}.rounds.parquet"
                if file.exists() and (at := file.stat().st_mtime) not in times:
                    times.append(at)
            time.sleep(0.002)
        if study.returncode or any(len(times) != NUM_ROUNDS + 1 for times in written.values()):
            raise SystemExit(f"startup.py: the study ended with {study.returncode}, records written at {written}")
    # each trial writes its records at its start and after each round
    (_, *first), (_, *second) = written.values()
    round_s = statistics.median(after - before for before, after in pairwise(second))
    return first[0] - start, second[0] - first[-1] - round_s


if __name__ == "__main__":
    main()
