"""Samplers: samples depend on the seed and the trial's number, with Optuna also on earlier results."""

from collections import Counter
from typing import Any, get_args

import pytest
import yaml

from graftpop.settings import TuneSettings
from graftpop.space import DOMAINS, Space, parse_space
from graftpop.study.samplers import Sampler, make_sampler
from graftpop.study.trials import Trial, objective_values, pareto_front

SEARCHED: dict[str, Any] = {
    "training": {"lr": {"loguniform": [0.01, 0.1]}, "momentum": {"quniform": [0.5, 0.9, 0.1]}},
    "population": {"num_peers": {"randint": [2, 4]}},
    "graft": {"alpha": {"choice": ["adaptive", 0.5]}, "A": {"uniform": [0.25, 0.75]}},
}


def score(sample: dict[str, Any]) -> float:
    """Return the highest score at A 0.7; a fixed alpha scores less than any A."""
    return 1 - abs(sample["graft.A"] - 0.7) if "graft.A" in sample else 0.4


def run(sampler: Sampler, numbers: range) -> list[Trial]:
    """Sample trials one after the other; each completes two rounds before the next starts."""
    trials = []
    for number in numbers:
        sample = sampler.sample(number)
        sampler.report(number, 1, score(sample) / 2)
        result = {"round": 2, "val_accuracy": score(sample)}
        sampler.tell(number, "completed", result)
        trials.append(Trial(f"{number:05}", number, sample, 2, "completed", result))
    return trials


def resumed(space: Space, trials: list[Trial]) -> Sampler:
    sampler = make_sampler(space)
    for trial in trials:
        sampler.recall(trial, {1: score(dict(trial.sample)) / 2})
    return sampler


def samples(space: Space, number: int) -> list[dict[str, Any]]:
    return [dict(trial.sample) for trial in run(make_sampler(space), range(number))]


def test_every_name_has_a_sampler() -> None:
    for name in get_args(TuneSettings.model_fields["sampler"].annotation):
        tree = {"seed": 2**63 - 1, "tune": {"sampler": name}, "graft": {"A": {"choice": [0.1, 0.2]}}}
        assert make_sampler(parse_space(tree)).sample(0)["graft.A"] in (0.1, 0.2)


@pytest.mark.parametrize("name", ["random", "tpe", "gp", "qmc"])
@pytest.mark.parametrize(("kind", "values", "expected"), [("randint", [2, 4], {2, 3, 4}), ("choice", [2, 3], {2, 3})])
def test_every_value_is_drawn_including_the_upper_bound(
    name: str, kind: str, values: list[Any], expected: set[Any]
) -> None:
    space = parse_space({"tune": {"sampler": name}, "population": {"num_peers": {kind: values}}, "graft": {}})
    sampler = make_sampler(space)
    assert {sampler.sample(number)["population.num_peers"] for number in range(40)} == expected


@pytest.mark.parametrize("name", ["random", "tpe", "gp", "qmc"])
@pytest.mark.parametrize(
    ("kind", "values"), [("uniform", [0.25, 0.5]), ("loguniform", [1e-4, 0.1]), ("quniform", [0.1, 0.9, 0.1])]
)
def test_numbers_are_drawn_on_both_sides_within_bounds(name: str, kind: str, values: list[float]) -> None:
    sampler = make_sampler(parse_space({"tune": {"sampler": name}, "training": {"lr": {kind: values}}}))
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
        name = "grid" if kind == "grid" else "tpe"
        key = ("population", "num_peers") if kind in ("choice", "randint", "grid") else ("training", "lr")
        space = parse_space({"tune": {"sampler": name}, key[0]: {key[1]: {kind: values[kind]}}})
        space.resolve(make_sampler(space).sample(0))


def test_grid_has_every_combination_that_matters_once() -> None:
    space = parse_space(
        {
            "tune": {"sampler": "grid"},
            "population": {"num_peers": {"randint": [2, 4]}},
            "graft": {"alpha": {"choice": ["adaptive", 0.5]}, "A": {"grid": [0.2, 0.4]}},
        }
    )
    sampler = make_sampler(space)
    every = [sampler.sample(number) for number in range(space.num_trials())]
    assert Counter((one["population.num_peers"], one["graft.alpha"], one.get("graft.A")) for one in every) == {
        (num_peers, *of_graft): 1
        for num_peers in (2, 3, 4)
        for of_graft in (("adaptive", 0.2), ("adaptive", 0.4), (0.5, None))
    }
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


