"""Rules between keys, checked for every pair of values that the domains can yield."""

import random
from typing import Any

import pytest
import yaml
from space_makers import RULES, assert_refused, refusal

from graftpop.settings import Settings
from graftpop.space import Domain, parse_space
from graftpop.space.constraints import NAME_TABLES
from graftpop.space.keys import known_keys
from graftpop.space.search_constraints import MOST_GRID_TRIALS, UNDER_PBT
from graftpop.space.torch_constraints import CRITERION_TABLES

PBT = "tune: {scheduler: pbt, sampler: random}\n"
GRID = "tune: {sampler: grid}\n"
TABLES = {**NAME_TABLES, **CRITERION_TABLES}


def accepted(text: str) -> Settings:
    return parse_space(yaml.safe_load(text)).resolve()


# peers and rounds


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
def test_grafting_needs_two_peers_for_every_searched_count(text: str) -> None:
    assert_refused(text, "population.num_peers", "at least 2", "got 1", "2 or more", "graft")


@pytest.mark.parametrize(
    "text",
    [
        "population: {num_peers: 1}",
        "population: {num_peers: {choice: [1, 2]}}\ngraft: null",
        "population: {num_peers: {choice: [2, 3]}}\ngraft: {}",
    ],
)
def test_one_peer_is_accepted_without_grafting(text: str) -> None:
    assert accepted(text)


@pytest.mark.parametrize(
    ("text", "epochs", "per_round"),
    [
        ("training: {epochs: 3}\npopulation: {epochs_per_round: 4}", 3, 4),
        ("training: {epochs: {choice: [10, 2]}}\npopulation: {epochs_per_round: {choice: [1, 4]}}", 2, 4),
        ("training: {epochs: {randint: [3, 8]}}\npopulation: {epochs_per_round: 4}", 3, 4),
        (  # each of the two bad values is valid with all first values: only the pair is not
            "training: {epochs: {choice: [8, 3]}}\npopulation: {epochs_per_round: {choice: [1, 5]}, "
            "num_peers: {choice: [2, 3]}}\ngraft: {A: {uniform: [0.0, 1.0]}, c: {loguniform: [1.0, 500.0]}}",
            3,
            5,
        ),
    ],
)
def test_round_longer_than_the_training_is_refused(text: str, epochs: int, per_round: int) -> None:
    assert_refused(text, "population.epochs_per_round", f"training.epochs ({epochs})", f"got {per_round}")


def test_one_round_may_be_the_whole_training() -> None:
    assert accepted("training: {epochs: 3}\npopulation: {epochs_per_round: 3}").num_rounds == 1


@pytest.mark.parametrize(
    ("text", "num_peers", "got"),
    [
        ("population: {num_peers: 2, min_peers: 3}", "(2)", "got 3"),
        ("population: {num_peers: {choice: [4, 2]}, min_peers: 3}", "(2)", "got 3"),
        ("population: {num_peers: 3, min_peers: 2}\nmutual: {}", "mutual.exchange: snapshots", "got 2 of 3"),
    ],
)
def test_min_peers_that_cannot_be_reached_is_refused(text: str, num_peers: str, got: str) -> None:
    assert_refused(text, "population.min_peers", num_peers, got)


@pytest.mark.parametrize(
    "text",
    [
        "population: {num_peers: 3, min_peers: 2}",
        "population: {num_peers: 3, min_peers: 3}\nmutual: {}",
        "population: {num_peers: 3, min_peers: 1}\nmutual: {exchange: snapshots}",
    ],
)
def test_min_peers_is_accepted_without_exchange_of_logits(text: str) -> None:
    assert accepted(text)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("mutual: {exchange: snapshots}\npopulation: {mode: async}", "mutual"),
        ("diagnostics: {pairs: true}\npopulation: {mode: {choice: [sync, async]}}", "diagnostics.pairs"),
    ],
)
def test_async_excludes_methods_in_lockstep(text: str, key: str) -> None:
    assert_refused(text, "population.mode", f"{key} needs", "got async", "population.mode: sync")


# processes and GPUs


