"""The report page, from tables as a run leaves them."""

import base64
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from report_makers import FACTS, SPACE, drawings_of, grafts_of, many_trials, page, rounds_of, trial
from typer.testing import CliRunner

from graftpop.__main__ import app
from graftpop.reporting import LiveReport
from graftpop.reporting.configuration import configuration_sentences
from graftpop.run.storage import Folder
from graftpop.run.tables import GRAFTS_SCHEMA, RunFolder
from graftpop.settings import Settings
from graftpop.space import parse_space


def numbers(packed: Any) -> np.ndarray[Any, Any]:
    """Return an array of a drawing, as plotly packs it."""
    flat = np.frombuffer(base64.b64decode(packed["bdata"]), dtype=packed["dtype"])
    return flat.reshape([int(num) for num in str(packed.get("shape", flat.size)).split(",")])


def rows_of_table(html: str) -> list[tuple[str, str]]:
    return re.findall(r'<tr data-trial="(\w+)"( class="best")?>', html)


def test_a_run_without_a_round_has_a_report_that_says_so() -> None:
    html = page([])
    assert "No trial has finished a round yet." in html
    assert "No round is done yet." in html
    assert drawings_of(html) == {}


def test_the_best_completed_trial_stands_out() -> None:
    html = page(
        [
            trial("one", test_accuracy=0.4, ensemble_test_accuracy=0.45),
            trial("two", status="stopped", val_accuracy=0.9),
        ],
        [*rounds_of("one"), *rounds_of("two")],
    )
    assert rows_of_table(html) == [("one", ' class="best"'), ("two", "")]
    assert "<b>40.00 %</b> test accuracy" in html
    curves = drawings_of(html)["curves"]
    assert "The best, trial one, reaches 31.00% after 600 images." in curves["says"]
    (best,) = [trace for trace in curves["figure"]["data"] if trace["name"] == "best: one"]
    assert (best["x"], best["y"]) == ([200, 400, 600], pytest.approx([0.11, 0.21, 0.31]))


def test_equal_trials_are_told_of() -> None:
    assert "1 other trial reached the same validation accuracy." in page([trial("one"), trial("two")])
    assert "reached the same" not in page([trial("one"), trial("two", val_accuracy=0.4)])


def test_curves_are_the_best_peers_by_the_images_of_all_peers() -> None:
    space = SPACE.replace("num_peers: 2", "num_peers: {choice: [2, 4]}")
    trials = [trial("two", **{"population.num_peers": 2}), trial("four", **{"population.num_peers": 4})]
    html = page(trials, [*rounds_of("two"), *rounds_of("four", num_peers=4)], space=space)
    traces = {trace["name"]: trace for trace in drawings_of(html)["curves"]["figure"]["data"]}
    assert traces["2 peers"]["x"] == [200, 400, 600, None]
    assert traces["4 peers"]["x"] == [400, 800, 1200, None]
    assert traces["4 peers"]["y"][:3] == pytest.approx([0.13, 0.23, 0.33])
    assert traces["4 peers"]["customdata"] == ["four"] * 4


def test_a_large_study_is_drawn_with_fewer_points_and_keeps_the_ends_of_its_curves() -> None:
    trials, rounds = many_trials(300, 200)
    html = page(trials, rounds)
    (curve,) = [trace for trace in drawings_of(html)["curves"]["figure"]["data"] if trace["name"] == "2 peers"]
    assert len(curve["x"]) <= 45_000
    ends = [index for index, x in enumerate(curve["x"]) if x is None]
    assert len(ends) == 300
    assert {curve["x"][end - 1] for end in ends} == {200 * 200}
    assert len(html) < 15e6


def test_the_alpha_of_every_receiver_is_drawn_by_site_and_round() -> None:
    drawings = drawings_of(page([trial("one")], rounds_of("one"), grafts_of("one")))
    (heat,) = drawings["trial/one/alpha/1"]["figure"]["data"]
    assert heat["y"] == ["conv1", "layer1.<conv>"]
    assert numbers(heat["x"]).tolist() == [1, 2]
    assert numbers(heat["z"]).tolist() == [[0.75, 0.75], [0.75, 0.75]]
    assert (heat["zmin"], heat["zmax"]) == (0.25, 0.75)
    receiver, donor = drawings["trial/one/entropies/1"]["figure"]["data"]
    assert numbers(receiver["z"]) == pytest.approx(1.6)
    assert numbers(donor["z"]) == pytest.approx(1.6)
    before, after = drawings["trial/one/invalid/0"]["figure"]["data"]
    assert (numbers(before["z"]).max(), numbers(after["z"]).max()) == (3, 1)


def test_long_trainings_have_at_most_a_hundred_columns_and_the_last_round() -> None:
    drawings = drawings_of(page([trial("one")], rounds_of("one", num_rounds=250), grafts_of("one", num_rounds=250)))
    (heat,) = drawings["trial/one/alpha/0"]["figure"]["data"]
    columns = numbers(heat["x"]).tolist()
    assert len(columns) == 100
    assert (columns[0], columns[-1]) == (1, 249)
    assert not np.isnan(numbers(heat["z"])).any()


