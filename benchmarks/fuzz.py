"""Feed random inputs to the readers of user files; they must accept an input or refuse it in one line.

    python benchmarks/fuzz.py --inputs 100000 --seed 0 [--reader NAME]

Prints for each reader the number of inputs by outcome, the slowest input and the growth of peak memory; then one line
of JSON. Exits with 1 on any other outcome, if an input takes more than 10 s, or if memory grows by more than 1 GiB.
tests/fuzz/ creates each input from (reader, seed, number): `--reader NAME --seed S --only N` repeats one.
Each reader runs in its own process, so that a crash is noticed.
"""

import argparse
import faulthandler
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from multiprocessing.queues import Queue
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NAMES = ("space", "parquet", "image", "checkpoint")
LIMIT_S = 10.0
LIMIT_MIB = 1024
NUM_WARM_UP = 50
SHOWN = 12


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="number of inputs for all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=NAMES, help="run only this reader")
    parser.add_argument("--only", type=int, help="run only this input, in this process, with a traceback")
    given = parser.parse_args()
    names = [given.reader] if given.reader else list(NAMES)
    if given.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(reader_outcome()(names[0], f"{given.seed} {given.only}", Path(folder)))
        return 0
    figures = {}
    for name in names:
        figures[name] = in_a_process(name, given.inputs // len(names), given.seed)
        print_outcome(name, figures[name])
    summary = {name: {**one, "errors": len(one["errors"])} for name, one in figures.items()}
    print(f"\n{json.dumps({'inputs': sum(one['inputs'] for one in figures.values()), 'seed': given.seed, **summary})}")
    return int(any(one["failures"] for one in figures.values()))


def print_outcome(name: str, one: dict[str, Any]) -> None:
    print(
        f"\n{name}: {one['inputs']} inputs in {one['seconds']} s, {one['accepted']} accepted, "
        f"{len(one['failures'])} failures; slowest {one['slowest_s']} s (input {one['slowest']}), "
        f"peak memory +{one['peak_mib']} MiB"
    )
    for kind, count in list(one["errors"].items())[:SHOWN]:
        print(f"{count:8}  {kind}")
    rest = list(one["errors"].values())[SHOWN:]
    print(f"{sum(rest):8}  of {len(rest)} other kinds", flush=True)
    for failure in one["failures"]:
        print(f"  FAILED {failure}", flush=True)


def reader_outcome() -> Any:
    sys.path[:1] = [str(ROOT / "tests" / "fuzz"), str(ROOT)]
    import timm  # noqa: F401  # a card may name it; imported first, its seconds count for no input
    import torch
    from fuzzed_readers import outcome

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Pillow and torch warn about damaged inputs
    return outcome


def in_a_process(name: str, num_inputs: int, seed: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    number, results = context.Value("q", -1), context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=feed, args=(name, num_inputs, seed, folder, number, results))
        process.start()
        while process.is_alive() and results.empty():
            time.sleep(0.2)
        if results.empty():
            process.join()
            log = Path(f"{folder}/log").read_text(errors="replace").splitlines()
            figures = {
                "inputs": number.value,
                "seconds": 0,
                "accepted": 0,
                "slowest_s": LIMIT_S,
                "slowest": number.value,
                "peak_mib": 0,
                "errors": {},
                "failures": [f"input {number.value}: the process ended with {process.exitcode}: {log[-12:]}"],
            }
        else:
            figures = results.get()
            process.join()
    return figures


def feed(
    name: str, num_inputs: int, seed: int, folder: str, number: "Synchronized[int]", results: "Queue[dict[str, Any]]"
) -> None:
    with open(f"{folder}/log", "w") as log:
        os.dup2(log.fileno(), 2)  # libtiff and others print to stderr
        outcome = reader_outcome()
        for warm_up in range(NUM_WARM_UP):
            outcome(name, f"warm-up {warm_up}", Path(folder))
        before_mib = peak_mib()
        ends: Counter[str] = Counter()
        failures, slowest, start = [], (0.0, -1), time.monotonic()
        for number.value in range(num_inputs):
            faulthandler.dump_traceback_later(LIMIT_S, exit=True, file=log)
            begun = time.monotonic()
            try:
                ends[outcome(name, f"{seed} {number.value}", Path(folder))] += 1
            except Exception as error:  # a failure: readers may raise only one-line errors
                failures.append(f"input {number.value}: {''.join(traceback.format_exception(error)[-3:])[-400:]!r}")
            slowest = max(slowest, (time.monotonic() - begun, number.value))
        faulthandler.cancel_dump_traceback_later()
        growth = peak_mib() - before_mib
        if growth > LIMIT_MIB:
            failures.append(f"memory grew by {growth} MiB")
        results.put(
            {
                "inputs": num_inputs,
                "seconds": round(time.monotonic() - start),
                "accepted": ends.pop("accepted", 0),
                "slowest_s": round(slowest[0], 2),
                "slowest": slowest[1],
                "peak_mib": growth,
                "errors": dict(ends.most_common()),
                "failures": failures,
            }
        )


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    sys.exit(main())
