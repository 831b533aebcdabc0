"""OptunaStorage keeps a copy of the trials: during a study, after a resume, and after an outage."""

import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from graftpop.errors import SpaceError
from graftpop.run.run_folder import RunFolder
from graftpop.space import Space, parse_space
from graftpop.study.optuna_storage import OptunaStorage, check_storage, storage_url
from graftpop.study.trials import Trial

TEACHERS = [[{"model": "resnet8", "epochs": 1}], [{"model": "resnet20", "epochs": 1}]]


def space_of(storage: str, **changes: Any) -> Space:
    searched: dict[str, Any] = {
        "training": {"lr": {"loguniform": [0.01, 0.1]}, "momentum": {"quniform": [0.5, 0.9, 0.1]}, "epochs": 3},
        "population": {"num_peers": {"randint": [2, 4]}},
        "distillation": {"teachers": {"choice": TEACHERS}},
        "graft": {"alpha": {"choice": ["adaptive", 0.5]}, "A": {"uniform": [0.25, 0.75]}},
    }
    return parse_space({"tune": {"optuna_storage": storage}, **searched, **changes})


def run_folder(folder: Path) -> RunFolder:
    run = RunFolder(str(folder))
    run.create()
    return run


def trial(number: int, status: str = "pending", scores: Mapping[int, float] | None = None, **found: Any) -> Trial:
    sample = {
        "training.lr": 0.05,
        "training.momentum": 0.7,
        "population.num_peers": 2 + number % 3,
        "distillation.teachers": TEACHERS[number % 2],
        "graft.alpha": 0.5,
        "graft.A": 0.25 + number / 20,
    }
    rounds = dict(scores or {})
    result = {"round": max(rounds), "val_accuracy": rounds[max(rounds)], **found} if rounds else {}
    return Trial(f"{number:05}", number, sample, 3, status, result, started_at=1000.0 * number + 1)


def advance(known: Trial, status: str, round: int, score: float, **found: Any) -> None:
    """Update a trial after a round, as the recorder does."""
    known.status = status
    known.result = {"round": round, "val_accuracy": score, **found}


def study_in(folder: Path, storage: str) -> optuna.Study:
    """Open the study as another program does."""
    if "://" in storage:
        return optuna.load_study(study_name=folder.name, storage=storage.replace("///", f"///{folder}/"))
    return optuna.load_study(study_name=folder.name, storage=JournalStorage(JournalFileBackend(str(folder / storage))))


STORAGES = pytest.mark.parametrize("storage", ["sqlite:///study.db", "study.log"])


@STORAGES
def test_trials_are_written_with_parameters_scores_and_final_states(tmp_path: Path, storage: str) -> None:
    trials = [trial(number) for number in range(6)]
    stored = OptunaStorage(space_of(storage), run_folder(tmp_path), [], {})
    stored(trials)
    for round in (1, 2):
        for known in trials[:5]:
            advance(known, "running", round, round / 10 + known.number / 100)
            stored(trials)
    advance(trials[0], "completed", 3, 0.5, test_accuracy=0.4)
    trials[1].status = "stopped"
    trials[2].status, trials[2].error = "failed", "peer 1: diverged"
    trials[3].status = "interrupted"
    stored(trials)
    stored.finish()

    study = study_in(tmp_path, storage)
    assert [one.state.name for one in study.trials] == ["COMPLETE", "PRUNED", "FAIL", "WAITING", "RUNNING", "WAITING"]
    assert [one.value for one in study.trials] == [0.5, pytest.approx(0.21), None, None, None, None]
    assert study.best_trial.number == 0
    for known, one in zip(trials, study.trials, strict=True):
        teachers = str(known.sample["distillation.teachers"])
        assert one.params == {**known.sample, "distillation.teachers": teachers}
        distribution = one.distributions["training.lr"]
        assert isinstance(distribution, FloatDistribution)
        assert distribution.log
        reached = {round: pytest.approx(round / 10 + known.number / 100) for round in (1, 2)}
        last = {3: 0.5} if known.number == 0 else {}
        assert one.intermediate_values == ({} if known.number == 5 else reached | last)
    assert study.trials[0].user_attrs["test_accuracy"] == 0.4
    assert study.trials[2].user_attrs["error"] == "peer 1: diverged"