def test_the_lineage_leads_from_the_round_of_the_snapshot() -> None:
    events = [{"trial_id": "one", "at": datetime.now(UTC), "round": 2, "peer": 1, "event": "lost", "cause": "killed"}]
    drawings = drawings_of(page([trial("one")], rounds_of("one"), grafts_of("one", staleness=1), events=events))
    given, received, lost = drawings["trial/one/lineage"]["figure"]["data"]
    assert given["x"][:3] == [0, 2, None]
    assert given["y"][:6] == [1, 0, None, 0, 1, None]
    assert received["marker"]["color"] == [0.25, 0.75, 0.25, 0.75]
    assert (lost["x"], lost["y"], lost["text"]) == ([2], [1], ["killed"])


def test_a_mean_of_all_others_has_no_line_and_says_so() -> None:
    grafts = [row | {"donor": -1} for row in grafts_of("one")]
    given, received = drawings_of(page([trial("one")], rounds_of("one"), grafts))["trial/one/lineage"]["figure"]["data"]
    assert given["x"] == []
    assert received["text"][0] == "after round 1: peer 0 from the mean of several, mean alpha 0.250"


def test_distances_are_drawn_where_they_were_measured() -> None:
    diagnostics = [
        {"trial_id": "one", "round": round_, "peer": 0, "other": 1, "diagnostic": measure, "value": value}
        for round_ in (1, 2)
        for measure, value in (("distance", 7.0), ("disagreement", 0.25))
    ]
    html = page([trial("one")], rounds_of("one"), diagnostics=diagnostics)
    distance, disagreement = drawings_of(html)["trial/one/distances"]["figure"]["data"]
    assert numbers(distance["y"]).tolist() == [7, 7]
    assert numbers(disagreement["y"]).tolist() == [0.25, 0.25]
    assert "diagnostics.pairs: true" not in html
    assert "diagnostics.pairs: true" in page([trial("one")], rounds_of("one"))


def test_importances_find_what_mattered() -> None:
    trials, rounds = many_trials(60, 1)
    html = page(trials, rounds)
    assert "from 60 completed trials" in html
    (bars,) = drawings_of(html)["importances"]["figure"]["data"]
    assert bars["y"][0] == "graft.A"
    assert bars["x"][0] > 0.8
    assert "Importances need 4 completed trials" in page(trials[:3], rounds[:6])


def test_parallel_coordinates_lead_through_every_kind_of_domain() -> None:
    space = """
name: domains
data: {name: digits}
training: {epochs: {randint: [1, 5]}, lr: {quniform: [0.1, 0.5, 0.1]}}
population: {num_peers: 2}
graft: {alpha: {choice: [adaptive, 0.5]}, A: {uniform: [0.0, 1.0]}, c: {loguniform: [1, 100]}}
"""
    searched = {"training.epochs": 3, "training.lr": 0.2, "graft.alpha": "0.5"}
    html = page([trial("one", c=10.0, **searched), trial("two", c=1.0, **searched)], rounds_of("one"), space=space)
    (lines,) = drawings_of(html)["parallel"]["figure"]["data"]
    values = {dimension["label"]: dimension["values"] for dimension in lines["dimensions"]}
    assert values == {
        "epochs": [3, 3],
        "lr": [0.2, 0.2],
        "alpha": [1, 1],
        "A": [0.4, 0.4],
        "c": [1, 0],
        "val accuracy": [0.5, 0.5],
    }


def test_what_stands_in_tables_and_spaces_stays_text() -> None:
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
    assert drawings_of(html)["trial/one/alpha/0"]["figure"]["data"][0]["y"] == ["</script><!--"]


def sentences(grafts: list[dict[str, Any]] | None = None, **sections: Any) -> str:
    settings = Settings.model_validate({"training": {"epochs": 2}, **sections})
    return " ".join(configuration_sentences(settings, pa.Table.from_pylist(grafts or [], GRAFTS_SCHEMA)))


def test_configuration_gives_the_bounds_of_alpha_and_an_example() -> None:
    sections = {"training": {"epochs": 12}, "population": {"num_peers": 4, "epochs_per_round": 3}}
    text = sentences(**sections, graft={"A": 0.4, "c": 100.0})
    assert all(part in text for part in ("4 resnet32 networks", "12 epochs each", "4 rounds"))
    assert "between 0.30 and 0.70" in text
    assert "0.01 nats moves it to 0.600 or 0.400" in text  # 0.4 / pi * atan(1) + 1/2
    text = sentences(grafts_of("one"), **sections, graft={"A": 0.4, "c": 100.0})
    assert "between 0.250 and 0.750, 0.500 on average" in text
    assert "median difference of this trial" in text


@pytest.mark.parametrize("graft", [{"criterion": "l1"}, {"level": "filter"}, {"criterion": "l1", "level": "filter"}])
def test_layer_entropies_explain_alpha_only_if_they_decided_it(graft: dict[str, str]) -> None:
    text = sentences(grafts_of("one"), graft=graft)
    assert "median difference" not in text
    assert "did not decide" in text
    assert ("L1 norm" in text) == (graft.get("criterion") == "l1")
    assert f"of each {graft.get('level', 'layer')} decides alpha" in text
    assert "did not decide" not in sentences(grafts_of("one"), graft={})


