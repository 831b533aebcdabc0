"""The report page, built from made-up tables of a run."""

import base64
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from report_makers import (
    COMPARED,
    PROVENANCE,
    SPACE,
    compared,
    figures_of,
    grafts_of,
    many_trials,
    page,
    rounds_of,
    trial,
)
from typer.testing import CliRunner

from graftpop.__main__ import app
from graftpop.metrics import ACCURACY
from graftpop.reporting import LiveReport
from graftpop.reporting.configuration import configuration_sentences
from graftpop.reporting.search import FEWEST_TRIALS
from graftpop.run.run_folder import RunFolder
from graftpop.run.schemas import schemas
from graftpop.run.storage import Folder
from graftpop.settings import Settings
from graftpop.space import parse_space


def numbers(packed: Any) -> np.ndarray[Any, Any]:
    """Return an array that plotly packed into a figure."""
    flat = np.frombuffer(base64.b64decode(packed["bdata"]), dtype=packed["dtype"])
    return flat.reshape([int(num) for num in str(packed.get("shape", flat.size)).split(",")])


def rows_of_table(html: str) -> list[tuple[str, str]]:
    return re.findall(r'<tr data-trial="(\w+)"( class="best")?>', html)


def test_report_without_rounds_has_no_figures() -> None:
    html = page([])
    assert "No trial has finished a round" in html
    assert "No round has finished" in html
    assert figures_of(html) == {}


def test_recorded_command_can_be_copied() -> None:
    options = ["--set", "graft.A={uniform: [0, 1]}", "--out", "my run"]
    assert f"python -m graftpop.tune {shlex.join(options)}" in unescape(page([], options=options))


def test_best_completed_trial_is_highlighted_in_table_and_curves() -> None:
    html = page(
        [
            trial("one", test_accuracy=0.4, ensemble_test_accuracy=0.45),
            trial("two", status="stopped", val_accuracy=0.9),
        ],
        [*rounds_of("one"), *rounds_of("two")],
    )
    assert rows_of_table(html) == [("one", ' class="best"'), ("two", "")]
    assert "<b>40.00 %</b> test accuracy" in html
    curves = figures_of(html)["curves"]
    assert {"2", "one,", "31.00", "600"} <= set(curves["description"].split())
    (best,) = [trace for trace in curves["plot"]["data"] if trace["name"] == "best: one"]
    assert (best["x"], best["y"]) == ([200, 400, 600], pytest.approx([0.11, 0.21, 0.31]))


def test_number_of_trials_equal_to_the_best_is_reported() -> None:
    assert "1 other trial reached" in page([trial("one"), trial("two")])
    assert "2 other trials reached" in page([trial("one"), trial("two"), trial("three")])
    assert "reached the same" not in page([trial("one"), trial("two", val_accuracy=0.4)])


def test_curve_is_best_accuracy_by_images_of_all_peers() -> None:
    space = SPACE.replace("num_peers: 2", "num_peers: {choice: [2, 4]}")
    trials = [trial(name) | {"population.num_peers": number} for name, number in (("two", 2), ("four", 4))]
    html = page(trials, [*rounds_of("two"), *rounds_of("four", num_peers=4)], space=space)
    traces = {trace["name"]: trace for trace in figures_of(html)["curves"]["plot"]["data"]}
    assert traces["2 peers"]["x"] == [200, 400, 600, None]
    assert traces["4 peers"]["x"] == [400, 800, 1200, None]
    assert traces["4 peers"]["y"][:3] == pytest.approx([0.13, 0.23, 0.33])
    assert traces["4 peers"]["customdata"] == ["four"] * 4


def test_large_study_is_thinned_but_keeps_curve_ends() -> None:
    trials, rounds = many_trials(300, 200)
    html = page(trials, rounds)
    (curve,) = [trace for trace in figures_of(html)["curves"]["plot"]["data"] if trace["name"] == "2 peers"]
    assert len(curve["x"]) <= 45_000
    ends = [index for index, x in enumerate(curve["x"]) if x is None]
    assert len(ends) == 300
    assert {curve["x"][end - 1] for end in ends} == {200 * 200}
    assert len(html) < 15e6


