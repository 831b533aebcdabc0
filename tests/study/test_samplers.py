"""Samplers: samples depend on the seed and the trial's number, with Optuna also on earlier results."""

from collections import Counter
from typing import Any, get_args

import pytest
import yaml

from graftpop.settings import TuneSettings
from graftpop.space import DOMAINS, Space, parse_space
from graftpop.study.samplers import Sampler, make_sampler
from graftpop.study.trials import Trial

SEARCHED: dict[str, Any] = {
    "training": {"lr": {"loguniform": [0.01, 0.1]}, "momentum": {"quniform": [0.5, 0.9, 0.1]}},
    "population": {"num_peers": {"randint": [2, 4]}},
    "graft": {"alpha": {"choice": ["adaptive", 0.5]}, "A": {"uniform": [0.25, 0.75]}},
}


def score(sample: dict[str, Any]) -> float:
    return 1 - abs(sample["graft.A"] - 0.7)


def run(sampler: Sampler, numbers: range) -> list[Trial]:
    """Sample trials one after the other; each completes two rounds before the next starts."""
    trials = []
    for number in numbers:
        sample = sampler.sample(number)
        sampler.report(number, 1, score(sample) / 2)
        sampler.tell(number, "completed", score(sample))
        result = {"round": 2, "val_accuracy": score(sample)}
        trials.append(Trial(f"{number:05}", number, sample, 2, "completed", result))
    return trials


def resumed(space: Space, trials: list[Trial]) -> Sampler:
    sampler = make_sampler(space)
    for trial in trials:
        sampler.recall(trial, {1: score(dict(trial.sample)) / 2})
    return sampler


def samples(space: Space, number: int) -> list[dict[str, Any]]:
    return [dict(trial.sample) for trial in run(make_sampler(space), range(number))]


def test_every_value_of_search_has_a_sampler() -> None:
    for search in get_args(TuneSettings.model_fields["search"].annotation):
        tree = {"seed": 2**63 - 1, "tune": {"search": search}, "graft": {"A": {"choice": [0.1, 0.2]}}}
        assert make_sampler(parse_space(tree)).sample(0)["graft.A"] in (0.1, 0.2)


@pytest.mark.parametrize("search", ["random", "optuna"])
@pytest.mark.parametrize(("kind", "values", "expected"), [("randint", [2, 4], {2, 3, 4}), ("choice", [2, 3], {2, 3})])
def test_every_value_is_drawn_including_the_upper_bound(
    search: str, kind: str, values: list[Any], expected: set[Any]
) -> None:
    space = parse_space({"tune": {"search": search}, "population": {"num_peers": {kind: values}}, "graft": {}})
    sampler = make_sampler(space)
    assert {sampler.sample(number)["population.num_peers"] for number in range(40)} == expected


@pytest.mark.parametrize("search", ["random", "optuna"])
@pytest.mark.parametrize(
    ("kind", "values"), [("uniform", [0.25, 0.5]), ("loguniform", [1e-4, 0.1]), ("quniform", [0.1, 0.9, 0.1])]
)
def test_numbers_are_drawn_on_both_sides_within_bounds(search: str, kind: str, values: list[float]) -> None:
    sampler = make_sampler(parse_space({"tune": {"search": search}, "training": {"lr": {kind: values}}}))
    drawn = [sampler.sample(number)["training.lr"] for number in range(100)]
    low, high = values[:2]
    middle = (low * high) ** 0.5 if kind == "loguniform" else (low + high) / 2
    assert all(low <= value <= high for value in drawn)
    assert 30 <= sum(value < middle for value in drawn) <= 70
    if kind == "quniform":
        assert {round(10 * value, 9) for value in drawn} <= set(range(1, 10))


def test_every_kind_of_domain_can_be_sampled() -> None:
    values = {
        "choice": [1, 2],
        "uniform": [0.1, 1],
        "loguniform": [0.1, 1],
        "quniform": [0.5, 1, 0.5],
        "randint": [1, 2],
        "grid": [1, 2],
    }
    assert values.keys() == DOMAINS.keys()
    for kind in values:
        search = "grid" if kind == "grid" else "optuna"
        key = ("population", "num_peers") if kind in ("choice", "randint", "grid") else ("training", "lr")
        space = parse_space({"tune": {"search": search}, key[0]: {key[1]: {kind: values[kind]}}})
        space.resolve(make_sampler(space).sample(0))


def test_grid_has_every_combination_once() -> None:
    space = parse_space(
        {
            "tune": {"search": "grid"},
            "population": {"num_peers": {"randint": [2, 4]}},
            "graft": {"alpha": {"choice": ["adaptive", 0.5]}, "A": {"grid": [0.2, 0.4]}},
        }
    )
    sampler = make_sampler(space)
    every = [sampler.sample(number) for number in range(space.num_trials())]
    assert len(every) == 12
    assert len({tuple(map(str, sample.values())) for sample in every}) == 12
    for sample in every:
        assert space.resolve(sample).population.num_peers == sample["population.num_peers"]


