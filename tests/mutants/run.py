"""Break graftpop in small ways, one at a time, and check that its tests notice.

Reads mutants.toml in this folder. Exits with 1 if fewer than 95 % of the mutants die, with 2 if the list
does not fit the code.

    python tests/mutants/run.py --only async-rounds --out mutants.jsonl
"""

import argparse
import ast
import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("graftpop", "tests", "pyproject.toml", "search_spaces", "docs", "benchmarks", "examples", "README.md")
SLOW_IMPORTS = (
    "numpy",
    "pyarrow.parquet",
    "pyarrow.fs",
    "pydantic",
    "plotly.graph_objects",
    "sklearn.datasets",
    "torchvision.transforms",
)
PYTEST_OPTIONS = (
    "-x",
    "-q",
    "-n",
    "0",
    "-m",
    "not ray",
    "-p",
    "no:cacheprovider",
    "--timeout=60",
    "--hypothesis-profile=mutants",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)  # the libraries are imported already
MUTANT_LIMIT_S = 300.0
UNMUTATED_LIMIT_S = 3600.0
ENOUGH = 0.95
POLL_S = 0.05


@dataclass(frozen=True)
class Mutant:
    """A change of the code; see mutants.toml."""

    id: str
    file: str
    find: str
    replace: str
    tests: list[str]
    equivalent: str = ""


@dataclass(frozen=True)
class Result:
    """A line of the results."""

    id: str
    file: str
    outcome: str
    noticed_by: str
    seconds: float


def listed_mutants() -> list[Mutant]:
    """Return all mutants of mutants.toml."""
    text = (Path(__file__).parent / "mutants.toml").read_text(encoding="utf-8")
    return [Mutant(**entry) for entry in tomllib.loads(text)["mutant"]]


def mutated(mutant: Mutant) -> str:
    """Return the text of the changed file.

    Raises:
        ValueError: the mutant does not fit the code.
    """
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    if text.count(mutant.find) != 1:
        raise ValueError(f"{mutant.file}: must have `find` once, has it {text.count(mutant.find)} times")
    changed = text.replace(mutant.find, mutant.replace)
    if changed == text:
        raise ValueError(f"{mutant.file}: `replace` must differ from `find`")
    return changed


def misfits(mutants: Sequence[Mutant], *, parses: bool = True) -> Iterator[tuple[Mutant, str]]:
    """Yield the mutants that do not fit the code, with the reason.

    Args:
        mutants: the mutants.
        parses: whether to parse the changed files as well, which takes nearly all of the time.
    """
    seen: Counter[str] = Counter()
    for mutant in mutants:
        seen[mutant.id] += 1
        try:
            if seen[mutant.id] > 1:
                raise ValueError("the id is used twice")
            for test in mutant.tests:
                (ROOT / test).stat()
            changed = mutated(mutant)
            if parses:
                ast.parse(changed)
        except (ValueError, SyntaxError, OSError) as error:
            yield mutant, str(error)


def copy_to(folder: Path) -> None:
    """Copy the files that tests need."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)


def import_slow_libraries() -> None:
    """Import the libraries that every child needs, without graftpop."""
    sys.dont_write_bytecode = True  # a mutant of equal size and second would run the previous one's bytecode
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    import hypothesis
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)  # threads do not survive a fork
    hypothesis.settings.register_profile(
        "mutants", derandomize=True, deadline=None, phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate)
    )  # a failing example need not be made smaller
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in SLOW_IMPORTS:
            importlib.import_module(name)


def start(folder: Path, tests: Sequence[str], log: Path) -> int:
    """Start tests in a copy of the project in a new process; return its ID."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    try:
        os.setsid()  # so that it is killed with its own children
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        sys.path[0] = os.environ["PYTHONPATH"] = str(folder)
        graftpop = importlib.import_module("graftpop")
        if not Path(str(graftpop.__file__)).is_relative_to(folder):
            raise ImportError(f"graftpop must be that of {folder}, got {graftpop.__file__}")
        code = int(importlib.import_module("pytest").main([*PYTEST_OPTIONS, *tests]))
    except BaseException as error:
        print(repr(error), flush=True)
        code = 3
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def outcome_of(mutant: Mutant, code: int, log: Path) -> tuple[str, str]:
    """Return the outcome of a mutant and the test that noticed it.

    Args:
        mutant: the mutant.
        code: exit code of its tests, negative where a signal ended them.
        log: output of its tests.
    """
    if code == 0:
        return "equivalent" if mutant.equivalent else "survived", ""
    if code not in (1, -signal.SIGKILL):
        return "invalid", f"pytest ended with {code}"
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", log.read_text(errors="replace"), re.MULTILINE)
    noticed_by = failed[1] if failed else "timeout"
    return (
        ("invalid", f"is called equivalent, but {noticed_by} notices") if mutant.equivalent else ("killed", noticed_by)
    )