@pytest.mark.parametrize(
    ("tree", "cause"),
    [
        ("population: {peers_per_actor: 2}\nmutual: {}", "mutual.exchange: logits"),
        ("population: {peers_per_actor: 2, mode: async}\ngraft: {}", "population.mode: async"),
    ],
)
def test_concurrent_peers_do_not_share_a_process(tree: str, cause: str) -> None:
    assert_refused(tree, "population.peers_per_actor", cause, "got 2", "choose 1 or auto")
    for alone in ("1", "auto"):
        assert accepted(tree.replace("peers_per_actor: 2", f"peers_per_actor: {alone}"))


def test_peers_of_one_process_share_at_most_one_gpu() -> None:
    text = "population: {peers_per_actor: %d}\nresources: {gpus_per_peer: %s}"
    assert accepted(text % (2, "0.5"))
    assert accepted(text % (2, "1"))
    assert accepted(text % (2, "auto"))
    assert_refused(text % (3, "0.5"), "population.peers_per_actor", "got 3 peers of 0.5", "at most 2")


@pytest.mark.parametrize("gpus", ["1.5", "2.25"])
def test_gpus_per_peer_above_one_are_whole(gpus: str) -> None:
    below = int(float(gpus))
    assert_refused(f"resources: {{gpus_per_peer: {gpus}}}", "resources.gpus_per_peer", f"got {gpus}", f"{below}, ")
    assert accepted("resources: {gpus_per_peer: 2}")


# epochs


@pytest.mark.parametrize(
    ("text", "epochs"),
    [
        ("{}", 200),
        ("training: {epochs: 7}", 7),
        ("training: {total_epochs: 24}", 12),
        ("training: {total_epochs: 24}\npopulation: {num_peers: 1}", 24),
        ("training: {epochs: null, total_epochs: 24}\npopulation: {num_peers: 8}", 3),
    ],
)
def test_peer_epochs_are_explicit_or_a_share(text: str, epochs: int) -> None:
    assert accepted(text).num_epochs == epochs


def test_epochs_and_total_epochs_exclude_each_other() -> None:
    assert_refused(
        "training: {epochs: 100, total_epochs: 200}", "training.total_epochs", "training.epochs", "got 200", "100"
    )


@pytest.mark.parametrize(
    ("total", "num_peers", "nearest"), [(200, 3, "198 or 201"), (7, 2, "6 or 8"), (3, 4, "4"), (1, 2, "2")]
)
def test_indivisible_total_epochs_are_refused_with_nearest_multiples(total: int, num_peers: int, nearest: str) -> None:
    text = f"training: {{total_epochs: {total}}}\npopulation: {{num_peers: {num_peers}}}"
    assert_refused(text, "training.total_epochs", f"population.num_peers ({num_peers})", f"got {total}; ")
    assert refusal(text).endswith(f" {nearest}")


def test_total_epochs_must_be_a_multiple_in_every_trial() -> None:
    assert accepted("training: {total_epochs: {choice: [12, 24]}}\npopulation: {num_peers: {choice: [2, 3, 4]}}")
    text = "training: {total_epochs: {choice: [12, 20]}}\npopulation: {num_peers: {choice: [2, 4, 3]}}"
    assert_refused(text, "training.total_epochs", "(3)", "got 20", "18 or 21")


@pytest.mark.parametrize(
    ("text", "key", "domain"),
    [
        ("training: {total_epochs: 24}\npopulation: {num_peers: {randint: [2, 6]}}", "population.num_peers", "[2, 6]"),
        ("training: {total_epochs: {randint: [2, 8]}}", "training.total_epochs", "[2, 8]"),
    ],
)
def test_randint_is_refused_for_multiples(text: str, key: str, domain: str) -> None:
    assert_refused(text, key, "multiple", f"got {{randint: {domain}}}", "choice or grid")


def test_conflicts_of_three_keys_are_found() -> None:
    """Any two of the values are valid with the first value of the third key."""
    text = (
        "training: {total_epochs: {choice: [24, 12]}}\n"
        "population: {num_peers: {choice: [2, 4]}, epochs_per_round: {choice: [1, 5]}}"
    )
    assert_refused(text, "population.epochs_per_round", "training.total_epochs / population.num_peers (3)", "got 5")
    assert accepted(text.replace("5", "3"))