def test_graft_figures_are_drawn_by_site_and_round() -> None:
    grafts = [row | {"alpha": 0.25 * row["round"]} for row in grafts_of("one")]
    figures = figures_of(page([trial("one")], rounds_of("one"), grafts))
    (heat,) = figures["trial/one/alpha/1"]["plot"]["data"]
    assert heat["y"] == ["conv1", "layer1.<conv>"]
    assert numbers(heat["x"]).tolist() == [1, 2]
    assert numbers(heat["z"]).tolist() == [[0.25, 0.5], [0.25, 0.5]]
    assert (heat["zmin"], heat["zmax"]) == (0, 1)
    receiver, donor = figures["trial/one/entropies/0"]["plot"]["data"]
    assert numbers(receiver["z"]) == pytest.approx(1.5)
    assert numbers(donor["z"]) == pytest.approx(1.6)
    before, after = figures["trial/one/invalid/0"]["plot"]["data"]
    assert (numbers(before["z"]).max(), numbers(after["z"]).max()) == (3, 1)


def test_constant_has_a_sentence_in_place_of_a_plot() -> None:
    grafts = [row | {"num_invalid_before": 0, "num_invalid_after": 0} for row in grafts_of("one")]
    figures = figures_of(page([trial("one")], rounds_of("one"), grafts))
    for name, value in (("alpha/1", "0.75"), ("entropies/1", "1.6"), ("invalid/0", "0 filters")):
        assert figures[f"trial/one/{name}"]["plot"] is None
        assert value in figures[f"trial/one/{name}"]["description"]
    trials = [trial(name, val_accuracy=0.5, A=A) for name, A in (("one", 0.2), ("two", 0.4))]
    html = page(trials, rounds_of("one"))
    assert figures_of(html)["history"]["plot"] is None
    assert "50.00 %" in figures_of(html)["history"]["description"]
    (lines,) = figures_of(html)["parallel"]["plot"]["data"]
    assert [dimension["label"] for dimension in lines["dimensions"]] == ["A", "val accuracy"]
    assert "graft.c was 100 in every trial" in html
    assert "slices" not in figures_of(html)


def test_axes_of_shares_end_at_0_and_1() -> None:
    trials, rounds = many_trials(24, 2)
    figures = figures_of(page(trials, rounds))
    axes = [figures[name]["plot"]["layout"]["yaxis"] for name in ("curves", "history", "slices")]
    axes += [figures["slices"]["plot"]["layout"]["yaxis2"], figures["importances"]["plot"]["layout"]["xaxis"]]
    assert {(axis["minallowed"], axis["maxallowed"]) for axis in axes} == {(0, 1)}
    for name in ("slices", "ranks", "landscape"):  # as far as the searched ranges
        assert figures[name]["plot"]["layout"]["xaxis"]["range"] == [0, 1]


def test_long_heat_map_keeps_first_and_last_of_100_columns() -> None:
    figures = figures_of(page([trial("one")], rounds_of("one", num_rounds=250), grafts_of("one", num_rounds=250)))
    heat, _ = figures["trial/one/invalid/0"]["plot"]["data"]
    columns = numbers(heat["x"]).tolist()
    assert len(columns) == 100
    assert (columns[0], columns[-1]) == (1, 249)
    assert not np.isnan(numbers(heat["z"])).any()


@pytest.mark.parametrize(("num_rounds", "dtick"), [(3, 1), (11, 1), (12, None), (250, None)])
def test_few_rounds_have_ticks_at_whole_rounds(num_rounds: int, dtick: int | None) -> None:
    figures = figures_of(page([trial("one")], rounds_of("one", num_rounds=num_rounds)))
    assert figures["trial/one/peers"]["plot"]["layout"]["xaxis2"].get("dtick") == dtick


def test_lineage_starts_at_the_round_of_the_snapshot() -> None:
    events = [{"trial_id": "one", "at": datetime.now(UTC), "round": 2, "peer": 1, "event": "lost", "cause": "killed"}]
    figures = figures_of(page([trial("one")], rounds_of("one"), grafts_of("one", staleness=1), events=events))
    given, received, lost = figures["trial/one/lineage"]["plot"]["data"]
    assert given["x"][:3] == [0, 2, None]
    assert given["y"][:6] == [1, 0, None, 0, 1, None]
    assert received["marker"]["color"] == [0.25, 0.75, 0.25, 0.75]
    assert (lost["x"], lost["y"], lost["text"]) == ([2], [1], ["killed"])