@pytest.mark.parametrize(
    ("sections", "phrase"),
    [
        ({"population": {"num_peers": 1}}, "One resnet32 network trains for 2 epochs."),
        ({"population": {"num_peers": 2}}, "exchange no weights"),
        ({"graft": {"alpha": 0.5}}, "Alpha is 0.5: plain averaging"),
        ({"graft": {"alpha": 0.25}}, "25%"),
        ({"graft": {"source": "noise"}}, "noise"),
        ({"graft": {"source": "internal"}}, "strongest filters"),
        ({"graft": {}, "population": {"topology": "all"}}, "the mean of all others"),
        ({"population": {"output": "ensemble"}}, "ensemble"),
        ({"repr": {}}, "(RePr)"),
    ],
)
def test_configuration_describes_its_methods(sections: dict[str, Any], phrase: str) -> None:
    assert phrase in sentences(**sections)


def write_run(folder: Path, trial_id: str, space: str = SPACE) -> None:
    """Write a run with one trial as a study leaves it."""
    (folder / "tune").mkdir(parents=True)
    run, text = RunFolder(str(folder)), parse_space(yaml.safe_load(space)).to_yaml()
    run.write_text("space.yaml", text)
    run.write_text("run.json", json.dumps(FACTS))
    searched = {"graft.A": pa.float64(), "graft.c": pa.float64()}
    row = trial(trial_id)
    run.write_trials([{key: row.get(key) for key in (*row, "epochs", "parameters")}], searched)
    for name, rows in (("rounds", rounds_of(trial_id)), ("grafts", grafts_of(trial_id))):
        schema = run.read_table(name).schema
        Folder(str(folder)).write_tables(f"{name}.parquet", [pa.Table.from_pylist(rows, schema)], schema)


def report(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["report", *arguments])


def test_the_command_writes_the_report_into_the_run_or_where_it_is_told(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "00000")
    assert report(str(tmp_path / "run")).stdout == f"{tmp_path}/run/report.html\n"
    assert report(str(tmp_path / "run"), "--out", str(tmp_path / "elsewhere.html")).exit_code == 0
    assert (tmp_path / "run/report.html").read_text() == (tmp_path / "elsewhere.html").read_text()
    assert "trial/00000/alpha/0" in drawings_of((tmp_path / "elsewhere.html").read_text())


def test_several_runs_are_put_side_by_side(tmp_path: Path) -> None:
    write_run(tmp_path / "a/run", "00000")
    write_run(tmp_path / "b/run", "00000", SPACE.replace("epochs: 3", "epochs: 3, lr: 0.05") + "seed: 7\n")
    ended = report(str(tmp_path / "a/run"), str(tmp_path / "b/run"), "--out", str(tmp_path / "both.html"))
    assert ended.stdout == f"{tmp_path}/both.html\n"
    html = (tmp_path / "both.html").read_text()
    assert "<title>a/run and b/run</title>" in html
    assert "the runs differ in seed" in html
    keys = re.findall(r'<th scope="row">([\w.]+)</th>', html)
    assert keys == ["seed", "training.lr"]
    curves = drawings_of(html)["curves"]["figure"]["data"]
    assert [trace["name"] for trace in curves[:2]] == ["a/run", "b/run"]
    assert curves[0]["x"] == [200, 400, 600, None]


def test_runs_of_equal_settings_are_said_to_be(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / name, "00000")
    report(str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(tmp_path / "both.html"))
    assert "The spaces of these runs are the same." in (tmp_path / "both.html").read_text()


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    ended = report(str(tmp_path))
    assert ended.exit_code == 2
    assert ended.stderr.startswith(f"error: {tmp_path}: is no run, it has no space.yaml")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "00000")
    ended = report(str(tmp_path / "run"), "--out", str(tmp_path / "not/there.html"))
    assert ended.exit_code == 2
    assert ended.stderr == (
        f"error: --out {tmp_path}/not/there.html: cannot be written: No such file or directory; choose another file\n"
    )


def test_markdown_is_of_one_run(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / name, "00000")
    ended = report(str(tmp_path / "one"), str(tmp_path / "two"), "--markdown")
    assert ended.exit_code == 2
    assert ended.stderr.startswith("error: --markdown: prints the comparison of one run, got 2 runs")


def test_a_report_is_written_while_the_run_goes_on(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "00000")
    live = LiveReport(RunFolder(str(tmp_path / "run")))
    live.changed()
    live.changed()  # while the first is being written
    live.close()
    assert "trial/00000/alpha/0" in drawings_of((tmp_path / "run/report.html").read_text())


def test_a_report_that_cannot_be_written_now_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path / "run", "00000")
    (tmp_path / "run/rounds.parquet").write_bytes(b"cut short")
    live = LiveReport(RunFolder(str(tmp_path / "run")))
    live.changed()
    live.close()
    assert "report.html: cannot be written now" in caplog.text
    assert not (tmp_path / "run/report.html").exists()