@pytest.mark.parametrize("name", ["random", "tpe", "gp", "qmc"])
def test_samples_depend_on_the_seed_alone(name: str) -> None:
    one, other = (parse_space({"seed": seed, "tune": {"sampler": name}, **SEARCHED}) for seed in (1, 2))
    assert samples(one, 7) == samples(one, 7)
    assert samples(one, 7) != samples(other, 7)


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_models_sample_valid_values_and_approach_the_best(name: str) -> None:
    space = parse_space({"tune": {"sampler": name, "num_samples": 24}, **SEARCHED})
    suggested = samples(space, 24)
    for sample in suggested:
        settings = space.resolve(sample)
        assert 2 <= settings.population.num_peers <= 4
        assert settings.graft is not None
        assert 0.25 <= settings.graft.A <= 0.75
    assert {sample["population.num_peers"] for sample in suggested} == {2, 3, 4}

    def distance(some: list[dict[str, Any]]) -> float:
        return sum(1 - score(sample) for sample in some) / len(some)

    assert distance(suggested[-8:]) < distance(suggested[:8]) / 2


@pytest.mark.parametrize("name", ["random", "tpe", "gp", "qmc"])
def test_restored_sampler_continues_like_the_original(name: str) -> None:
    space = parse_space({"tune": {"sampler": name}, **SEARCHED})
    whole = make_sampler(space)
    before = run(whole, range(8))
    cut = resumed(space, before)
    assert [whole.sample(number) for number in range(8, 10)] == [cut.sample(number) for number in range(8, 10)]


def test_optuna_refuses_a_trial_out_of_order() -> None:
    sampler = make_sampler(parse_space(SEARCHED))
    with pytest.raises(RuntimeError, match=r"\b1\b.* got number 0"):
        sampler.sample(1)


def test_ended_trial_is_unknown_to_optuna() -> None:
    sampler = make_sampler(parse_space(SEARCHED))
    run(sampler, range(1))
    with pytest.raises(KeyError):
        sampler.tell(0, "completed", {"val_accuracy": 0.5})


