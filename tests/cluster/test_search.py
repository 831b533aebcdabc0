"""Domains, searchers and schedulers in Tune's terms; Ray itself is not started."""

from pathlib import Path
from typing import Any, get_args

import pytest
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining
from ray.tune.search import Searcher
from ray.tune.search.variant_generator import generate_variants

from graftpop.cluster.search import (
    NO_CONTROLLER,
    SCHEDULERS,
    SuggestedTrials,
    grid_of,
    replay_final_result,
    replay_results,
    scheduler,
    search_algorithm,
    trial_id_of,
    trials_to_run,
)
from graftpop.metrics import ACCURACY
from graftpop.settings import TuneSettings
from graftpop.space import parse_space
from graftpop.study.samplers import make_sampler
from graftpop.study.trials import Trial


def trial(number: int, status: str = "completed") -> Trial:
    return Trial(trial_id_of(number), number, {"graft.A": 0.1 * number}, 9, status)


def test_tune_gets_each_trial_once_resumed_ones_first() -> None:
    space = parse_space({"tune": {"sampler": "grid"}, "graft": {"A": {"grid": [0.0, 0.1, 0.2, 0.3]}}})
    param_space = grid_of(trials_to_run(space, [trial(1)], make_sampler(space), range(2, 4)))
    assert [config["trial"] for _, config in generate_variants(param_space)] == [
        {"trial_id": "00001", "sample": {"graft.A": 0.1}},
        {"trial_id": "00002", "sample": {"graft.A": 0.2}},
        {"trial_id": "00003", "sample": {"graft.A": 0.3}},
    ]


@pytest.mark.parametrize("suggests", [True, False])
def test_tune_saves_no_state_of_the_search(suggests: bool, tmp_path: Path) -> None:
    """It would hold the credentials of a storage URI."""
    search = SuggestedTrials(iter(()), make_sampler(parse_space({})), ACCURACY) if suggests else None
    search_algorithm(search).save_to_dir(str(tmp_path), "now")
    assert list(tmp_path.iterdir()) == []


def test_space_of_many_trials_is_not_copied_for_each_of_them() -> None:
    num_copies = 0

    class Value:
        def __deepcopy__(self, memo: dict[int, Any]) -> "Value":
            nonlocal num_copies
            num_copies += 1
            return self

    trials = [{"trial_id": trial_id_of(number), "sample": {"graft.A": Value()}} for number in range(30)]
    assert [config["trial"] for _, config in generate_variants(grid_of(trials))] == trials
    assert num_copies <= 3 * len(trials)


def test_searcher_samples_on_demand_and_reports_final_states() -> None:
    space = parse_space({"graft": {"A": {"uniform": [0.0, 0.9]}}})
    sampler: Any = make_sampler(space)
    sampler.recall(trial(0, "interrupted"), {})
    search = SuggestedTrials(trials_to_run(space, [trial(0)], sampler, range(1, 4)), sampler, ACCURACY)
    first = search.suggest("a")
    assert first == {"trial": {"trial_id": "00000", "sample": {"graft.A": 0.0}}}
    assert len(sampler._study.trials) == 1
    second, third = search.suggest("b"), search.suggest("c")
    assert [one["trial"]["trial_id"] for one in (second, third)] == ["00001", "00002"]
    search.on_trial_result("a", {"round": 1, "val_accuracy": 0.5})
    search.on_trial_complete("a", {"val_accuracy": 0.75, "test_accuracy": 0.5, "done": True})
    search.on_trial_complete("b", {"val_accuracy": 0.25, "done": True})  # as Tune reports a trial that ASHA stopped
    search.on_trial_complete("c", {"val_accuracy": 0.0, "done": True, "error": "diverged"})
    assert search.suggest("d") != Searcher.FINISHED
    search.on_trial_complete("d", error=True)
    assert search.suggest("e") == Searcher.FINISHED
    states = [(one.state.name, one.value) for one in sampler._study.trials]
    assert states == [("COMPLETE", 0.75), ("PRUNED", None), ("FAIL", None), ("FAIL", None)]


def test_every_scheduler_setting_has_a_scheduler() -> None:
    assert set(SCHEDULERS) == set(get_args(TuneSettings.model_fields["scheduler"].annotation))


