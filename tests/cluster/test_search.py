"""Domains, searchers and schedulers in Tune's terms; Ray itself is not started."""

from collections import Counter
from typing import Any

import pytest
import yaml
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.variant_generator import generate_variants

from graftpop.cluster.search import SCHEDULERS, SEARCHERS, param_space, scheduler, searcher
from graftpop.settings import TuneSettings
from graftpop.space import DOMAINS, parse_space

SEARCHED: dict[str, Any] = {
    "training": {"lr": {"loguniform": [0.01, 0.1]}, "momentum": {"quniform": [0.5, 0.9, 0.1]}},
    "population": {"num_peers": {"randint": [2, 4]}},
    "graft": {"alpha": {"choice": ["adaptive", 0.5]}, "A": {"uniform": [0.25, 0.75]}},
}


def suggestions(seed: int, number: int = 40) -> list[dict[str, Any]]:
    """Return what Optuna suggests, each answered by an accuracy that depends on A alone."""
    space = parse_space({"seed": seed, **SEARCHED})
    search = searcher(space)
    assert isinstance(search, OptunaSearch)
    assert search.set_search_properties("val_accuracy", "max", param_space(space))
    suggested = []
    for trial in range(number):
        sample = search.suggest(f"trial-{trial}")
        assert sample is not None
        search.on_trial_complete(f"trial-{trial}", {"val_accuracy": 1 - abs(sample["graft.A"] - 0.7)})
        suggested.append(sample)
    return suggested


def drawn(kind: str, values: list[Any]) -> list[Any]:
    space = parse_space({"tune": {"search": "random"}, "training": {"lr": {kind: values}}})
    domain = param_space(space)["training.lr"]
    return list(domain.sample(size=500, random_state=0))


def test_only_what_is_searched_is_told_to_tune() -> None:
    assert set(param_space(parse_space(SEARCHED))) == {
        "training.lr", "training.momentum", "population.num_peers", "graft.alpha", "graft.A"}
    assert param_space(parse_space({})) == {}


@pytest.mark.parametrize(("kind", "values", "expected"), [
    ("randint", [2, 4], [2, 3, 4]),
    ("choice", [0.1, 0.5], [0.1, 0.5]),
    ("quniform", [0.1, 0.4, 0.1], [0.1, 0.2, 0.3, 0.4]),
])
def test_tune_draws_every_value_of_a_domain_the_upper_bound_included(
    kind: str, values: list[Any], expected: list[Any],
) -> None:
    assert sorted({round(value, 9) for value in drawn(kind, values)}) == expected


@pytest.mark.parametrize(("kind", "values"), [("uniform", [0.25, 0.5]), ("loguniform", [1e-4, 0.1])])
def test_tune_draws_within_the_bounds(kind: str, values: list[float]) -> None:
    low, high = values
    middle = (low + high) / 2 if kind == "uniform" else (low * high)**0.5
    values_drawn = drawn(kind, values)
    assert all(low <= value <= high for value in values_drawn)
    assert sum(value < middle for value in values_drawn) / len(values_drawn) == pytest.approx(0.5, abs=0.08)


def test_a_grid_lists_every_value_of_every_domain() -> None:
    space = parse_space({
        "tune": {"search": "grid"}, "population": {"num_peers": {"randint": [2, 4]}},
        "graft": {"alpha": {"choice": ["adaptive", 0.5]}, "A": {"grid": [0.2, 0.4]}}})
    variants = [config for _, config in generate_variants(param_space(space))]
    assert len(variants) == space.num_trials() == 12
    assert len({tuple(sorted(variant.items(), key=str)) for variant in variants}) == 12
    for variant in variants:
        assert space.settle(variant).population.num_peers == variant["population.num_peers"]


def test_tune_gets_every_variant_with_every_seed_and_every_other_value_once() -> None:
    space = parse_space(yaml.safe_load("seeds: [0, 1, 2]\nmodel: {name: {grid: [resnet8, resnet20]}}\n"
                                       "variants: {plain: {}, mutual: {mutual: {}}, grafting: {graft: {}}}"))
    samples = [sample for _, sample in generate_variants(param_space(space))]
    assert len(samples) == space.num_trials() == 18
    assert Counter((one["variant"], one["seed"], one["model.name"]) for one in samples) == {
        (variant, seed, model): 1 for variant in ("plain", "mutual", "grafting") for seed in (0, 1, 2)
        for model in ("resnet8", "resnet20")}
    for one in samples:
        settings = space.settle(one)
        assert (settings.seed, settings.model.name) == (one["seed"], one["model.name"])
        assert (settings.mutual is not None) == (one["variant"] == "mutual")
        assert (settings.graft is not None) == (one["variant"] == "grafting")


