"""Rules between keys: what fits each other is checked for every pair of values that the domains can lead to."""

from typing import Any

import pytest
import yaml
from space_makers import refusal

from graftpop.space import Domain, parse_space
from graftpop.space.constraints import UNDER_PBT

PBT = "tune: {scheduler: pbt, search: random}\n"
GRID = "tune: {search: grid}\n"
LONELY = (
    "population.num_peers: grafting over a ring needs at least 2 peers, got 1; choose 2 or more, or take out the "
    "section graft to train a single network"
)
NO_EFFECT = "has no effect where graft.alpha is a number, got "


def accepted(text: str) -> bool:
    return bool(parse_space(yaml.safe_load(text)).resolve())


@pytest.mark.parametrize(
    "text",
    [
        "population: {num_peers: 1}\ngraft: {}",
        "population: {num_peers: {choice: [1, 2]}}\ngraft: {}",
        "population: {num_peers: {choice: [2, 1]}}\ngraft: {A: {uniform: [0.0, 1.0]}}",
        "population: {num_peers: {randint: [1, 4]}}\ngraft: {}",
        "population: {num_peers: {choice: [4, 2, 1]}}\ngraft: {choice: [null, {alpha: 0.5}]}",
        f"{GRID}population: {{num_peers: {{grid: [2, 1]}}}}\ngraft: {{}}",
    ],
)
def test_grafting_needs_two_peers_at_every_searched_count(text: str) -> None:
    assert refusal(text) == LONELY


@pytest.mark.parametrize(
    "text",
    [
        "population: {num_peers: 1}",
        "population: {num_peers: {choice: [1, 2]}}\ngraft: null",
        "population: {num_peers: {choice: [2, 3]}}\ngraft: {}",
    ],
)
def test_one_peer_may_train_alone(text: str) -> None:
    assert accepted(text)


@pytest.mark.parametrize(
    ("text", "epochs"),
    [
        ("training: {epochs: 3}\npopulation: {epochs_per_round: 4}", 3),
        ("training: {epochs: {choice: [10, 2]}}\npopulation: {epochs_per_round: {choice: [1, 4]}}", 2),
        ("training: {epochs: {randint: [3, 8]}}\npopulation: {epochs_per_round: 4}", 3),
    ],
)
def test_a_round_is_no_longer_than_the_training_for_any_searched_pair(text: str, epochs: int) -> None:
    assert refusal(text) == f"population.epochs_per_round: must be at most training.epochs ({epochs}), got 4"


def test_a_pair_of_corners_that_no_first_value_shows_is_found() -> None:
    """Each of the two bad values goes well with all the first values: only the pair does not."""
    text = (
        "training: {epochs: {choice: [8, 3]}}\npopulation: {epochs_per_round: {choice: [1, 5]}, "
        "num_peers: {choice: [2, 3]}}\ngraft: {A: {uniform: [0.0, 1.0]}, c: {loguniform: [1.0, 500.0]}}"
    )
    assert refusal(text) == "population.epochs_per_round: must be at most training.epochs (3), got 5"


@pytest.mark.parametrize("name", ["parquet", "folder"])
def test_a_data_set_of_ones_own_needs_its_folder(name: str) -> None:
    assert refusal(f"data: {{name: {name}}}") == (
        f"data.root: data set '{name}' needs the folder it lies in, got null; set data.root"
    )
    assert accepted(f"data: {{name: {name}, root: somewhere}}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "training: {schedule: {choice: [step, cosin]}}",
            "training.schedule: unknown name 'cosin'; choose from step, cosine, constant; did you mean 'cosine'?",
        ),
        (
            "population: {topology: {choice: [ring, rang]}}",
            "population.topology: unknown name 'rang'; choose from ring, random_pairs, all, best; did you mean 'ring'?",
        ),
    ],
)
def test_searched_names_are_looked_up_too(text: str, message: str) -> None:
    assert refusal(text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {lr: {uniform: [0, 0.1]}}", "training.lr: must be greater than 0, got 0 among the searched values"),
        (
            "graft: {alpha: {uniform: [0.5, 2.0]}}",
            "graft.alpha: must be less than or equal to 1 or 'adaptive', got 2.0 among the searched values",
        ),
        (
            "training: {batch_size: {choice: [16, 1]}}",
            "training.batch_size: must be greater than or equal to 2, got 1 among the searched values",
        ),
        (
            "training: {lr: {choice: [0.1, 1e-4]}}",
            "training.lr: must be a valid number, got '1e-4' among the searched "
            "values; '1e-4' is text in YAML, write 0.0001",
        ),
        (
            "model: {choice: [resnet8, resnet20]}",
            "model: must be a section: a map of keys, got 'resnet8' among the searched values",
        ),
    ],
)
def test_searched_values_are_checked_as_if_they_stood_in_the_file(text: str, message: str) -> None:
    assert refusal(text) == message