def test_asha_remembers_results_of_earlier_sessions() -> None:
    """Three good trials, finished or running, fill its rung; it stops a worse fourth there."""
    space = parse_space({"tune": {"scheduler": "asha"}, "training": {"epochs": 15}})
    for num_finished in range(4):
        made = scheduler(space)
        for number in range(num_finished):
            replay_final_result(made, trial(number), "val_accuracy", {round: 0.9 for round in range(1, 16)})
        for number in range(num_finished, 3):
            running = TuneTrial("population", stub=True, trial_id=f"tune-{number}")
            made.on_trial_add(NO_CONTROLLER, running)
            replay_results(made, running, "val_accuracy", {round: 0.9 for round in range(1, 8)})
        late = TuneTrial("population", stub=True, trial_id="late")
        made.on_trial_add(NO_CONTROLLER, late)
        decisions = [
            made.on_trial_result(NO_CONTROLLER, late, {"round": round, "val_accuracy": 0.5}) for round in range(1, 6)
        ]
        assert decisions == ["CONTINUE"] * 4 + ["STOP"]


def test_default_scheduler_stops_no_trial() -> None:
    assert type(scheduler(parse_space({}))) is FIFOScheduler


@pytest.mark.parametrize("epochs", [1, 2, 5, 12, 200])
def test_asha_supports_any_number_of_rounds(epochs: int) -> None:
    made = scheduler(parse_space({"tune": {"scheduler": "asha"}, "training": {"epochs": epochs}}))
    assert type(made) is AsyncHyperBandScheduler


def test_pbt_mutations_stay_within_their_domains() -> None:
    space = parse_space(
        {
            "tune": {"scheduler": "pbt", "sampler": "random"},
            "training": {"lr": {"uniform": [0.09, 0.1]}},
            "graft": {"alpha": {"choice": ["adaptive", 0.5]}, "A": {"quniform": [0.2, 0.4, 0.1]}},
        }
    )
    made = scheduler(space)
    assert isinstance(made, PopulationBasedTraining)
    explore = made._custom_explore_fn  # Tune passes its changed values through it
    assert explore is not None

    def explored(sample: dict[str, Any]) -> dict[str, Any]:
        config = explore({"trial": {"trial_id": "00003", "sample": sample}})
        assert config["trial"]["trial_id"] == "00003"
        return dict(config["trial"]["sample"])

    for value, nearest in ((0.12, 0.1), (0.08, 0.09), (0.095, 0.095)):
        assert explored({"training.lr": value, "graft.A": 0.3, "graft.alpha": 0.5})["training.lr"] == nearest
    for value, nearest in ((0.48, 0.4), (0.32, 0.3), (0.1, 0.2)):
        assert explored({"training.lr": 0.1, "graft.A": value, "graft.alpha": "adaptive"}) == {
            "training.lr": 0.1,
            "graft.A": pytest.approx(nearest),
            "graft.alpha": "adaptive",
        }


@pytest.mark.parametrize(("epochs", "first_rung"), [(6, 6), (14, 14), (15, 5), (44, 14), (45, 5), (200, 22)])
def test_asha_stops_no_trial_before_its_first_rung(epochs: int, first_rung: int) -> None:
    made = scheduler(parse_space({"tune": {"scheduler": "asha"}, "training": {"epochs": epochs}}))
    assert isinstance(made, AsyncHyperBandScheduler)
    (rungs,) = [sorted(rung for rung, _ in bracket._rungs) for bracket in made._brackets]
    assert rungs[0] == first_rung


def test_pbt_changes_keys_that_do_not_matter_yet() -> None:
    """A trial with fixed alpha may get an adaptive one, so its configuration has values of A and c too."""
    curve = {"alpha": {"choice": ["adaptive", 0.5]}, "A": {"uniform": [0.2, 0.6]}}
    space = parse_space({"tune": {"scheduler": "pbt", "sampler": "random"}, "graft": curve})
    configs = list(trials_to_run(space, [trial(0)], make_sampler(space), range(1, 30)))
    assert all(config["sample"].keys() == space.domains.keys() for config in configs)
    pbt: Any = scheduler(space)
    for config in configs:
        changed, _ = pbt._get_new_config(
            TuneTrial("population", stub=True), TuneTrial("population", stub=True, config={"trial": config})
        )
        sample = space.active(changed["trial"]["sample"])
        assert ("graft.A" in sample) == (sample["graft.alpha"] == "adaptive")
        space.resolve(sample)