@STORAGES
def test_resuming_updates_existing_trials_and_adds_no_duplicates(tmp_path: Path, storage: str) -> None:
    space, folder = space_of(storage), run_folder(tmp_path)
    scores = {"00000": {1: 0.1, 2: 0.2, 3: 0.3}, "00001": {1: 0.1, 2: 0.2}}
    before = [trial(0, "completed", scores["00000"]), trial(1, "running", scores["00001"])]
    stored = OptunaStorage(space, folder, before, scores)
    stored.finish()
    # round 2 of trial 1 was repeated, and round 1 of trial 2 was never written
    scores |= {"00001": {1: 0.1, 2: 0.25}, "00002": {1: 0.7}}
    known = [before[0], trial(1, "interrupted", scores["00001"]), trial(2, "interrupted", scores["00002"])]
    resumed = OptunaStorage(space, folder, known, scores)
    advance(known[1], "completed", 3, 0.4)
    resumed([*known, trial(3)])
    resumed.finish()

    study = study_in(tmp_path, storage)
    assert [(one.number, one.state.name) for one in study.trials] == [
        (0, "COMPLETE"),
        (1, "COMPLETE"),
        (2, "WAITING"),
        (3, "WAITING"),
    ]
    assert [one.intermediate_values for one in study.trials] == [
        scores["00000"],
        {1: 0.1, 2: 0.25, 3: 0.4},
        {1: 0.7},
        {},
    ]


def test_values_changed_by_pbt_are_user_attributes(tmp_path: Path) -> None:
    space = parse_space(
        {
            "tune": {"optuna_storage": "study.log", "sampler": "random", "scheduler": "pbt"},
            "training": {"lr": {"uniform": [0.01, 0.1]}, "epochs": 3},
        }
    )
    stored = OptunaStorage(space, run_folder(tmp_path), [], {})
    known = Trial("00000", 0, {"training.lr": 0.05}, 3)
    stored([known])
    stored.finish()
    stored = OptunaStorage(space, run_folder(tmp_path), [known], {"00000": {}})
    known.sample = {"training.lr": 0.06}
    advance(known, "completed", 3, 0.5)
    stored([known])
    stored.finish()
    (one,) = study_in(tmp_path, "study.log").trials
    assert (one.params["training.lr"], one.user_attrs["training.lr"]) == (0.05, 0.06)


def test_absent_storage_gets_all_trials_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = run_folder(tmp_path / "run")
    stored = OptunaStorage(space_of(f"sqlite:///{tmp_path}/away/study.db"), folder, [], {})
    trials = [trial(0), trial(1)]
    with caplog.at_level(logging.WARNING, "graftpop"):
        stored(trials)
        advance(trials[0], "running", 1, 0.5)
        stored(trials)
        stored._background.call(lambda: None)  # until it has tried
    (message,) = caplog.messages
    assert re.match(f"tune.optuna_storage: .*got 'sqlite:///{tmp_path}/away/study.db': ", message)
    (tmp_path / "away").mkdir()
    stored.finish()
    study = optuna.load_study(study_name="run", storage=f"sqlite:///{tmp_path}/away/study.db")
    assert [(one.number, one.intermediate_values) for one in study.trials] == [(0, {1: 0.5}), (1, {})]


def test_broken_database_is_logged_with_its_own_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored = OptunaStorage(space_of("sqlite:///study.db"), run_folder(tmp_path), [], {})
    trials = [trial(0)]
    stored(trials)
    stored._background.call(lambda: None)  # until it has written
    (tmp_path / "study.db").write_bytes(b"no database" * 1000)
    advance(trials[0], "running", 1, 0.5)
    with caplog.at_level(logging.WARNING, "graftpop"):
        stored(trials)
        stored.finish()
    (message,) = caplog.messages
    assert message.startswith("tune.optuna_storage: ")
    assert "'sqlite:///study.db': (sqlite3.DatabaseError) file is not a database" in message


