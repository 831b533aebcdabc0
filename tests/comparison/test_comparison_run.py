"""The comparison of a run, from its folder to the report page and Markdown."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from report_makers import figures_of
from typer.testing import CliRunner

from graftpop.__main__ import app
from graftpop.comparison.groups import compare_trials, published_percent
from graftpop.metrics import ACCURACY
from graftpop.run.run_folder import RunFolder
from graftpop.space import Space, parse_space
from graftpop.study.trials import Trial, column_types

COMPARISON: dict[str, Any] = {
    "name": "study",
    "data": {"name": "digits"},
    "training": {"epochs": 4},
    "seeds": [5, 7],
    "baseline": "plain",
    "graft": {"alpha": {"grid": ["adaptive", 0.5]}},
    "variants": {"late": {"graft": {"burn_in_rounds": 2}}, "plain": {}},
    "published": {"source": "a paper", "scores": [{"variant": "late", "graft.alpha": 0.5, "percent": 93.25}]},
}
PROVENANCE = {
    "started": "2026-01-01T00:00:00+00:00",
    "status": "finished",
    "command": ["graftpop", "tune"],
    "hardware": {"cores": 2, "processor": "A processor", "gpus": []},
}


def trials_of(space: Space) -> list[Trial]:
    """Return a completed trial per combination, with accuracies that depend on variant and seed."""
    trials = []
    for number, sample in enumerate(space.grid):
        accuracy = 0.5 + 0.125 * (sample.get("variant") == "late") + sample.get("seed", 0) / 64
        result = {
            "val_accuracy": accuracy,
            "test_accuracy": accuracy,
            "ensemble_test_accuracy": accuracy,
            "num_peers": 2,
            "train_images": 1000,
            "peer_images": 500,
            "time_s": 4.0,
            "inference_flops": 1_500_000,
            "epoch": 4,
            "round": 4,
        }
        trials.append(Trial(f"t{number}", number, sample, 4, "completed", result, wall_s=5.0))
    return trials


def run_folder(path: Path, tree: Mapping[str, Any]) -> RunFolder:
    """Write the folder of a run of a space, without rounds, and return it."""
    space, folder = parse_space(tree), RunFolder(str(path))
    (path / "tune").mkdir()
    folder.write_text("space.yaml", space.to_yaml())
    folder.write_text("run.json", json.dumps(PROVENANCE))
    folder.write_trials([trial.row([ACCURACY]) for trial in trials_of(space)], column_types(space.domains))
    return folder


def test_text_values_match_settings_and_published_accuracies(tmp_path: Path) -> None:
    space = parse_space(COMPARISON)
    rows = run_folder(tmp_path, COMPARISON).read_table("trials").to_pylist()
    assert {row["graft.alpha"] for row in rows} == {"adaptive", "0.5"}
    groups = compare_trials(rows, space)
    assert groups == compare_trials([trial.row([ACCURACY]) for trial in trials_of(space)], space)
    assert [group.values for group in groups] == [{"graft.alpha": "adaptive"}, {"graft.alpha": 0.5}]
    assert [published_percent(group, "late", space.published) for group in groups] == [[], [(93.25, None)]]
    assert [line.variant for line in groups[0].lines] == ["late", "plain"]
    late = groups[1].differences["late"]
    assert (late.n, late.mean) == (2, 0.125)


def test_key_that_matters_in_some_trials_alone_names_their_groups(tmp_path: Path) -> None:
    tree = COMPARISON | {"graft": {"alpha": {"grid": ["adaptive", 0.5]}, "A": {"grid": [0.2, 0.4]}}}
    space = parse_space(tree)
    adaptive = [{"graft.alpha": "adaptive", "graft.A": A} for A in (0.2, 0.4)]
    for rows in (
        [trial.row([ACCURACY]) for trial in trials_of(space)],
        run_folder(tmp_path, tree).read_table("trials").to_pylist(),
    ):
        groups = compare_trials(rows, space)
        assert [group.values for group in groups] == [*adaptive, {"graft.alpha": 0.5}]
        assert [line.n for group in groups for line in group.lines] == [2] * 6
    assert CliRunner().invoke(app, ["report", str(tmp_path)]).exit_code == 0
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count("<table class='variants'>") == 3


def test_trials_that_were_never_created_are_missing() -> None:
    space = parse_space(COMPARISON)
    (group,) = compare_trials([trial.row([ACCURACY]) for trial in trials_of(space)[:1]], space)
    assert [line.num_missing for line in group.lines] == [1, 2]


def test_variants_without_seeds_compare_one_trial_each() -> None:
    space = parse_space(
        {name: COMPARISON[name] for name in ("name", "data", "training", "baseline", "variants")} | {"graft": {}}
    )
    (group,) = compare_trials([trial.row([ACCURACY]) for trial in trials_of(space)], space)
    assert [(line.n, line.num_missing) for line in group.lines] == [(1, 0), (1, 0)]
    assert (group.differences["late"].mean, group.differences["late"].interval) == (0.125, None)


def test_comparison_report_has_tables_and_markdown(tmp_path: Path) -> None:
    run_folder(tmp_path, COMPARISON)
    printed = CliRunner().invoke(app, ["report", str(tmp_path), "--markdown"])
    assert printed.exit_code == 0
    assert "**graft.alpha = 0.5**" in printed.stdout
    row = "| late | 71.88 \u00b1 2.21 | +12.50 | +12.50 to +12.50 | 2 | 0.001 | 2 | 4 | 4s | 1.5 | 93.25 |"
    assert row in printed.stdout.splitlines()
    assert not (tmp_path / "report.html").exists()
    written = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert written.exit_code == 0
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count("<table class='variants'>") == 2
    assert "Best configuration" not in html  # of one lucky seed
    (lines,) = figures_of(html)["parallel"]["plot"]["data"]
    assert [one["label"] for one in lines["dimensions"]] == ["variant", "alpha", "val accuracy"]
    assert html.count('data-figure="differences/') == 2


def test_run_without_variants_has_no_comparison_and_refuses_markdown(tmp_path: Path) -> None:
    run_folder(
        tmp_path,
        {"name": "search", "data": {"name": "digits"}, "seed": {"choice": [0, 1]}, "tune": {"sampler": "grid"}},
    )
    refused = CliRunner().invoke(app, ["report", str(tmp_path), "--markdown"])
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
    assert refused.stderr.startswith(f"error: {tmp_path}/space.yaml: --markdown ")
    assert "variants" in refused.stderr
    assert CliRunner().invoke(app, ["report", str(tmp_path)]).exit_code == 0
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Comparison of variants" not in html
    assert "<table class='variants'>" not in html
