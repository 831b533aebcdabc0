"""Scripts of benchmarks/ start, and the simulated peers of scaling.py answer the calls of a population."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(180)  # nearly all of it imports, which a busy machine slows down

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MODULES = sorted(file.stem for file in BENCHMARKS.glob("*.py"))
SCRIPTS = [name for name in MODULES if "__main__" in (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")]

PROGRAM = """
import contextlib, importlib, io, json, sys

modules, scripts = (words.split() for words in sys.argv[1:])
loaded = {name: importlib.import_module(name) for name in modules}
shown = {}
for name in scripts:
    sys.argv = [f"{name}.py", "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        loaded[name].main()
    shown[name] = text.getvalue()

import scaling
from graftpop.cluster import actors, study
from graftpop.peer.peer import Peer
from graftpop.population import LocalGroup, Population
from graftpop.space import parse_space

settings = parse_space({"data": {"name": "digits"}, "training": {"epochs": 3}, "population": {"num_peers": 3},
                        "graft": {}}).resolve()
running = Population(LocalGroup(scaling.TinyActor.new_peer, 3), settings)
rounds = [running.step() for _ in range(3)]
print(json.dumps({
    "shown": shown,
    "grafts": [sorted(set(zip(done.grafts["receiver"], done.grafts["donor"]))) for done in rounds[:-1]],
    "outcome": running.finish(rounds[-1]),
    "records_s": scaling.records_s(3),
    "unknown_calls": [name for name in vars(scaling.SimulatedPeer) if name[0] != "_" and not hasattr(Peer, name)],
    "replaces": hasattr(study, "PopulationTrainable") and hasattr(actors, "PeerActor"),
}))
"""


@pytest.fixture(scope="module")
def ran() -> dict[str, Any]:
    """Return what all scripts did in one process, since each process would import torch and Ray."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, " ".join(MODULES), " ".join(SCRIPTS)],
        capture_output=True,
        text=True,
        timeout=150,
        cwd=BENCHMARKS.parent,
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_shows_its_options(script: str, ran: dict[str, Any]) -> None:
    assert ran["shown"][script].startswith(f"usage: {script}.py")


def test_simulated_peers_complete_a_population(ran: dict[str, Any]) -> None:
    assert ran["grafts"] == [[[0, 2], [1, 0], [2, 1]]] * 2
    assert ran["outcome"]["parameters"] == ran["outcome"]["flops"] + 274_442
    assert ran["records_s"] > 0.0


def test_simulated_peers_have_only_calls_of_real_ones(ran: dict[str, Any]) -> None:
    assert ran["unknown_calls"] == []


def test_study_takes_the_simulated_classes_from_its_own_names(ran: dict[str, Any]) -> None:
    assert ran["replaces"]