def test_null_in_searched_epochs_is_combined_with_lengths() -> None:
    """Only null, which means 200 epochs, is too short for the longest cycles."""
    text = "training: {epochs: {choice: [2000, null]}}\nrepr: {S1: {choice: [1, 40]}, S2: {choice: [1, 30]}, N: %s}"
    assert_refused(text % "{choice: [1, 3]}", "repr", "3 * (40 + 30) = 210", "got 200 epochs")
    assert accepted(text % "{choice: [1, 2]}")


@pytest.mark.parametrize(
    ("sections", "rounds"),
    [
        ({}, 200),
        ({"population": {"num_peers": {"randint": [2, 6]}, "epochs_per_round": {"choice": [2, 3]}}}, 100),
        ({"training": {"epochs": {"choice": [5, 12, 7]}}, "population": {"epochs_per_round": {"choice": [5, 2]}}}, 6),
        ({"training": {"choice": [{"epochs": 3}, {"epochs": 30}]}}, 30),
        (
            {
                "training": {"total_epochs": {"choice": [24, 48]}},
                "population": {"num_peers": {"choice": [4, 2]}, "epochs_per_round": {"choice": [3, 1]}},
            },
            24,
        ),
    ],
)
def test_most_rounds_is_the_maximum_over_all_trials(sections: dict[str, Any], rounds: int) -> None:
    assert parse_space(sections).most_rounds() == rounds


# names and values


@pytest.mark.parametrize("name", ["parquet", "folder"])
def test_user_defined_data_set_needs_its_folder(name: str) -> None:
    assert_refused(f"data: {{name: {name}}}", "data.root", f"'{name}'", "got null", "set data.root")
    assert accepted(f"data: {{name: {name}, root: somewhere}}")


@pytest.mark.parametrize(
    ("text", "key", "parts"),
    [
        (
            "training: {schedule: {choice: [step, cosin]}}",
            "training.schedule",
            ["'cosin'", "step, cosine, linear, one_cycle, constant", "did you mean 'cosine'?"],
        ),
        (
            "population: {topology: {choice: [ring, rang]}}",
            "population.topology",
            ["'rang'", "ring, random_pairs, all, mean, best", "did you mean 'ring'?"],
        ),
    ],
)
def test_searched_names_are_looked_up(text: str, key: str, parts: list[str]) -> None:
    assert_refused(text, key, *parts)


@pytest.mark.parametrize("key", TABLES)
def test_every_key_with_a_table_is_looked_up(key: str) -> None:
    assert key in known_keys(Settings)
    section, _, name = key.partition(".")
    assert_refused(f"{section}: {{{name}: nonsense}}", key, "'nonsense'", ", ".join(TABLES[key]))


@pytest.mark.parametrize(
    ("text", "key", "parts"),
    [
        ("training: {lr: {uniform: [0, 0.1]}}", "training.lr", ["greater than 0", "got 0 among the searched"]),
        ("graft: {alpha: {uniform: [0.5, 2.0]}}", "graft.alpha", ["1 or 'adaptive'", "got 2.0 among the searched"]),
        (
            "training: {batch_size: {choice: [16, 1]}}",
            "training.batch_size",
            ["equal to 2", "got 1 among the searched"],
        ),
        ("training: {lr: {choice: [0.1, '1e-4']}}", "training.lr", ["got '1e-4' among the searched", "write 0.0001"]),
        ("model: {choice: [resnet8, resnet20]}", "model", ["section", "got 'resnet8' among the searched"]),
    ],
)
def test_searched_values_are_validated_like_fixed_ones(text: str, key: str, parts: list[str]) -> None:
    assert_refused(text, key, *parts)


