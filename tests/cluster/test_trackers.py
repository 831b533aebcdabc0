"""Trials in experiment trackers, without a network, also after an interruption."""

import json
import logging
import struct
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any, get_args

import pytest
from watchers import interrupt_at_round

from graftpop.cluster.connection import Connection
from graftpop.cluster.study import run_study
from graftpop.cluster.trackers import Tracker
from graftpop.errors import GraftpopError, ResourceError, SpaceError
from graftpop.run.run_folder import RunFolder
from graftpop.settings import TuneSettings
from graftpop.space import Space, parse_space
from graftpop.study.trackers import TRACKERS, check_packages, check_trackers

pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings("default")]  # of the trackers' packages
UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_DIR", "MLFLOW_TRACKING_URI", "COMET_API_KEY", "COMET_OFFLINE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def space(*trackers: str, epochs: int = 3, num_samples: int = 2) -> Space:
    return parse_space(
        {
            "name": "logged",
            "data": {"name": "digits", "max_train_images": 300},
            "model": {"name": "resnet8"},
            "training": {"epochs": epochs, "batch_size": 128},
            "population": {"num_peers": 2, "peers_per_actor": 2},
            "resources": {"cpus_per_peer": 1.25},  # one trial at a time; the next one reuses its process
            "graft": {"A": {"uniform": [0.0, 1.0]}},
            "tune": {"sampler": "random", "num_samples": num_samples, "trackers": list(trackers)},
        }
    )


def run_folder(folder: Path) -> RunFolder:
    made = RunFolder(str(folder))
    made.create()
    return made