def test_lineage_shows_peers_without_others_between_them() -> None:
    lost = {"trial_id": "one", "at": datetime.now(UTC), "round": 2, "event": "lost", "cause": "killed"}
    plot = figures_of(page([trial("one")], events=[lost | {"peer": peer} for peer in (2, 5)]))["trial/one/lineage"][
        "plot"
    ]
    assert plot["data"][-1]["y"] == [2, 5]
    high, low = plot["layout"]["yaxis"]["range"]
    assert (low < 2, high > 5) == (True, True)


def test_lineage_omits_means_of_several_donors() -> None:
    grafts = [row | {"donor": -1} for row in grafts_of("one")]
    given, received = figures_of(page([trial("one")], rounds_of("one"), grafts))["trial/one/lineage"]["plot"]["data"]
    assert given["x"] == []
    text = received["text"][0]
    assert [part for part in ("round 1", "peer 0", "mean of several", "0.250") if part not in text] == []


def test_distances_are_drawn_or_their_key_is_named() -> None:
    diagnostics = [
        {"trial_id": "one", "round": round_, "peer": 0, "other": 1, "diagnostic": name, "value": value}
        for round_ in (1, 2)
        for name, value in (("distance", 7.0), ("disagreement", 0.25))
    ]
    html = page([trial("one")], rounds_of("one"), diagnostics=diagnostics)
    distance, disagreement = figures_of(html)["trial/one/distances"]["plot"]["data"]
    assert numbers(distance["y"]).tolist() == [7, 7]
    assert numbers(disagreement["y"]).tolist() == [0.25, 0.25]
    assert "diagnostics.pairs: true" not in html
    assert "diagnostics.pairs: true" in page([trial("one")], rounds_of("one"))


def test_importances_rank_the_key_that_decided_accuracy_first() -> None:
    trials, rounds = many_trials(60, 1)
    html = page(trials, rounds)
    assert "60 completed" in html
    (bars,) = figures_of(html)["importances"]["plot"]["data"]
    assert bars["y"][0] == "graft.A"
    assert bars["x"][0] > 0.8
    low, high = bars["error_x"]["arrayminus"][0], bars["error_x"]["array"][0]
    assert 0 <= low < bars["x"][0]
    assert 0 <= high <= 1 - bars["x"][0]
    few = page(trials[:19], rounds[:38])
    assert f"need {FEWEST_TRIALS} completed" in few
    assert "importances" not in figures_of(few)


def test_parallel_coordinates_support_every_kind_of_domain() -> None:
    space = """
name: domains
data: {name: digits}
training: {epochs: {randint: [1, 5]}, lr: {quniform: [0.1, 0.5, 0.1]}}
population: {num_peers: 2}
graft: {alpha: {choice: [adaptive, 0.5]}, A: {uniform: [0.0, 1.0]}, c: {loguniform: [1, 100]}}
"""
    first: dict[str, Any] = {"training.epochs": 3, "training.lr": 0.2, "graft.alpha": "0.5"}
    second: dict[str, Any] = {"training.epochs": 4, "training.lr": 0.3, "graft.alpha": "adaptive", "A": 0.5}
    html = page([trial("one", c=10.0, **first), trial("two", c=1.0, **second)], rounds_of("one"), space=space)
    (lines,) = figures_of(html)["parallel"]["plot"]["data"]
    values = {dimension["label"]: dimension["values"] for dimension in lines["dimensions"]}
    assert values == {
        "epochs": [3, 4],
        "lr": [0.2, 0.3],
        "alpha": [1, 0],
        "A": [0.4, 0.5],
        "c": [1, 0],
        "val accuracy": [0.5, 0.5],
    }


def test_unused_key_has_a_tick_of_its_own_below_the_values() -> None:
    space = SPACE.replace("graft:", "graft: {alpha: {choice: [adaptive, 0.5]}, A: {uniform: [0.0, 1.0]}}\n#")
    unused: dict[str, Any] = {"graft.alpha": "0.5", "graft.A": None}
    html = page([trial("one") | {"graft.alpha": "adaptive"}, trial("two") | unused], rounds_of("one"), space=space)
    (lines,) = figures_of(html)["parallel"]["plot"]["data"]
    (axis,) = [one for one in lines["dimensions"] if one["label"] == "A"]
    assert sorted(axis["values"]) == [-0.125, 0.4]
    assert (axis["range"], axis["ticktext"][axis["tickvals"].index(-0.125)]) == ([-0.125, 1.0], "unused")