def test_two_runs_share_one_database(tmp_path: Path) -> None:
    space = space_of(f"sqlite:///{tmp_path}/all.db")
    one, other, namesake = (run_folder(tmp_path / name) for name in ("one", "other", "elsewhere/one"))
    for folder, number_of_trials in ((one, 2), (other, 1)):
        check_storage(space, folder)
        stored = OptunaStorage(space, folder, [], {})
        stored([trial(number) for number in range(number_of_trials)])
        stored.finish()
    found = optuna.get_all_study_summaries(f"sqlite:///{tmp_path}/all.db")
    assert {summary.study_name: summary.n_trials for summary in found} == {"one": 2, "other": 1}
    with pytest.raises(SpaceError, match=r"^tune\.optuna_storage: [^\n]*'one'[^\n]* 2 trials"):
        check_storage(space, namesake)


def test_without_a_storage_nothing_is_written(tmp_path: Path) -> None:
    check_storage(parse_space({}), run_folder(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("", "got none; .*sqlite:///study.db"),
        ("sqlite://", "got none; .*sqlite:///study.db"),
        ("sqlite:///:memory:", "got none; .*sqlite:///study.db"),
        ("nosuch://me:secret@host/base", "got 'nosuch://host/base': "),
        (
            "postgresql+pg8000://me:secret@host/base",
            r"driver.* got 'postgresql\+pg8000://host/base': No module named 'pg8000'; install",
        ),
        ("://", "got '://': "),
        ("sqlite:////absent/study.db", "got 'sqlite:////absent/study.db': "),
        ("/absent/study.log", "got '/absent/study.log': "),
    ],
)
def test_unusable_storage_is_refused_in_one_line_without_its_password(
    tmp_path: Path, storage: str, message: str
) -> None:
    with pytest.raises(SpaceError) as caught:
        check_storage(space_of(storage), run_folder(tmp_path))
    assert re.match(f"tune.optuna_storage: .*{message}", str(caught.value))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


URL, SHOWN = "postgresql://me:secret@host/base", "postgresql://me:***@host/base"


def test_password_is_in_memory_only() -> None:
    space = space_of(URL)
    assert storage_url(space) == URL
    assert "secret" not in space.to_yaml() + repr(space) + repr(space.resolve()) + str(space.tree)
    assert pickle.loads(pickle.dumps(space)) == space
    assert b"secret" not in pickle.dumps(space)
    assert space.resolve().tune.optuna_storage == SHOWN


def test_masked_password_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTPOP_STORAGE_URL", URL)
    assert storage_url(parse_space(yaml.safe_load(space_of(URL).to_yaml()))) == URL
    for own in ("postgresql://me:other@host/base", "postgresql://me@host/base", "study.log"):
        assert storage_url(space_of(own)) == own
    assert storage_url(parse_space({})) is None


@pytest.mark.parametrize("given", ["", "postgresql://me:secret@other/base"])
def test_masked_password_without_its_url_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTPOP_STORAGE_URL", given)
    with pytest.raises(SpaceError) as caught:
        storage_url(space_of(SHOWN))
    assert str(caught.value).startswith("tune.optuna_storage: ")
    assert SHOWN in str(caught.value)
    assert "set GRAFTPOP_STORAGE_URL" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_relative_file_is_refused_in_an_object_store() -> None:
    folder = RunFolder("s3://bucket/run?region=eu-west-1&endpoint_override=127.0.0.1:9&scheme=http")
    for storage in ("sqlite:///study.db", "study.log"):
        with pytest.raises(SpaceError, match=r"^tune\.optuna_storage: .*'study\.\w+'.* s3://bucket/run"):
            check_storage(space_of(storage), folder)