@pytest.mark.parametrize(
    "domain",
    [
        "{uniform: [1, 5]}",
        "{uniform: [1.0, 5.0]}",
        "{loguniform: [1, 100]}",
        "{quniform: [2, 8, 2]}",
        "{quniform: [2, 4, 2]}",
    ],
)
@pytest.mark.parametrize("key", ["training.epochs", "population.num_peers"])
def test_a_whole_number_cannot_be_searched_among_fractions(key: str, domain: str) -> None:
    section, name = key.split(".")
    message = refusal(f"{section}: {{{name}: {domain}}}")
    assert message.startswith(f"{key}: must be a valid integer, got ")
    assert message.endswith(" among the searched values; whole numbers are searched by choice, randint or grid")


@pytest.mark.parametrize("key", ["diagnostics.density_threshold", "tune.num_samples", "resources.cpus_per_peer"])
def test_what_a_trial_cannot_change_is_not_searched(key: str) -> None:
    section, name = key.split(".")
    assert refusal(f"{section}: {{{name}: {{choice: [1, 2]}}}}") == (
        f"{key}: cannot be searched, got {{'choice': [1, 2]}}; what is searched lies in seed, data, model, "
        f"training, population, graft, distillation, mutual, repr, attenuation, swa"
    )


def test_the_name_is_not_searched_but_the_seed_may_be() -> None:
    assert refusal("name: {choice: [a, b]}").startswith("name: cannot be searched, got ")
    assert parse_space({"seed": {"randint": [0, 3]}}).domains["seed"] == Domain("randint", (0, 3))


@pytest.mark.parametrize("kind", ["uniform", "loguniform", "quniform"])
def test_a_grid_cannot_run_a_domain_without_end(kind: str) -> None:
    values = [0.1, 0.5] + [0.1] * (kind == "quniform")
    written = f"{{{kind}: {values}}}"
    assert refusal(f"{GRID}training: {{lr: {written}}}") == (
        f"training.lr: search grid runs every value, and there is no end to those of {written}; choose choice, grid "
        f"or randint, or tune.search: random"
    )


def test_a_grid_runs_the_whole_product_and_takes_no_number_of_samples() -> None:
    text = "training: {lr: {grid: [0.1, 0.2]}, epochs: {randint: [2, 4]}, batch_size: {choice: [16, 32]}}"
    assert parse_space(yaml.safe_load(GRID + text)).num_trials() == 12
    assert refusal(f"tune: {{search: grid, num_samples: 3}}\n{text}") == (
        "tune.num_samples: search grid runs the whole product of the domains, got 3; leave it null"
    )


@pytest.mark.parametrize("search", ["optuna", "random"])
def test_a_grid_needs_the_search_grid(search: str) -> None:
    assert refusal(f"tune: {{search: {search}}}\ntraining: {{lr: {{grid: [0.1, 0.2]}}}}") == (
        f"training.lr: a grid needs tune.search: grid, got {search}; to sample from it write {{choice: [0.1, 0.2]}}"
    )


@pytest.mark.parametrize("search", ["optuna", "grid"])
def test_pbt_with_a_searcher_is_refused_with_the_reason(search: str) -> None:
    assert refusal(f"tune: {{scheduler: pbt, search: {search}}}\ntraining: {{lr: {{choice: [0.1, 0.2]}}}}") == (
        f"tune.search: the scheduler pbt changes settings while trials run, of which a searcher would learn nothing, "
        f"so it goes with search random only, got {search}; set tune.search: random, or tune.scheduler: asha"
    )


@pytest.mark.parametrize(
    "text",
    [
        "population: {num_peers: {choice: [2, 3]}}",
        "training: {batch_size: {choice: [16, 32]}}",
        "model: {name: {choice: [resnet8, resnet20]}}",
        "seed: {randint: [0, 3]}",
        "graft: {choice: [null, {}]}",
    ],
)
def test_pbt_searches_only_what_leaves_weights_and_peers_as_they_are(text: str) -> None:
    message = refusal(PBT + text)
    key = next(iter(parse_space(yaml.safe_load(text)).domains))
    assert message == (
        f"{key}: the scheduler pbt copies running populations and can search only graft.A, graft.c, "
        f"graft.alpha, training.lr; fix this key, or set tune.scheduler: asha"
    )


def test_pbt_needs_something_to_change() -> None:
    assert refusal(PBT) == (
        "tune.scheduler: pbt needs something to change; search one of graft.A, graft.c, graft.alpha, training.lr"
    )