def test_values_that_are_null_are_told_apart_from_keys_that_did_not_matter() -> None:
    clip = "training: {epochs: 3, clip_grad_norm: {choice: [null, 1.0]}}"
    space = SPACE.replace("training: {epochs: 3}", clip)
    space = space.replace("graft: {", "graft: {alpha: {choice: [0.5, adaptive]}, ")
    unused: dict[str, Any] = {"training.clip_grad_norm": None, "graft.alpha": "0.5", "graft.A": None, "graft.c": None}
    html = page([trial(name) | unused for name in ("one", "two")], rounds_of("one"), space=space)
    assert "<code>training.clip_grad_norm</code> = <b>null</b>" in html
    assert "<code>graft.A</code>" not in html
    assert "training.clip_grad_norm was null in every trial" in html
    assert "graft.A mattered in no trial" in html


@pytest.mark.parametrize(
    ("values", "dtick"), [("[1, 500]", 1), ("[0.1, 1]", 1), ("[0.02, 0.08]", None), ("[0.05, 0.5]", None)]
)
def test_logarithmic_axis_has_ticks_within_one_power_of_ten(values: str, dtick: int | None) -> None:
    low, high = json.loads(values)
    trials = [trial(f"{index:05}", c=c, val_accuracy=0.1 * index) for index, c in enumerate((low, high))]
    figures = figures_of(page(trials, rounds_of("00000"), space=SPACE.replace("[1, 500]", values)))
    assert figures["slices"]["plot"]["layout"]["xaxis"].get("dtick") == dtick


def test_history_has_the_best_of_the_completed_trials_so_far() -> None:
    scores = (0.3, 0.2, None, 0.9, 0.4)
    status = ("completed", "completed", "failed", "stopped", "completed")
    trials = [
        trial(f"{index:05}", val_accuracy=score, status=one, A=0.1 * index)
        for index, (score, one) in enumerate(zip(scores, status, strict=True))
    ]
    figures = figures_of(page(trials, rounds_of("00000")))
    points, best = figures["history"]["plot"]["data"]
    assert (points["x"], points["y"]) == ([0, 1, 4], [0.3, 0.2, 0.4])
    assert best["y"] == [0.3, 0.3, 0.3, 0.3, 0.4]
    assert "Trial 4" in figures["history"]["description"]
    (only,) = figures["slices"]["plot"]["data"]  # c was the same in all
    assert only["x"] == pytest.approx([0, 0.1, 0.4])
    assert only["marker"]["colorbar"]["dtick"] == 1


def test_two_most_important_keys_are_drawn_together() -> None:
    trials, rounds = many_trials(200, 1)
    figures = figures_of(page(trials, rounds))
    points, _ = figures["ranks"]["plot"]["data"]
    assert len(points["x"]) == 200
    landscape, drawn = figures["landscape"]["plot"]["data"][:2]
    assert len(drawn["x"]) == 150  # a grid of all trials would take megabytes
    assert len(figures["landscape"]["plot"]["layout"]["yaxis"]["range"]) == 2
    assert landscape["reversescale"] is False
    few = figures_of(page(trials[:19], rounds[:38]))
    assert "history" in few
    assert "ranks" not in few


def test_trade_offs_are_shown_with_several_metrics_only() -> None:
    space = SPACE + "tune: {metric: [val_accuracy, flops], mode: [max, min]}\n"
    figures = {"one": (0.9, 10), "two": (0.8, 20), "three": (0.7, 5)}
    trials = [trial(name, val_accuracy=score, flops=flops) for name, (score, flops) in figures.items()]
    html = page(trials, rounds_of("one"), space=space)
    dominated, front = figures_of(html)["pareto"]["plot"]["data"]
    assert (dominated["x"], dominated["y"]) == ([20], [0.8])
    assert (front["x"], front["y"]) == ([5, 10], [0.7, 0.9])
    assert "pareto" not in figures_of(page(trials, rounds_of("one")))


