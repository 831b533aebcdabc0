"""`graftpop.read_run`: tables and figures of runs for notebooks."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from report_makers import COMPARED, SPACE, grafts_of, rounds_of, trial

import graftpop
from graftpop.errors import CheckpointError
from graftpop.run.run_folder import RunFolder
from graftpop.run.storage import Folder
from graftpop.space import parse_space


def write_run(folder: Path, space: str, trials: list[dict[str, Any]], searched: dict[str, pa.DataType]) -> None:
    (folder / "tune").mkdir(parents=True)
    run = RunFolder(str(folder))
    run.write_text("space.yaml", parse_space(yaml.safe_load(space)).to_yaml())
    columns = dict.fromkeys(key for row in trials for key in (*row, "epochs", "parameters"))
    run.write_trials([{key: row.get(key) for key in columns} for row in trials], searched)
    for name, rows_of in (("rounds", rounds_of), ("grafts", grafts_of)):
        schema = run.read_table(name).schema
        rows = [one for row in trials for one in rows_of(row["trial_id"])]
        Folder(str(folder)).write_tables(f"{name}.parquet", [pa.Table.from_pylist(rows, schema)], schema)


def test_search_has_its_tables_and_the_figures_of_its_report(tmp_path: Path) -> None:
    trials = [trial("00000", A=0.4, val_accuracy=0.5), trial("00001", A=0.2, val_accuracy=0.7)]
    write_run(tmp_path / "run", SPACE, trials, {"graft.A": pa.float64(), "graft.c": pa.float64()})
    run = graftpop.read_run(tmp_path / "run")
    assert run.trials.set_index("trial_id")["graft.A"].to_dict() == {"00000": 0.4, "00001": 0.2}
    assert len(run.rounds) == 2 * 3 * 2
    assert run.grafts.groupby("receiver")["alpha"].first().to_dict() == {0: 0.25, 1: 0.75}
    assert run.events.empty
    assert run.comparison.empty
    assert {"curves", "history", "trial/00001/peers", "trial/00001/lineage"} <= set(run.figures)
    peers = [trace for trace in run.plot("trial/00001/peers").data if trace.yaxis == "y"]
    assert [list(trace.x) for trace in peers] == [[1, 2, 3], [1, 2, 3]]
    assert list(peers[1].y) == pytest.approx([0.11, 0.21, 0.31])
    assert "00001" in run._repr_html_()
    with pytest.raises(CheckpointError, match=r"^Run\.plot: .*'historie'.*did you mean 'history'"):
        run.plot("historie")


def test_comparison_has_a_row_per_variant_with_paired_differences(tmp_path: Path) -> None:
    scores = {"one": (0.5, 0.6), "two": (0.52, 0.66)}
    trials = [
        {key: value for key, value in trial(f"{name}-{seed}").items() if not key.startswith("graft.")}
        | {"variant": name, "seed": seed, "val_accuracy": score, "test_accuracy": score, "epochs": 4}
        for name, both in scores.items()
        for seed, score in enumerate(both)
    ]
    write_run(tmp_path, COMPARED % "one: {}, two: {}", trials, {"variant": pa.string(), "seed": pa.int64()})
    rows = graftpop.read_run(tmp_path).comparison.set_index("variant")
    assert rows.loc["two", "n"] == 2
    assert rows.loc["two", "mean"] == pytest.approx(0.59)
    assert rows.loc["two", "difference"] == pytest.approx(0.04)
    half_width = 12.706 * 0.02  # Student's t with one degree of freedom, and the standard error of 0.02 and 0.06
    assert rows.loc["two", "low"] == pytest.approx(0.04 - half_width, abs=1e-4)
    assert rows.loc["two", "high"] == pytest.approx(0.04 + half_width, abs=1e-4)
    assert rows.loc["one"].isna()["difference"]


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}: "):
        graftpop.read_run(str(tmp_path))