def test_every_kind_of_domain_is_known_to_tune() -> None:
    values = {"choice": [1, 2], "uniform": [0.1, 1], "loguniform": [0.1, 1], "quniform": [0.5, 1, 0.5],
              "randint": [1, 2], "grid": [1, 2]}
    assert values.keys() == DOMAINS.keys()
    for kind in values.keys() - {"grid"}:
        assert len(drawn(kind, values[kind])) == 500


def test_equal_seeds_suggest_equal_configurations_and_others_others() -> None:
    assert suggestions(1, 15) == suggestions(1, 15)
    assert suggestions(1, 15) != suggestions(2, 15)


def test_suggestions_are_configurations_of_the_space_and_come_nearer_to_what_did_well() -> None:
    space = parse_space(SEARCHED)
    suggested = suggestions(0)
    for sample in suggested:
        settings = space.settle(sample)
        assert 2 <= settings.population.num_peers <= 4
        assert settings.graft is not None
        assert 0.25 <= settings.graft.A <= 0.75
    assert {sample["population.num_peers"] for sample in suggested} == {2, 3, 4}

    def distance(samples: list[dict[str, Any]]) -> float:
        return sum(abs(sample["graft.A"] - 0.7) for sample in samples) / len(samples)

    assert distance(suggested[-15:]) < distance(suggested[:15]) / 2


def test_the_largest_seed_is_taken_by_every_searcher() -> None:
    for search in SEARCHERS:
        tree = {"seed": 2**63 - 1, "tune": {"search": search}, "graft": {"A": {"choice": [0.1, 0.2]}}}
        assert searcher(parse_space(tree)) is not None


def test_every_choice_of_the_settings_has_its_searcher_and_scheduler() -> None:
    fields = TuneSettings.model_fields
    assert set(SEARCHERS) == set(fields["search"].annotation.__args__)
    assert set(SCHEDULERS) == set(fields["scheduler"].annotation.__args__)


@pytest.mark.parametrize("search", ["random", "grid"])
def test_random_and_grid_search_are_tunes_own_variants(search: str) -> None:
    assert isinstance(searcher(parse_space({"tune": {"search": search}})), BasicVariantGenerator)


def test_without_a_scheduler_trials_run_to_their_end() -> None:
    assert type(scheduler(parse_space({}))) is FIFOScheduler


@pytest.mark.parametrize("epochs", [1, 2, 5, 12, 200])
def test_asha_can_be_made_for_any_number_of_rounds(epochs: int) -> None:
    made = scheduler(parse_space({"tune": {"scheduler": "asha"}, "training": {"epochs": epochs}}))
    assert type(made) is AsyncHyperBandScheduler


def test_pbt_changes_what_is_searched_and_stays_within_the_domains() -> None:
    space = parse_space({"tune": {"scheduler": "pbt", "search": "random"}, "training": {"lr": {"uniform": [0.09, 0.1]}},
                         "graft": {"alpha": {"choice": ["adaptive", 0.5]}, "A": {"quniform": [0.2, 0.4, 0.1]}}})
    made = scheduler(space)
    assert isinstance(made, PopulationBasedTraining)
    explore = made._custom_explore_fn  # what Tune puts its changed values through
    assert explore is not None
    for value, nearest in ((0.12, 0.1), (0.08, 0.09), (0.095, 0.095)):
        assert explore({"training.lr": value, "graft.A": 0.3, "graft.alpha": 0.5})["training.lr"] == nearest
    for value, nearest in ((0.48, 0.4), (0.32, 0.3), (0.1, 0.2)):
        assert explore({"training.lr": 0.1, "graft.A": value, "graft.alpha": "adaptive"}) == {
            "training.lr": 0.1, "graft.A": pytest.approx(nearest), "graft.alpha": "adaptive"}


@pytest.mark.parametrize(("epochs", "first_rung"), [(6, 6), (14, 14), (15, 5), (44, 14), (45, 5), (200, 22)])
def test_asha_stops_nothing_before_the_fifth_round(epochs: int, first_rung: int) -> None:
    made = scheduler(parse_space({"tune": {"scheduler": "asha"}, "training": {"epochs": epochs}}))
    (rungs,) = [sorted(rung for rung, _ in bracket._rungs) for bracket in made._brackets]
    assert rungs[0] == first_rung