def test_comparison_has_mean_curves_and_no_best_seed() -> None:
    rounds = [
        row | {"val_accuracy": row["val_accuracy"] + 0.1 * seed * (variant == "two")}
        for variant in ("one", "two")
        for seed in (0, 1)
        for row in rounds_of(f"{variant}-{seed}", num_peers=1, num_rounds=3 - (variant == "two" and seed))
    ]
    html = compared({"one": (0.5, 0.6), "two": (0.7, 0.8), "three": (0.1, 0.9)}, rounds=rounds)
    assert 'id="best"' not in html
    assert "parallel" not in figures_of(html)
    assert [best for _, best in rows_of_table(html) if best] == []
    traces = {trace.get("name"): trace for trace in figures_of(html)["curves"]["plot"]["data"]}
    assert list(traces)[-1] == "selected"
    assert numbers(traces["two"]["x"]).tolist() == [100, 200, 300]
    assert numbers(traces["two"]["y"]) == pytest.approx([0.15, 0.25, 0.3])  # the second seed ended after two rounds
    bands = [trace for trace in figures_of(html)["curves"]["plot"]["data"] if trace.get("fill")]
    band = numbers(next(band for band in bands if band["legendgroup"] == "two")["y"])
    assert band[:3] - band[:2:-1] == pytest.approx([0.1 * 2**0.5, 0.1 * 2**0.5, 0], abs=1e-6)
    (seeds,) = [trace for trace in figures_of(html)["curves"]["plot"]["data"] if trace.get("visible") is False]
    assert set(seeds["customdata"]) == {"one-0", "one-1", "two-0", "two-1"}  # for the selected trial


def test_score_is_the_second_column_of_tables() -> None:
    html = page([trial("one", test_accuracy=0.5)], rounds_of("one"))
    heads = re.findall(r'<th scope="col"><button type="button">([^<]+)', html)
    assert heads[:3] == ["trial", "val accuracy", "test accuracy"]
    heads = re.findall(r"<th scope='col'>([^<]+)", compared({"one": (0.5, 0.6), "two": (0.7, 0.8)}))
    assert heads[:3] == ["variant", "test accuracy, %", "difference, points"]


def test_text_from_tables_and_spaces_is_escaped() -> None:
    events = [
        {
            "trial_id": "one",
            "at": datetime.now(UTC),
            "round": 1,
            "peer": 0,
            "event": "lost",
            "cause": "</script><script>alert(1)</script>",
        }
    ]
    html = page([trial("one")], rounds_of("one"), grafts_of("one", sites=["</script><!--"]), events=events)
    assert html.count("<script") == html.count("</script>") == 3
    assert "alert(1)</script>" not in html
    assert "A &lt;processor&gt;" in html
    assert figures_of(html)["trial/one/invalid/0"]["plot"]["data"][0]["y"] == ["</script><!--"]


def description(grafts: Sequence[Mapping[str, Any]] = (), **sections: Any) -> str:
    """Return the report's description of a configuration, in lower case."""
    settings = Settings.model_validate({"training": {"epochs": 2}, **sections})
    return " ".join(
        configuration_sentences(settings, pa.Table.from_pylist(list(grafts), schemas([ACCURACY])["grafts"]))
    ).lower()


def test_description_gives_peers_epochs_rounds_and_alpha() -> None:
    sections: dict[str, Any] = {
        "training": {"epochs": 12},
        "population": {"num_peers": 4, "epochs_per_round": 3},
        "graft": {"A": 0.4, "c": 100.0},
    }
    text = description(**sections)
    parts = ("4 resnet32", "12 epochs", "4 rounds", "0.30 and 0.70", "0.01 nats", "0.600 or 0.400")  # atan(1) / pi
    assert [part for part in parts if part not in text] == []
    with_records = description(grafts_of("one"), **sections)
    assert [part for part in ("0.250 to 0.750", "0.500 on average") if part not in with_records] == []


@pytest.mark.parametrize(
    ("sections", "phrase"),
    [
        ({"population": {"num_peers": 1}}, "one resnet32 network"),
        ({"population": {"num_peers": 2}}, "no weights"),
        ({"graft": {"alpha": 0.5}}, "alpha is 0.5: the average"),
        ({"graft": {"alpha": 0.25}}, "25%"),
        ({"graft": {"source": "noise"}}, "noise"),
        ({"graft": {"source": "internal"}}, "strongest filters"),
        ({"graft": {"criterion": "l1"}}, "l1 norm of each layer"),
        ({"graft": {}, "population": {"topology": "all"}}, "mean of all others"),
        ({"training": {"epochs": 4}, "population": {"branch_at": 0.5}}, "trains the first 2 epochs alone"),
        ({"training": {"epochs": 4}, "population": {"sync_until": 0.75}}, "first 3 epochs they average"),
        (
            {"training": {"epochs": 4}, "population": {"branch_at": 0.5, "diversity": "learning_rate"}},
            "from the same weights",
        ),
        ({"population": {"diversity": "learning_rate"}}, "from different weights"),
        ({"papa": {}, "align": {}}, "permuted"),
        ({"population": {"output": "ensemble"}}, "ensemble"),
        ({"repr": {}}, "(repr)"),
        ({"graft": {"alpha": 0.999}}, "keeps 99.9% of"),
    ],
)
def test_description_names_methods_and_settings(sections: dict[str, Any], phrase: str) -> None:
    assert phrase in description(**sections)