@pytest.mark.parametrize(
    ("text", "key", "parts"),
    [
        ("training: {epochs: 4, warmup_epochs: 4}", "training.warmup_epochs", ["(4)", "got 4; "]),
        (
            "training: {total_epochs: {choice: [24, 12]}, warmup_epochs: {uniform: [0.0, 5.0]}}\n"
            "population: {num_peers: {choice: [2, 3]}}",
            "training.warmup_epochs",
            ["(4)", "got 5; "],
        ),
        ("training: {schedule: cosine, lr: 0.1, min_lr: 0.2}", "training.min_lr", ["training.lr (0.1)", "got 0.2"]),
        (
            "training: {schedule: {choice: [step, linear]}, lr: {uniform: [0.1, 1.0]}, min_lr: {uniform: [0.0, 0.2]}}",
            "training.min_lr",
            ["training.lr (0.1)", "got 0.2"],
        ),
        ("training: {decay_epochs: [30, 20]}", "training.decay_epochs", ["rising", "got [30, 20]"]),
        ("training: {decay_epochs: [30, 30]}", "training.decay_epochs", ["rising", "got [30, 30]"]),
    ],
)
def test_schedule_that_cannot_work_is_refused(text: str, key: str, parts: list[str]) -> None:
    assert_refused(text, key, *parts)


@pytest.mark.parametrize(
    ("batch_size", "per_identity", "choose"), [(30, 4, 32), (4, 4, 8), (6, 4, 8), ("{choice: [32, 30]}", 4, 32)]
)
def test_batch_of_triplets_that_identities_do_not_fill_is_refused(
    batch_size: int | str, per_identity: int, choose: int
) -> None:
    task = f"{{name: recognition, triplet_weight: 1.0, images_per_identity: {per_identity}}}"
    where = "training.batch_size", f"({per_identity})", f"choose {choose}"
    assert_refused(f"task: {task}\ntraining: {{batch_size: {batch_size}}}", *where)


def test_branch_that_is_rounded_to_no_round_is_refused() -> None:
    branch = "population: {{num_peers: 2, branch_at: {}}}\ntraining: {{epochs: 4}}".format
    assert_refused(branch(0.1), "population.branch_at", "4 rounds", "got 0.1")
    assert accepted(branch(0.2)).branch_epoch == 1
    assert accepted(branch(0))
    assert parse_space(yaml.safe_load(branch("{uniform: [0.0, 0.5]}")))


def test_label_noise_needs_classes() -> None:
    assert_refused("task: recognition\ndata: {label_noise: 0.2}", "data.label_noise", "got 0.2", "recognition")
    assert accepted("task: recognition\ndata: {label_noise: 0}")
    assert accepted("data: {label_noise: 0.2}")


@pytest.mark.parametrize(("name", "metric"), [("classification", "rmse: min"), ("recognition", "map: min")])
def test_metrics_of_a_built_in_task_are_fixed(name: str, metric: str) -> None:
    assert_refused(f"task: {{name: {name}, metrics: {{{metric}}}}}", "task.metrics", name, "got {'", "leave it out")


def test_batches_without_triplets_have_any_size() -> None:
    assert accepted("task: recognition\ntraining: {batch_size: 30}")
    assert accepted("training: {batch_size: 30}")
    assert accepted("task: {name: recognition, triplet_weight: 1.0}\ntraining: {batch_size: 8}")


def test_two_sources_of_first_weights_are_refused() -> None:
    assert_refused("model: {pretrained: true, checkpoint: a.pt}", "model.checkpoint", "model.pretrained", "a.pt")


def test_keys_of_other_schedules_are_neither_checked_nor_sampled() -> None:
    assert accepted("training: {schedule: one_cycle, epochs: 4, warmup_epochs: 9, min_lr: 0.2}").training.lr == 0.1
    space = parse_space(
        yaml.safe_load(
            "training: {schedule: {choice: [step, cosine]}, min_lr: {uniform: [0.0, 0.1]}, "
            "decay_epochs: {choice: [2, [1, 3]]}}"
        )
    )
    found = [space.sample(random.Random(seed)) for seed in range(20)]
    assert {(one["training.schedule"], *sorted(one)) for one in found} == {
        ("step", "training.decay_epochs", "training.schedule"),
        ("cosine", "training.min_lr", "training.schedule"),
    }


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
def test_whole_number_is_not_searched_by_a_domain_of_floats(key: str, domain: str) -> None:
    section, name = key.split(".")
    assert_refused(f"{section}: {{{name}: {domain}}}", key, "integer", "searched by choice, randint or grid")