def test_repeated_round_of_a_resumed_trial_is_accepted() -> None:
    """Optuna warns of a second report, and warnings are errors here."""
    sampler: Any = make_sampler(parse_space(SEARCHED | {"tune": {"sampler": "tpe"}}))
    sampler.sample(0)
    for round in (1, 2, 2, 3):
        sampler.report(0, round, 0.5)
    sampler.tell(0, "stopped", {"round": 3, "val_accuracy": 0.5})
    (trial,) = sampler._study.trials
    assert trial.intermediate_values == {1: 0.5, 2: 0.5, 3: 0.5}


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
    sampler.tell(3, "completed", {"val_accuracy": 0.75})
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


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_model_decides_at_least_half_of_the_trials(name: str) -> None:
    """A long study draws its first 10 trials at random, so a shorter one differs from it where its model decides."""

    def drawn(num_samples: int) -> list[float]:
        tune = {"sampler": name, "num_samples": num_samples}
        sampler = make_sampler(parse_space({"tune": tune, "training": {"lr": {"uniform": [0.1, 1.0]}}}))
        values = []
        for number in range(8):
            values.append(sampler.sample(number)["training.lr"])
            if number:  # the trial before it runs beside it
                sampler.tell(number - 1, "completed", {"val_accuracy": values[number - 1]})
        return values

    at_random = drawn(20)
    for num_samples in (8, 9, 4):
        differs = [one != other for one, other in zip(drawn(num_samples), at_random, strict=True)]
        assert differs == [number >= num_samples // 2 for number in range(8)]


@pytest.mark.parametrize("name", ["tpe", "gp", "qmc", "random"])
def test_first_trials_get_the_given_values(name: str) -> None:
    first = [{"graft.A": 0.5}, {"graft.alpha": 0.5, "population.num_peers": 4}]
    space = parse_space({"tune": {"sampler": name, "first": first}, **SEARCHED})
    one, other = samples(space, 2)
    assert (one["graft.alpha"], one["graft.A"]) == ("adaptive", 0.5)
    assert (other["graft.alpha"], other["population.num_peers"]) == (0.5, 4)
    for sample in (one, other):
        assert space.resolve(sample)
        assert {key for key in space.domains if space.is_active(key, sample)} == sample.keys()


def test_sobol_points_fill_the_square_evenly() -> None:
    """Each cell of a 4 x 4 grid holds one of the first 16 points of a scrambled Sobol sequence."""
    tree: Any = {"training": {"lr": {"uniform": [0.1, 0.5]}, "momentum": {"uniform": [0.1, 0.5]}}}
    for seed in (0, 1):
        space = parse_space({"seed": seed, "tune": {"sampler": "qmc", "num_samples": 16}, **tree})
        cells = Counter(
            tuple(int(10 * (one[key] - 0.1)) for key in ("training.lr", "training.momentum"))
            for one in samples(space, 16)
        )
        assert cells == {(row, column): 1 for row in range(4) for column in range(4)}


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_two_objectives_are_searched_for_trade_offs(name: str) -> None:
    """Accuracy lr at cost lr squared: every point is a trade-off, so samples keep their spread."""
    tune = {"sampler": name, "num_samples": 14, "metric": ["val_accuracy", "flops"], "mode": ["max", "min"]}
    space = parse_space({"tune": tune, "training": {"lr": {"uniform": [0.001, 1.0]}}})
    sampler, drawn = make_sampler(space), []
    for number in range(14):
        value = sampler.sample(number)["training.lr"]
        sampler.report(number, 1, value)
        sampler.tell(number, "completed", {"val_accuracy": value, "flops": value**2})
        drawn.append(value)
    assert min(drawn[7:]) < 0.3
    assert max(drawn[7:]) > 0.7


def test_pareto_front_has_the_trials_that_no_other_beats() -> None:
    figures = {"a": (0.9, 10), "b": (0.8, 5), "c": (0.7, 7), "d": (0.9, 12), "e": (0.8, 5), "f": (0.99, 1)}
    rows = [
        {"trial_id": name, "status": "failed" if name == "f" else "completed", "val_accuracy": score, "flops": flops}
        for name, (score, flops) in figures.items()
    ]
    assert pareto_front(rows, {"val_accuracy": "max", "flops": "min"}) == ["a", "b", "e"]
    assert pareto_front(rows, {"val_accuracy": "max"}) == ["a", "d"]


def test_cost_after_removal_counts() -> None:
    figures = {"val_accuracy": 0.5, "flops": 100, "flops_left": 60, "parameters": 7, "parameters_left": None}
    assert objective_values(figures, ["val_accuracy", "flops", "parameters"]) == [0.5, 60, 7]
    assert objective_values({"val_accuracy": 0.5}, ["val_accuracy", "flops"]) is None


@pytest.mark.parametrize("name", ["gp", "qmc"])
def test_samplers_of_all_keys_see_random_values_of_unused_ones(name: str) -> None:
    """A Gaussian process that saw one value would repeat its sample; a resumed study sees the same values."""
    space = parse_space({"tune": {"sampler": name, "num_samples": 10, "first": []}, **SEARCHED})
    whole: Any = make_sampler(space)
    trials = []
    for number in range(8):  # fixed alphas score best, so that gp chooses them too
        sample = whole.sample(number)
        result = {"val_accuracy": 0.3 if "graft.A" in sample else 0.9}
        whole.tell(number, "completed", result)
        trials.append(Trial(f"{number:05}", number, sample, 2, "completed", result))
    again: Any = resumed_any(space, trials)
    unused = [
        {one.number: one.params["graft.A"] for one in sampler._study.trials if one.params["graft.alpha"] == 0.5}
        for sampler in (whole, again)
    ]
    assert max(unused[0]) >= 5  # sampled by the model
    assert len(set(unused[0].values())) == len(unused[0])
    assert unused[0] == unused[1]


def test_gaussian_process_does_not_repeat_a_choice_without_other_keys() -> None:
    space = parse_space({"tune": {"sampler": "gp", "num_samples": 16}, "graft": SEARCHED["graft"]})
    sampler, fixed = make_sampler(space), 0
    for number in range(16):
        sample = sampler.sample(number)
        fixed += "graft.A" not in sample
        sampler.tell(
            number, "completed", {"val_accuracy": 0.8 if "graft.A" not in sample else 0.5 + sample["graft.A"] / 2}
        )
    assert fixed < 8