class Job:
    """A copy of the project with one mutant at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder.with_suffix(".log")
        copy_to(folder)
        self.mutant: Mutant | None = None

    def begin(self, mutant: Mutant) -> None:
        """Apply a mutant and start its tests."""
        self.mutant, self.since = mutant, time.monotonic()
        (self.folder / mutant.file).write_text(mutated(mutant), encoding="utf-8")
        self.process = start(self.folder, mutant.tests, self.log)

    def end(self) -> Result | None:
        """Return the result and restore the file, if the tests have ended or take too long."""
        assert self.mutant is not None
        mutant, seconds = self.mutant, time.monotonic() - self.since
        code = ended(self.process, is_late=seconds > MUTANT_LIMIT_S)
        if code is None:
            return None
        shutil.copy(ROOT / mutant.file, self.folder / mutant.file)
        self.mutant = None
        return Result(mutant.id, mutant.file, *outcome_of(mutant, code, self.log), round(seconds, 1))


def ended(process: int, *, is_late: bool) -> int | None:
    """Return the exit code of a process that has ended; kill one that is late."""
    if is_late:
        os.killpg(process, signal.SIGKILL)
    done, status = os.waitpid(process, 0 if is_late else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def check_unmutated(folder: Path, tests: Sequence[str]) -> str:
    """Run tests on the unchanged code; return their output if they fail."""
    log, begin = folder.with_suffix(".log"), time.monotonic()
    process = start(folder, tests, log)
    while (code := ended(process, is_late=time.monotonic() - begin > UNMUTATED_LIMIT_S)) is None:
        time.sleep(POLL_S)
    return "" if code == 0 else log.read_text(errors="replace")


def run_all(jobs: Sequence[Job], mutants: Sequence[Mutant]) -> Iterator[Result]:
    """Run the tests of every mutant; yield results as they complete."""
    waiting = list(reversed(mutants))
    try:
        while waiting or any(job.mutant for job in jobs):
            for job in jobs:
                if job.mutant is None and waiting:
                    job.begin(waiting.pop())
                elif job.mutant is not None and (result := job.end()):
                    yield result
            time.sleep(POLL_S)
    finally:
        for job in jobs:
            if job.mutant is not None:  # interrupted
                ended(job.process, is_late=True)


def main() -> int:
    """Run the mutants and return the exit code."""
    parser = argparse.ArgumentParser(description="Break graftpop in small ways and check that its tests notice.")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time, a core each")
    parser.add_argument("--only", default="*", help="part or pattern of the mutants' ids or files")
    parser.add_argument("--out", type=Path, help="write the results there, a line of JSON each")
    arguments = parser.parse_args()
    mutants = [
        mutant
        for mutant in listed_mutants()
        if any(fnmatch(name, f"*{arguments.only}*") for name in (mutant.id, mutant.file))
    ]
    if not mutants:
        parser.error(f"--only: must match the id or the file of a mutant, got {arguments.only!r}")
    if invalid := list(misfits(mutants)):
        print("\n".join(f"invalid {mutant.id}: {reason}" for mutant, reason in invalid))
        return 2
    import_slow_libraries()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        jobs = [Job(Path(temporary).resolve() / f"job-{index}") for index in range(arguments.jobs)]
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        if failure := check_unmutated(jobs[0].folder, tests):
            print(f"{failure}\nthe tests must pass on the unchanged code")
            return 2
        with open(arguments.out or os.devnull, "w", encoding="utf-8") as out:
            for result in run_all(jobs, mutants):
                counts[result.outcome] += 1
                print(json.dumps(asdict(result)), file=out, flush=True)
                if result.outcome in ("survived", "invalid"):
                    print(f"{result.outcome} {result.id} ({result.file}) {result.noticed_by}".rstrip(), flush=True)
    num_to_kill = counts["killed"] + counts["survived"]
    print(f"killed {counts['killed']} of {num_to_kill} ({counts['equivalent']} equivalent)")
    if counts["invalid"]:
        return 2
    return int(counts["killed"] < ENOUGH * num_to_kill)


if __name__ == "__main__":
    sys.exit(main())