@pytest.mark.parametrize("key", ["diagnostics.density_threshold", "tune.num_samples", "resources.cpus_per_peer"])
def test_keys_that_a_trial_cannot_change_are_not_searched(key: str) -> None:
    section, name = key.split(".")
    assert_refused(
        f"{section}: {{{name}: {{choice: [1, 2]}}}}",
        key,
        "cannot be searched, got {'choice': [1, 2]}",
        f"seed, task, data, augmentation, model, training, population, {', '.join(RULES)}, exchange, align",
    )


def test_data_are_searched_by_a_list_of_values_alone() -> None:
    for domain in ("{uniform: [0.1, 0.2]}", "{quniform: [0.1, 0.2, 0.1]}", "{loguniform: [0.1, 0.2]}"):
        assert_refused(f"data: {{val_fraction: {domain}}}", "data.val_fraction", "choice or grid", "got {")
    assert accepted("data: {val_fraction: {choice: [0.1, 0.2]}}").data.val_fraction == 0.1


def test_seed_is_searchable_and_name_is_not() -> None:
    assert_refused("name: {choice: [a, b]}", "name", "cannot be searched", "got {'choice': ['a', 'b']}")
    assert parse_space({"seed": {"randint": [0, 3]}}).domains["seed"] == Domain("randint", (0, 3))


# search and scheduler


@pytest.mark.parametrize("kind", ["uniform", "loguniform", "quniform"])
def test_grid_search_refuses_a_domain_of_floats(kind: str) -> None:
    values = [0.1, 0.5] + [0.1] * (kind == "quniform")
    written = f"{{{kind}: {values}}}"
    assert_refused(
        f"{GRID}training: {{lr: {written}}}", "training.lr", f"got {written}", "choice, grid or randint", "random"
    )


def test_grid_search_runs_every_combination_and_refuses_num_samples() -> None:
    text = "training: {lr: {grid: [0.1, 0.2]}, epochs: {randint: [2, 4]}, batch_size: {choice: [16, 32]}}"
    assert parse_space(yaml.safe_load(GRID + text)).num_trials() == 12
    assert_refused(f"tune: {{sampler: grid, num_samples: 3}}\n{text}", "tune.num_samples", "null", "got 3")


def test_grid_search_is_limited_in_its_number_of_trials() -> None:
    text = f"{GRID}seed: {{randint: [1, %d]}}"
    assert parse_space(yaml.safe_load(text % MOST_GRID_TRIALS)).num_trials() == MOST_GRID_TRIALS == 100_000
    assert_refused(text % (MOST_GRID_TRIALS + 1), "tune.sampler", "100,000", "got 100,001", "tune.sampler: random")
    assert_refused(f"{GRID}seed: {{randint: [0, {2**63 - 1}]}}", "tune.sampler", "100,000", f"got {2**63:,}")


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_grid_domain_needs_grid_search(sampler: str) -> None:
    assert_refused(
        f"tune: {{sampler: {sampler}}}\ntraining: {{lr: {{grid: [0.1, 0.2]}}}}",
        "training.lr",
        "tune.sampler: grid",
        f"got {sampler}",
        "{choice: [0.1, 0.2]}",
    )


@pytest.mark.parametrize("scheduler", ["asha", "pbt"])
def test_comparison_excludes_schedulers(scheduler: str) -> None:
    assert_refused(f"seeds: [0, 1]\ntune: {{scheduler: {scheduler}}}", "tune.scheduler", "none", f"got {scheduler}")
    assert accepted("seeds: [0, 1]\ntune: {scheduler: none}")


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_pbt_needs_random_search(sampler: str) -> None:
    text = f"tune: {{scheduler: pbt, sampler: {sampler}}}\ntraining: {{lr: {{choice: [0.1, 0.2]}}}}"
    assert_refused(text, "tune.sampler", "pbt", f"got {sampler}", "tune.sampler: random", "tune.scheduler: asha")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("population: {num_peers: {choice: [2, 3]}}", "population.num_peers"),
        ("training: {batch_size: {choice: [16, 32]}}", "training.batch_size"),
        ("model: {name: {choice: [resnet8, resnet20]}}", "model.name"),
        ("seed: {randint: [0, 3]}", "seed"),
        ("graft: {choice: [null, {}]}", "graft"),
    ],
)
def test_pbt_searches_only_keys_that_keep_peers_and_networks(text: str, key: str) -> None:
    keys = "graft.A, graft.c, graft.base, graft.alpha, training.lr"
    assert_refused(PBT + text, key, keys, "got {", "tune.scheduler: asha")