def runs_of_mlflow(uri: str) -> dict[str, Any]:
    """Return the runs of the one experiment by name, each with the steps of its validation accuracy."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'logged'")
    runs = client.search_runs([experiment.experiment_id])
    return {
        run.info.run_name: (run, [one.step for one in client.get_metric_history(run.info.run_id, "val_accuracy")])
        for run in runs
    }


def records_of_wandb(file: Path) -> dict[str, list[Any]]:
    """Return the records of a run of Weights & Biases by their kind: it writes the log format of LevelDB."""
    from wandb.proto import wandb_internal_pb2

    content, at, record, found = file.read_bytes(), 7, b"", defaultdict(list)
    while at < len(content):
        left_in_block = 32768 - at % 32768
        if left_in_block < 7:
            at += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            parsed = wandb_internal_pb2.Record.FromString(record)  # type: ignore[attr-defined]  # made at import
            name = parsed.WhichOneof("record_type")
            found[name].append(getattr(parsed, name))
            record = b""
    return found


def runs_of_wandb(folder: Path) -> dict[str, tuple[Any, list[dict[str, Any]], int]]:
    """Return the runs of a folder by name, each with its rounds and its exit code."""
    found = {}
    for file in folder.glob("wandb/offline-run-*/*.wandb"):
        records = records_of_wandb(file)
        rounds = [
            {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in one.item}
            for one in records["history"]
        ]
        assert not records.keys() & {"stats", "output", "output_raw"}
        found[records["run"][0].display_name] = records["run"][0], rounds, records["exit"][0].exit_code
    return found


def runs_of_aim(folder: Path) -> dict[str, tuple[str, dict[str, Any], dict[str, Any], list[str]]]:
    """Return the runs of a folder by name, each with its experiment, settings, table of each metric, and tags."""
    from aim import Repo  # type: ignore[attr-defined]  # not in its __all__
    from aim import Run as AimRun  # type: ignore[attr-defined]

    found = {}
    for run_hash in Repo(str(folder)).list_all_runs():
        run = AimRun(run_hash, repo=str(folder), system_tracking_interval=None, capture_terminal_logs=False)
        tables = {name: run.get_metric(name, context).dataframe() for name, context, _ in run.iter_metrics_info()}
        found[run.name] = run.experiment, run["hparams"], tables, run.tags
        run.close()
    return found


def runs_of_comet(folder: Path) -> dict[str, tuple[list[int], set[str]]]:
    """Return the archived runs of a folder by name, each with the steps of its validation accuracy and its tags."""
    found = {}
    for file in folder.glob("*.zip"):
        messages, archive = defaultdict(list), zipfile.ZipFile(file)
        for line in archive.read("messages.json").splitlines():
            message = json.loads(line)
            messages[message["type"]].append(message["payload"])
        (name,) = (other["value"] for other in messages["log_other"] if other["key"] == "Name")
        metrics = [message["metric"] for message in messages["metric_msg"]]
        steps = [metric["step"] for metric in metrics if metric["metricName"] == "val_accuracy"]
        found[name] = steps, set(json.loads(archive.read("experiment.json"))["tags"])
    return found


# logged runs


@pytest.mark.ray
def test_interrupted_and_resumed_study_is_in_every_tracker(connection: Connection, tmp_path: Path) -> None:
    wanted, folder = space("mlflow", "wandb", *({"aim"} & INSTALLED), epochs=6), run_folder(tmp_path / "run")
    check_trackers(wanted, folder)
    interrupted = run_study(wanted, folder, connection, interrupt_at_round(2))
    assert "interrupted" in {trial.status for trial in interrupted}
    resumed = {trial.trial_id: trial.round for trial in interrupted if trial.status == "interrupted"}
    trials = run_study(wanted, folder, connection, lambda trials: None)
    assert [trial.status for trial in trials] == ["completed"] * 2

    in_mlflow, in_wandb = runs_of_mlflow(f"sqlite:///{tmp_path}/run/mlflow.db"), runs_of_wandb(tmp_path / "run")
    in_aim = runs_of_aim(tmp_path / "run") if "aim" in INSTALLED else {}
    assert in_mlflow.keys() == in_wandb.keys() >= {f"{trial_id} (resumed)" for trial_id in resumed}
    for trial in trials:
        last = f"{trial.trial_id} (resumed)" if trial.trial_id in resumed else trial.trial_id
        run, steps = in_mlflow[last]
        assert (run.info.status, run.data.tags["run"], steps[-1]) == ("FINISHED", "run", 6)
        assert run.data.params["graft.A"] == str(trial.sample["graft.A"])
        assert (run.data.params["training.epochs"], run.data.params["trial"]) == ("6", trial.trial_id)
        assert {name: run.data.metrics[name] for name in ("val_accuracy", "mean_val_accuracy", "test_accuracy")} == {
            name: trial.result[name] for name in ("val_accuracy", "mean_val_accuracy", "test_accuracy")
        }
        assert {"train_loss", "num_invalid_filters", "images_per_s"} <= run.data.metrics.keys()

        described, rounds, exit_code = in_wandb[last]
        assert (described.project, described.run_group) == ("logged", "run")
        config = {item.key: json.loads(item.value_json) for item in described.config.update}
        assert (config["graft.A"], config["training.epochs"]) == (trial.sample["graft.A"], 6)
        assert ([one["_step"] for one in rounds], exit_code) == (steps, 0)
        assert rounds[-1]["test_accuracy"] == trial.result["test_accuracy"]

        if "aim" in INSTALLED:
            experiment, hparams, tables, tags = in_aim[last]
            assert (experiment, hparams["graft.A"], hparams["run"]) == ("logged", trial.sample["graft.A"], "run")
            assert tables["val_accuracy"]["step"].tolist() == steps
            assert tables["test_accuracy"]["value"].tolist() == [trial.result["test_accuracy"]]
            assert not any(name.startswith("__system__") for name in tables)
            assert tags == []
    for trial_id in (trial_id for trial_id, num_rounds in resumed.items() if num_rounds):
        run, steps = in_mlflow[trial_id]
        assert (run.info.status, in_wandb[trial_id][2]) == ("FAILED", 1)
        assert steps == list(range(1, len(steps) + 1))
        assert max(steps) < min(in_mlflow[f"{trial_id} (resumed)"][1])


@pytest.mark.ray
def test_mlflow_and_comet_use_places_from_the_environment(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "files").as_uri())
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", str(tmp_path / "comet"))
    trackers = ("mlflow", "comet") if "comet" in INSTALLED else ("mlflow",)
    run_study(space(*trackers, epochs=1), run_folder(tmp_path / "run"), connection, lambda trials: None)
    assert {name: steps for name, (_, steps) in runs_of_mlflow((tmp_path / "files").as_uri()).items()} == {
        "00000": [1],
        "00001": [1],
    }
    assert not (tmp_path / "run" / "mlflow.db").exists()
    if "comet" in trackers:
        assert runs_of_comet(tmp_path / "comet") == {"00000": ([1], {"run"}), "00001": ([1], {"run"})}


def test_runs_side_by_side_keep_their_own_figures_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_OFFLINE_DIRECTORY", str(tmp_path / "comet"))
    folder = run_folder(tmp_path / "run")
    for tracker in INSTALLED:
        client = TRACKERS[tracker]("logged", folder)
        client.connect()
        good, bad = (client.start(name, {"model.teachers": [{"epochs": 1}], "seed": None}) for name in ("good", "bad"))
        for round in (1, 2, 3):
            client.log(good, round, {"epoch": round, "val_accuracy": 0.5})
            client.log(bad, 10 * round, {"epoch": round, "val_accuracy": float("nan")})
        client.end(bad, failed=True)
        client.log(good, 4, {"epoch": 4, "val_accuracy": 0.75})
        client.end(good, failed=False)
        client.close()
    steps = {"good": [1, 2, 3, 4], "bad": [10, 20, 30]}
    if "mlflow" in INSTALLED:
        in_mlflow = runs_of_mlflow(f"sqlite:///{tmp_path}/run/mlflow.db")
        assert {name: found for name, (_, found) in in_mlflow.items()} == steps
        assert {name: run.info.status for name, (run, _) in in_mlflow.items()} == {"good": "FINISHED", "bad": "FAILED"}
    if "wandb" in INSTALLED:
        in_wandb = runs_of_wandb(tmp_path / "run")
        assert {name: [one["_step"] for one in rounds] for name, (_, rounds, _) in in_wandb.items()} == steps
        assert {name: exit_code for name, (_, _, exit_code) in in_wandb.items()} == {"good": 0, "bad": 1}
    if "comet" in INSTALLED:
        in_comet = runs_of_comet(tmp_path / "comet")
        assert in_comet == {"good": (steps["good"], {"run"}), "bad": (steps["bad"], {"run", "failed"})}
    if "aim" in INSTALLED:
        in_aim = runs_of_aim(tmp_path / "run")
        assert {name: tables["val_accuracy"]["step"].tolist() for name, (_, _, tables, _) in in_aim.items()} == steps
        assert {name: tags for name, (_, _, _, tags) in in_aim.items()} == {"good": [], "bad": ["failed"]}


# unavailable trackers


@pytest.mark.ray
def test_unreachable_tracker_is_logged_and_ends_no_trial(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The study is already running, so no check refuses the trackers."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", UNREACHABLE)
    monkeypatch.setenv("WANDB_MODE", "online")
    with caplog.at_level(logging.WARNING, "graftpop"):
        trials = run_study(space("mlflow", "wandb"), run_folder(tmp_path / "run"), connection, lambda trials: None)
    assert [trial.status for trial in trials] == ["completed"] * 2
    warnings = [message for message in caplog.messages if message.startswith("tune.trackers")]
    assert [message.partition(" API request to ")[0] for message in warnings if "mlflow" in message] == [
        "tune.trackers: mlflow:"
    ]
    (about_wandb,) = [message for message in warnings if "wandb" in message]
    assert about_wandb.startswith("tune.trackers: wandb ")
    assert "WANDB_API_KEY" in about_wandb
    assert "\n" not in about_wandb


@pytest.mark.ray
def test_failed_wandb_process_is_logged(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ray's callback stays silent: it logs to a process that has ended."""
    monkeypatch.setenv("WANDB_ENTITY", "not/a/name")
    monkeypatch.setenv("WANDB_MODE", "no such mode")
    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    with caplog.at_level(logging.WARNING, "graftpop"):
        trials = run_study(space("wandb", num_samples=1), run_folder(tmp_path), connection, lambda trials: None)
    assert [trial.status for trial in trials] == ["completed"]
    (warnings,) = [message for message in caplog.messages if message.startswith("tune.trackers")]
    assert warnings.startswith("tune.trackers: wandb: ")
    assert "mode" in warnings


