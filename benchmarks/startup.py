"""Measure start-up: the help text, a study's first round, and the first round of the next trial.

    python benchmarks/startup.py [--turns 5]      about four minutes on 2 cores

- *help*: `python -m graftpop.tune --help`.
- *next trial*: from the record of a trial's last round, with its test accuracy, to the record of the next trial's first
  round, minus the duration of a later round.
- *first round*: from the command to the record of the first trial's first round (digits, ResNet-8, two peers). It
  includes the start of Ray and its dashboard, and has no baseline. The CPU seconds until then are printed by process;
  divided by the number of cores they are the least that it can take.

The plain recipe is the baseline of the first two. Its script imports torch and torchvision before it parses arguments,
and has to be started for each configuration: two processes, until they are ready to train, without loading data.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil
from peers import NUM_CORES
from plain import PlainPeers
from studies import TITLES
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
    first_s, next_s, cpu_s = zip(*studies, strict=True)
    cpu_by_kind = {kind: round(statistics.median(one[kind] for one in cpu_s), 1) for kind in cpu_s[0]}
    report(
        "startup",
        "times as fast as the plain recipe",
        1.0,
        [case("help", help_s, plain_help_s), case("next trial", next_s, plain_s)],
        first_round_s=[round(seconds, 2) for seconds in first_s],
        first_round_cpu_s=cpu_by_kind,
        wanted_help_s=HELP_LIMIT_S,
        wanted_gap_s=GAP_LIMIT_S,
    )
    print(
        f"first round {statistics.median(first_s):.2f} s ({min(first_s):.2f} to {max(first_s):.2f}); "
        f"help {statistics.median(help_s):.2f} s, goal below {HELP_LIMIT_S:g}; next trial "
        f"{statistics.median(next_s):.2f} s, goal below {GAP_LIMIT_S:g}"
    )
    print(f"CPU seconds until the first round: {', '.join(f'{kind} {cpu}' for kind, cpu in cpu_by_kind.items())}")


def case(name: str, ours_s: Sequence[float], plain_s: Sequence[float]) -> Case:
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


def one_study() -> tuple[float, float, dict[str, float]]:
    """Run a study of two trials.

    Returns:
        The seconds to its first round and between the trials, and the CPU seconds until the first round, by process.
    """
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
                    if trial == TRIALS[0] and len(times) == 2:
                        cpu_s = cpu_by_process(study.pid)
            time.sleep(0.002)
        if study.returncode or any(len(times) != NUM_ROUNDS + 1 for times in written.values()):
            raise SystemExit(f"startup.py: the study ended with {study.returncode}, records written at {written}")
    # each trial writes its records at its start and after each round
    (_, *first), (_, *second) = written.values()
    round_s = statistics.median(after - before for before, after in pairwise(second))
    return first[0] - start, second[0] - first[-1] - round_s, cpu_s


def cpu_by_process(driver: int) -> dict[str, float]:
    """Return the CPU seconds of the driver and of its children so far; Ray has all that no peer and no trial has."""
    seconds = {"driver": 0.0, "leading process": 0.0, "peers": 0.0, "Ray": 0.0}
    kinds = {"peers": TITLES["peer"], "leading process": re.compile(r"ray::[Pp]opulation\b")}  # lower case as it starts
    command = psutil.Process(driver)
    for process in (command, *command.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            title, used = " ".join(process.cmdline()), process.cpu_times()
            kind = next((kind for kind, pattern in kinds.items() if pattern.match(title)), "Ray")
            seconds["driver" if process == command else kind] += used.user + used.system
    return seconds


if __name__ == "__main__":
    main()