def test_trials_of_pbt_all_train_to_the_end() -> None:
    text = f"{PBT}training: {{lr: {{choice: [0.1, 0.2]}}, patience: 3}}"
    assert_refused(text, "training.patience", "pbt", "got 3")
    kept = f"{PBT.strip()[:-1]}, keep: best}}\ntraining: {{lr: {{choice: [0.1, 0.2]}}}}"
    assert_refused(kept, "tune.keep", "pbt", "got best", "tune.scheduler: asha")
    assert accepted(text.replace("pbt", "asha"))


def test_pbt_needs_a_searched_key() -> None:
    assert_refused(PBT, "tune.scheduler", "pbt", "graft.A, graft.c, graft.base, graft.alpha, training.lr")


def test_pbt_searches_the_curve_of_alpha_and_the_learning_rate() -> None:
    text = (
        f"{PBT}training: {{lr: {{loguniform: [0.01, 0.1]}}}}\n"
        "graft: {A: {uniform: [0.0, 1.0]}, c: {uniform: [1.0, 9.0]}, base: {choice: [0.5, 0.8]}, "
        "alpha: {choice: [adaptive, 0.5]}}"
    )
    assert set(parse_space(yaml.safe_load(text)).domains) == set(UNDER_PBT)


def test_num_trials_defaults_to_ten_or_to_one_if_nothing_is_searched() -> None:
    assert parse_space({"graft": {"A": {"uniform": [0, 1]}}}).num_trials() == 10
    assert parse_space({}).num_trials() == 1
    assert parse_space({"tune": {"num_samples": 3}}).num_trials() == 3


# keys without effect


@pytest.mark.parametrize("key", ["A", "c"])
@pytest.mark.parametrize("alpha", ["0.5", "0", "{choice: [0.2, 0.5]}", "{uniform: [0.0, 1.0]}"])
def test_searched_curve_with_fixed_alpha_is_refused(key: str, alpha: str) -> None:
    assert_refused(
        f"graft: {{alpha: {alpha}, {key}: {{uniform: [0.1, 1.0]}}}}",
        f"graft.{key}",
        "no effect",
        "got {uniform: [0.1, 1.0]}",
        "graft.alpha: adaptive",
    )


@pytest.mark.parametrize("alpha", ["adaptive", "{choice: [adaptive, 0.5]}", "{choice: [0.5, adaptive]}"])
def test_searched_curve_with_possibly_adaptive_alpha_is_accepted(alpha: str) -> None:
    assert accepted(f"graft: {{alpha: {alpha}, A: {{uniform: [0.0, 1.0]}}, c: {{loguniform: [1, 500]}}}}")


@pytest.mark.parametrize("source", ["noise", "{choice: [noise, internal]}"])
def test_searched_curve_without_external_source_is_refused(source: str) -> None:
    assert_refused(
        f"graft: {{source: {source}, c: {{uniform: [0.1, 1.0]}}}}",
        "graft.c",
        "no effect",
        "got {uniform: [0.1, 1.0]}",
        "graft.source: external",
    )
    assert accepted(f"graft: {{source: {source}, alpha: 0.5, A: 0.1}}")


def test_max_staleness_is_searched_only_if_mode_may_be_async() -> None:
    assert_refused(
        "population: {max_staleness: {choice: [1, 2]}}",
        "population.max_staleness",
        "no effect",
        "got {choice: [1, 2]}",
        "population.mode: async",
    )
    assert accepted("population: {mode: {choice: [sync, async]}, max_staleness: {choice: [0, 4]}}\ngraft: {}")