def test_missing_login_or_server_is_refused_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", UNREACHABLE)
    refusals: list[tuple[str, type[GraftpopError], str]] = [
        ("wandb", SpaceError, "tune.trackers: wandb needs a login, got none; run `wandb login`, "),
        ("mlflow", ResourceError, "tune.trackers: mlflow: cannot be used: API request to "),
        (
            "comet",
            SpaceError,
            "tune.trackers: comet needs a login, got none; set COMET_API_KEY, or COMET_OFFLINE_DIRECTORY",
        ),
    ]
    for tracker, kind, message in refusals:
        if tracker in INSTALLED:
            with pytest.raises(kind) as caught:
                check_trackers(space(tracker), run_folder(tmp_path))
            assert str(caught.value).startswith(message)
            assert "\n" not in str(caught.value)


def test_mlflow_without_a_server_needs_a_local_run_folder() -> None:
    folder = RunFolder("s3://bucket/run?region=eu-west-1&endpoint_override=127.0.0.1:9&scheme=http")
    with pytest.raises(SpaceError, match=r"^tune\.trackers: .*got s3://bucket/run.*MLFLOW_TRACKING_URI"):
        Tracker("mlflow", space("mlflow"), folder, [])


def test_every_tracker_setting_has_a_callback_and_a_package() -> None:
    listed, *_ = get_args(TuneSettings.model_fields["trackers"].annotation)
    assert set(get_args(listed)) == set(TRACKERS)
    for tracker in set(TRACKERS) - INSTALLED:
        with pytest.raises(
            SpaceError,
            match=rf"^tune\.trackers: {tracker} needs the package {TRACKERS[tracker].package}, which is "
            rf"not installed; pip install 'graftpop\[{tracker}\]'$",
        ):
            check_packages(space(tracker))


def installed() -> set[str]:
    found = set()
    for tracker in TRACKERS:
        try:
            check_packages(space(tracker))
        except SpaceError:
            continue
        found.add(tracker)
    return found


INSTALLED = installed()