def test_median_entropy_difference_explains_layer_level_alpha() -> None:
    text = description(grafts_of("one"), graft={"c": 1.0})  # differences of 0.1 and 0
    assert "did not decide" not in text
    assert "0.05 nats" in text
    assert "0.506 or 0.494" in text  # 0.4 / pi * atan(0.05) + 1/2


@pytest.mark.parametrize(
    ("graft", "deciding", "unit"),
    [
        ({"criterion": "l1"}, "l1 norm of each layer", "in l1 norm"),
        ({"level": "filter"}, "entropy of each filter", "nats"),
        ({"criterion": "l1", "level": "filter"}, "l1 norm of each filter", "in l1 norm"),
    ],
)
def test_unused_layer_entropies_do_not_explain_alpha(graft: dict[str, Any], deciding: str, unit: str) -> None:
    text = description(grafts_of("one"), graft={"c": 1.0, **graft})
    assert deciding in text
    assert "layer entropies did not decide" in text
    assert "median" not in text
    assert "0.05" not in text
    assert f"0.01 {unit}" in text
    assert "0.501 or 0.499" in text  # 0.4 / pi * atan(0.01) + 1/2
    assert ("mean alpha of a layer's filters" in text) == (graft.get("level") == "filter")


def write_run(folder: Path, trial_id: str, space: str = SPACE, **figures: Any) -> None:
    """Write a run with one trial of a search."""
    write_trials(folder, space, {"graft.A": pa.float64(), "graft.c": pa.float64()}, trial(trial_id, **figures))


def write_trials(folder: Path, space: str, searched: dict[str, pa.DataType], *rows: dict[str, Any]) -> None:
    """Write a run with these trials, and rounds of the first one."""
    (folder / "tune").mkdir(parents=True)
    run, text = RunFolder(str(folder)), parse_space(yaml.safe_load(space)).to_yaml()
    run.write_text("space.yaml", text)
    run.write_text("run.json", json.dumps(PROVENANCE))
    run.write_trials([{key: row.get(key) for key in (*row, "epochs", "parameters")} for row in rows], searched)
    trial_id = rows[0]["trial_id"]
    for name, of_trial in (("rounds", rounds_of(trial_id)), ("grafts", grafts_of(trial_id))):
        schema = run.read_table(name).schema
        Folder(str(folder)).write_tables(f"{name}.parquet", [pa.Table.from_pylist(of_trial, schema)], schema)


def report(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["report", *arguments])


def test_command_writes_into_the_run_folder_or_out(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "00000")
    assert report(str(tmp_path / "run")).stdout == f"{tmp_path}/run/report.html\n"
    assert report(str(tmp_path / "run"), "--out", str(tmp_path / "elsewhere.html")).exit_code == 0
    assert (tmp_path / "run/report.html").read_text() == (tmp_path / "elsewhere.html").read_text()
    assert "trial/00000/alpha/0" in figures_of((tmp_path / "elsewhere.html").read_text())


def test_runs_without_provenance_are_shown(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, "00000")
        (tmp_path / name / "run.json").write_text('{"command": ["pyth')
    assert report(str(tmp_path / "a")).exit_code == 0
    assert "run.json" in (tmp_path / "a/report.html").read_text()
    assert report(str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "both.html")).exit_code == 0


def test_several_runs_show_their_differing_keys(tmp_path: Path) -> None:
    write_run(tmp_path / "a/run", "00000")
    write_run(tmp_path / "b/run", "00000", SPACE.replace("epochs: 3", "epochs: 3, lr: 0.05") + "seed: 7\n")
    result = report(str(tmp_path / "a/run"), str(tmp_path / "b/run"), "--out", str(tmp_path / "both.html"))
    assert result.stdout == f"{tmp_path}/both.html\n"
    html = (tmp_path / "both.html").read_text()
    assert "<title>a/run and b/run</title>" in html
    assert "differ in seed," in html
    keys = re.findall(r'<th scope="row">([\w.]+)</th>', html)
    assert keys == ["seed", "training.lr"]
    curves = figures_of(html)["curves"]["plot"]["data"]
    assert [trace["name"] for trace in curves[:2]] == ["a/run", "b/run"]
    assert curves[0]["x"] == [200, 400, 600, None]