def test_comparison_has_every_variant_seed_and_grid_value_once() -> None:
    space = parse_space(
        yaml.safe_load(
            "seeds: [0, 1, 2]\nmodel: {name: {grid: [resnet8, resnet20]}}\n"
            "variants: {plain: {}, mutual: {mutual: {}}, grafting: {graft: {}}}"
        )
    )
    sampler = make_sampler(space)
    every = [sampler.sample(number) for number in range(18)]
    assert Counter((one["variant"], one["seed"], one["model.name"]) for one in every) == {
        (variant, seed, model): 1
        for variant in ("plain", "mutual", "grafting")
        for seed in (0, 1, 2)
        for model in ("resnet8", "resnet20")
    }
    for one in every:
        settings = space.resolve(one)
        assert (settings.seed, settings.model.name) == (one["seed"], one["model.name"])
        assert (settings.mutual is not None, settings.graft is not None) == (
            one["variant"] == "mutual",
            one["variant"] == "grafting",
        )


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_samples_depend_on_the_seed_alone(search: str) -> None:
    one, other = (parse_space({"seed": seed, "tune": {"search": search}, **SEARCHED}) for seed in (1, 2))
    assert samples(one, 15) == samples(one, 15)
    assert samples(one, 15) != samples(other, 15)


def test_optuna_samples_are_valid_and_approach_the_best_values() -> None:
    space = parse_space(SEARCHED)
    suggested = samples(space, 40)
    for sample in suggested:
        settings = space.resolve(sample)
        assert 2 <= settings.population.num_peers <= 4
        assert settings.graft is not None
        assert 0.25 <= settings.graft.A <= 0.75
    assert {sample["population.num_peers"] for sample in suggested} == {2, 3, 4}

    def distance(some: list[dict[str, Any]]) -> float:
        return sum(abs(sample["graft.A"] - 0.7) for sample in some) / len(some)

    assert distance(suggested[-15:]) < distance(suggested[:15]) / 2


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_restored_sampler_continues_like_the_original(search: str) -> None:
    space = parse_space({"tune": {"search": search}, **SEARCHED})
    whole = make_sampler(space)
    before = run(whole, range(20))
    cut = resumed(space, before)
    assert [whole.sample(number) for number in range(20, 23)] == [cut.sample(number) for number in range(20, 23)]


def test_optuna_refuses_a_trial_out_of_order() -> None:
    sampler = make_sampler(parse_space(SEARCHED))
    with pytest.raises(RuntimeError, match=r"\b1\b.* got number 0"):
        sampler.sample(1)


def test_ended_trial_is_unknown_to_optuna() -> None:
    sampler = make_sampler(parse_space(SEARCHED))
    run(sampler, range(1))
    with pytest.raises(KeyError):
        sampler.tell(0, "completed", 0.5)


def test_recalled_trials_keep_their_final_states() -> None:
    space = parse_space(SEARCHED)
    trials = run(make_sampler(space), range(4))
    for trial, status in zip(trials, ("completed", "stopped", "failed", "interrupted"), strict=True):
        trial.status = status
    sampler: Any = resumed(space, trials)
    study = sampler._study
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert [trial.params == dict(known.sample) for trial, known in zip(study.trials, trials, strict=True)] == [True] * 4
    assert all(trial.intermediate_values for trial in study.trials)
    sampler.report(3, 2, 0.5)
    sampler.tell(3, "completed", 0.75)
    assert (study.trials[3].state.name, study.trials[3].value) == ("COMPLETE", 0.75)


def test_choices_of_lists_can_be_sampled() -> None:
    teachers = [[{"model": "resnet8", "epochs": 1}], [{"model": "resnet20", "epochs": 1}]]
    space = parse_space({"distillation": {"teachers": {"choice": teachers}}, "training": {"epochs": 2}})
    sampler = make_sampler(space)
    drawn = [sampler.sample(number)["distillation.teachers"] for number in range(10)]
    assert all(value in teachers for value in drawn)
    trials = [Trial("00000", 0, {"distillation.teachers": drawn[0]}, 2, "interrupted")]
    assert resumed_any(space, trials)._study.trials[0].params == {"distillation.teachers": str(drawn[0])}


def test_optuna_avoids_the_samples_of_running_trials() -> None:
    """A trial that runs where the next sample would be moves that sample away (constant_liar)."""
    space = parse_space({"graft": {"A": {"uniform": [0.0, 1.0]}}})
    completed = run(make_sampler(space), range(14))

    def sample_beside(value: float) -> float:
        running = Trial("00014", 14, {"graft.A": value}, 2, "interrupted")
        return float(resumed(space, [*completed, running]).sample(15)["graft.A"])

    usual = sample_beside(0.05)
    assert abs(sample_beside(usual) - usual) > 0.1


def resumed_any(space: Space, trials: list[Trial]) -> Any:
    sampler = make_sampler(space)
    for trial in trials:
        sampler.recall(trial, {})
    return sampler