def test_pbt_changes_the_curve_of_alpha_and_the_learning_rate() -> None:
    text = (
        f"{PBT}training: {{lr: {{loguniform: [0.01, 0.1]}}}}\n"
        "graft: {A: {uniform: [0.0, 1.0]}, c: {uniform: [1.0, 9.0]}, alpha: {choice: [adaptive, 0.5]}}"
    )
    assert set(parse_space(yaml.safe_load(text)).domains) == set(UNDER_PBT)


@pytest.mark.parametrize("key", ["A", "c"])
@pytest.mark.parametrize("alpha", ["0.5", "0", "{choice: [0.2, 0.5]}", "{uniform: [0.0, 1.0]}"])
def test_searching_the_curve_of_alpha_where_alpha_is_a_number_is_refused(key: str, alpha: str) -> None:
    message = refusal(f"graft: {{alpha: {alpha}, {key}: {{uniform: [0.1, 1.0]}}}}")
    assert message == f"graft.{key}: {NO_EFFECT}{{uniform: [0.1, 1.0]}}; set graft.alpha: adaptive, or do not search it"


@pytest.mark.parametrize("alpha", ["adaptive", "{choice: [adaptive, 0.5]}", "{choice: [0.5, adaptive]}"])
def test_the_curve_of_alpha_is_searched_where_alpha_may_be_adaptive(alpha: str) -> None:
    assert accepted(f"graft: {{alpha: {alpha}, A: {{uniform: [0.0, 1.0]}}, c: {{loguniform: [1, 500]}}}}")


@pytest.mark.parametrize(
    ("sections", "rounds"),
    [
        ({}, 200),
        ({"population": {"num_peers": {"randint": [2, 6]}, "epochs_per_round": {"choice": [2, 3]}}}, 100),
        ({"training": {"epochs": {"choice": [5, 12, 7]}}, "population": {"epochs_per_round": {"choice": [5, 2]}}}, 6),
        ({"training": {"choice": [{"epochs": 3}, {"epochs": 30}]}}, 30),
    ],
)
def test_the_most_rounds_are_those_of_any_trial(sections: dict[str, Any], rounds: int) -> None:
    assert parse_space(sections).most_rounds() == rounds


def test_without_a_number_of_samples_there_are_ten_trials() -> None:
    assert parse_space({}).num_trials() == 10
    assert parse_space({"tune": {"num_samples": 3}}).num_trials() == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "population: {num_peers: 2, min_peers: 3}",
            "population.min_peers: must be at most population.num_peers (2), got 3",
        ),
        (
            "population: {num_peers: {choice: [4, 2]}, min_peers: 3}",
            "population.min_peers: must be at most population.num_peers (2), got 3",
        ),
        (
            "population: {num_peers: 3, min_peers: 2}\nmutual: {}",
            "population.min_peers: peers that meet at every batch cannot go on with fewer, got 2 of 3; leave it null, or set "
            "mutual.exchange: snapshots",
        ),
    ],
)
def test_a_population_can_only_go_on_with_some_of_its_peers(text: str, reason: str) -> None:
    assert refusal(text) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "mutual: {exchange: snapshots}\npopulation: {mode: async}",
            "population.mode: mutual needs all peers after the same round, got async; set population.mode: sync, or "
            "leave mutual out",
        ),
        (
            "diagnostics: {pairs: true}\npopulation: {mode: {choice: [sync, async]}}",
            "population.mode: diagnostics.pairs needs all peers after the same round, got async; set population.mode: "
            "sync, or leave diagnostics.pairs out",
        ),
        (
            "population: {max_staleness: {choice: [1, 2]}}",
            "population.max_staleness: has no effect where population.mode is sync, got {choice: [1, 2]}; set "
            "population.mode: async, or do not search it",
        ),
    ],
)
def test_who_does_not_wait_meets_nobody_after_the_same_round(text: str, reason: str) -> None:
    assert refusal(text) == reason


def test_how_long_to_wait_may_be_searched() -> None:
    assert accepted("population: {mode: {choice: [sync, async]}, max_staleness: {choice: [0, 4]}}\ngraft: {}")


@pytest.mark.parametrize(
    "text",
    [
        "population: {num_peers: 3, min_peers: 2}",
        "population: {num_peers: 3, min_peers: 3}\nmutual: {}",
        "population: {num_peers: 3, min_peers: 1}\nmutual: {exchange: snapshots}",
    ],
)
def test_fewer_peers_may_go_on_where_they_do_not_meet(text: str) -> None:
    assert accepted(text)