def test_best_trials_of_several_runs_are_shown_with_their_costs(tmp_path: Path) -> None:
    write_run(tmp_path / "old", "00000")
    write_run(tmp_path / "new", "00000", epochs=12, time_s=90.0, inference_flops=25_000_000)
    report(str(tmp_path / "old"), str(tmp_path / "new"), "--out", str(tmp_path / "both.html"))
    html = (tmp_path / "both.html").read_text()
    heads = re.findall(r'<th scope="col">([^<]+)</th>', html)
    rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr><th scope=.row.*?</tr>", html, re.DOTALL)[:2]]
    assert heads[:3] == ["run", "validation accuracy", "test accuracy"]
    costs = heads.index("its images") - 1
    assert heads[costs + 1 : costs + 5] == [
        "its images",
        "its epochs per peer",
        "its time, one device per peer",
        "its inference FLOPs",
    ]
    assert [row[costs : costs + 4] for row in rows] == [["600", "", "", ""], ["600", "12", "0:01:30", "25,000,000"]]


def test_comparison_beside_a_search_has_no_best_trial_but_all_scores_by_variant(tmp_path: Path) -> None:
    write_run(tmp_path / "search", "00000")
    both = [("one", 0.5), ("one", 0.9), ("two", 0.7)]
    rows = [
        trial(f"{number:05}") | {"variant": variant, "seed": number % 2, "val_accuracy": score}
        for number, (variant, score) in enumerate(both)
    ]
    searched = {"variant": pa.string(), "seed": pa.int64()}
    write_trials(tmp_path / "compared", COMPARED % "one: {}, two: {}", searched, *rows)
    report(str(tmp_path / "search"), str(tmp_path / "compared"), "--out", str(tmp_path / "both.html"))
    html = (tmp_path / "both.html").read_text()
    row = re.findall("<tr><th scope=.row.*?</tr>", html, re.DOTALL)[1]
    cells = re.findall("<td>(.*?)</td>", row)
    assert cells[:3] == ["", "", ""]  # the best of its seeds is luck
    assert "2 variants" in row
    figures = figures_of(html)
    names = [trace["name"] for trace in figures["curves"]["plot"]["data"]]
    assert "search" in names
    assert "compared" not in names
    boxes = {trace["name"]: trace["y"] for trace in figures["trials"]["plot"]["data"]}
    assert boxes == {"search": [0.5], "compared: one": [0.5, 0.9], "compared: two": [0.7]}


def test_equal_spaces_have_no_table_of_differing_keys(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / name, "00000")
    report(str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(tmp_path / "both.html"))
    html = (tmp_path / "both.html").read_text()
    assert "same search space" in html
    assert "differ in" not in html


def report_refusal(*arguments: str) -> str:
    """Return the error line of a refused `graftpop report`; assert that it is one line."""
    result = report(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return str(result.stderr)


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    message = report_refusal(str(tmp_path))
    assert message.startswith(f"error: {tmp_path}: ")
    assert "space.yaml" in message


def test_unwritable_out_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "00000")
    message = report_refusal(str(tmp_path / "run"), "--out", str(tmp_path / "not/there.html"))
    assert message.startswith(f"error: --out {tmp_path}/not/there.html: ")
    assert "No such file or directory" in message


def test_markdown_of_two_runs_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / name, "00000")
    message = report_refusal(str(tmp_path / "one"), str(tmp_path / "two"), "--markdown")
    assert message.startswith("error: --markdown: ")
    assert "got 2 runs" in message


def test_report_is_written_while_the_run_is_in_progress(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "00000")
    live = LiveReport(RunFolder(str(tmp_path / "run")))
    live.changed()
    live.changed()  # the first is still being written
    live.close()
    assert "trial/00000/alpha/0" in figures_of((tmp_path / "run/report.html").read_text())


def test_failed_live_report_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_run(tmp_path / "run", "00000")
    (tmp_path / "run/rounds.parquet").write_bytes(b"truncated")
    live = LiveReport(RunFolder(str(tmp_path / "run")))
    live.changed()
    live.close()
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}/run/report.html: ")
    assert "rounds.parquet" in message
    assert not (tmp_path / "run/report.html").exists()
