"""Every script and notebook of examples/ runs."""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

ROOT = Path(__file__).parents[2]
OUTPUT = {
    "language_model": r"(round \d: validation perplexity [\d.]+\n){3}test perplexity [\d.]+, ensemble [\d.]+\n",
    "regression": r"(round \d: validation error 0\.\d+\n){8}test error 0\.\d+, R2 0\.\d+\n",
    "timm_networks": r"^([\w:]+: \d+ sites with (99\.\d|100\.0)% of the parameters\n){4}$",
    "user_network": r"round 6: validation accuracy \d+\.\d%\ntest accuracy \d+\.\d%, ensemble \d+\.\d%\n"
    r"the first image is a \d\n",
    "user_tuner": r"best: \{'graft.A': [\d.e-]+, 'population.num_peers': [23]\}, validation accuracy \d+\.\d% after "
    r"round \d, a network of 75,290 weights\n",
}
ON_RAY = ("user_tuner",)


def test_every_example_is_listed() -> None:
    assert sorted(OUTPUT) == sorted(file.stem for file in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("name", [name for name in OUTPUT if name not in ON_RAY])
def test_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, where torch is imported already."""
    file = str(ROOT / "examples" / f"{name}.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [file])
    runpy.run_path(file, run_name="__main__")
    output = capsys.readouterr().out
    assert re.search(OUTPUT[name], output), output


@pytest.mark.ray
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ON_RAY)
def test_example_on_ray_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert re.search(OUTPUT[name], done.stdout), done.stdout


NOTEBOOKS = {"first_population": False, "own_network_and_data": False, "read_a_comparison": True}
"""Whether each notebook starts Ray."""


def test_every_notebook_is_listed() -> None:
    assert sorted(NOTEBOOKS) == sorted(file.stem for file in (ROOT / "examples").glob("*.ipynb"))


def run_notebook(name: str) -> list[Any]:
    """Run the cells of a notebook in this process; return what each displays."""
    notebook = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8"))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for number, cell in enumerate(cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
        assert cell["outputs"] == []  # outputs would be out of date
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{name}[{number}]", "exec"), namespace)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), f"{name}[{number}]", "eval"), namespace))
    return shown


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.ray] * on_ray) for name, on_ray in NOTEBOOKS.items()]
)
def test_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shown = run_notebook(name)
    figures = [value for value in shown if isinstance(value, go.Figure)]
    assert figures
    assert all(figure.data for figure in figures)
    assert any(hasattr(value, "_repr_html_") and value._repr_html_() for value in shown)
