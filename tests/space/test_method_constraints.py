"""The rules of the methods' sections, and of how long a training is: by one line that names the numbers."""

from typing import Any

import pytest
import yaml
from space_makers import refusal

from graftpop.settings import Settings
from graftpop.space import parse_space

GRID = "tune: {search: grid}\n"
TEACHER = "distillation.teachers[0]"


def accepted(text: str) -> Settings:
    return parse_space(yaml.safe_load(text)).resolve()


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
def test_the_epochs_of_a_peer_are_given_or_its_part_of_all(text: str, epochs: int) -> None:
    assert accepted(text).num_epochs == epochs


def test_epochs_are_said_once() -> None:
    assert refusal("training: {epochs: 100, total_epochs: 200}") == (
        "training.total_epochs: excludes training.epochs, got 200 beside 100; take one out, or set it to null"
    )


@pytest.mark.parametrize(
    ("total", "num_peers", "nearest"), [(200, 3, "198 or 201"), (7, 2, "6 or 8"), (3, 4, "4"), (1, 2, "2")]
)
def test_epochs_that_cannot_be_shared_out_are_refused_with_the_nearest_that_can(
    total: int, num_peers: int, nearest: str
) -> None:
    assert refusal(f"training: {{total_epochs: {total}}}\npopulation: {{num_peers: {num_peers}}}") == (
        f"training.total_epochs: must be a multiple of population.num_peers ({num_peers}), got {total}; choose "
        f"{nearest}"
    )


def test_epochs_are_shared_out_in_every_trial() -> None:
    assert accepted("training: {total_epochs: {choice: [12, 24]}}\npopulation: {num_peers: {choice: [2, 3, 4]}}")
    text = "training: {total_epochs: {choice: [12, 20]}}\npopulation: {num_peers: {choice: [2, 4, 3]}}"
    assert refusal(text).endswith("must be a multiple of population.num_peers (3), got 20; choose 18 or 21")


@pytest.mark.parametrize(
    ("text", "key", "domain"),
    [
        ("training: {total_epochs: 24}\npopulation: {num_peers: {randint: [2, 6]}}", "population.num_peers", "[2, 6]"),
        ("training: {total_epochs: {randint: [2, 8]}}", "training.total_epochs", "[2, 8]"),
    ],
)
def test_a_range_of_whole_numbers_cannot_all_be_multiples(text: str, key: str, domain: str) -> None:
    assert refusal(text) == (
        f"{key}: total_epochs must be a multiple of num_peers in every trial, so neither is "
        f"searched by randint, got {{randint: {domain}}}; list the values with choice or grid"
    )


def test_three_keys_that_make_a_training_too_short_together_are_found() -> None:
    """Any two of the values are well with the first value of the third."""
    text = (
        "training: {total_epochs: {choice: [24, 12]}}\n"
        "population: {num_peers: {choice: [2, 4]}, epochs_per_round: {choice: [1, 5]}}"
    )
    assert refusal(text) == (
        "population.epochs_per_round: must be at most training.total_epochs / population.num_peers (3), got 5"
    )
    assert accepted(text.replace("5", "3"))


def test_the_most_rounds_are_those_of_any_three_values() -> None:
    text = (
        "training: {total_epochs: {choice: [24, 48]}}\n"
        "population: {num_peers: {choice: [4, 2]}, epochs_per_round: {choice: [3, 1]}}"
    )
    assert parse_space(yaml.safe_load(text)).most_rounds() == 24


# grafting


@pytest.mark.parametrize("source", ["internal", "noise"])
def test_only_external_sources_need_a_second_peer(source: str) -> None:
    assert accepted(f"population: {{num_peers: 1}}\ngraft: {{source: {source}}}")
    assert refusal(f"population: {{num_peers: 1}}\ngraft: {{source: {{choice: [{source}, external]}}}}").startswith(
        "population.num_peers: grafting over a ring needs at least 2 peers, got 1"
    )


def test_the_first_exchange_comes_before_the_end() -> None:
    text = "training: {epochs: 12}\npopulation: {epochs_per_round: 2}\ngraft: {burn_in_rounds: %d}"
    assert accepted(text % 5)
    assert refusal(text % 6) == "graft.burn_in_rounds: must be below the number of rounds (6), got 6"


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [("level", "filter", "layer"), ("criterion", "l1", "entropy"), ("source", "noise", "external")],
)
def test_the_released_code_knows_one_kind_of_grafting(key: str, value: str, needed: str) -> None:
    assert refusal(f"graft: {{compat: released_code, {key}: {value}}}") == (
        f"graft.{key}: the released code knows {needed} alone, got {value}; choose {needed}, or graft.compat: none"
    )
    assert accepted(f"graft: {{compat: released_code, {key}: {needed}}}")


@pytest.mark.parametrize("source", ["noise", "{choice: [noise, internal]}"])
def test_searching_the_curve_of_alpha_without_another_peers_weights_is_refused(source: str) -> None:
    assert refusal(f"graft: {{source: {source}, c: {{uniform: [0.1, 1.0]}}}}") == (
        "graft.c: has no effect where graft.source is internal or noise, got {uniform: [0.1, 1.0]}; set graft.source: "
        "external, or do not search it"
    )
    assert accepted(f"graft: {{source: {source}, alpha: 0.5, A: 0.1}}")


# teachers


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("{model: resnet8}", "needs exactly one of epochs, checkpoint, pretrained: true, got none"),
        ("{}", "needs exactly one of epochs, checkpoint, pretrained: true, got none"),
        (
            "{model: resnet8, epochs: 3, checkpoint: best}",
            "needs exactly one of epochs, checkpoint, pretrained: true, got epochs and checkpoint",
        ),
        (
            "{model: resnet8, epochs: 3, checkpoint: best, pretrained: true}",
            "needs exactly one of epochs, checkpoint, pretrained: true, got epochs and checkpoint and pretrained: true",
        ),
        ("{epochs: 3}", "epochs needs the name of a network, got model null; set model as in model.name"),
        (
            "{pretrained: true}",
            "pretrained: true needs the name of a network, got model null; set model as in model.name",
        ),
    ],
)
def test_a_teacher_comes_from_one_place(teacher: str, message: str) -> None:
    assert refusal(f"distillation: {{teachers: [{teacher}]}}") == f"{TEACHER}: {message}"
    behind = f"distillation: {{teachers: [{{model: resnet8, epochs: 1}}, {teacher}]}}"
    assert refusal(behind) == f"distillation.teachers[1]: {message}"


@pytest.mark.parametrize(
    "teacher",
    [
        "{model: resnet8, epochs: 3}",
        "{checkpoint: best}",
        "{model: resnet8, checkpoint: weights.pt}",
        "{model: 'torchvision:resnet18', pretrained: true}",
    ],
)
def test_a_teacher_of_one_source_is_accepted(teacher: str) -> None:
    assert accepted(f"distillation: {{teachers: [{teacher}]}}").distillation


# methods that drop filters


def test_cycles_leave_an_epoch_to_the_filters_that_come_back_last() -> None:
    text = "training: {epochs: %d}\nrepr: {S1: 4, S2: 2, N: 3}"
    assert accepted(text % 19).repr
    assert refusal(text % 18) == (
        "repr: the cycles take N * (S1 + S2) = 3 * (4 + 2) = 18 epochs, and the last filters to come back need at "
        "least one more to train, got 18 epochs; shorten the cycles, or train longer"
    )


def test_cycles_that_are_too_long_by_three_searched_keys_are_found() -> None:
    text = "training: {epochs: 40}\nrepr: {S1: {choice: [1, 9]}, S2: {choice: [1, 5]}, N: {choice: [1, 3]}}"
    assert "= 3 * (9 + 5) = 42 epochs" in refusal(text)
    assert accepted(text.replace("40", "43"))


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("repr", "attenuation", "both drop filters"),
        ("swa", "attenuation", "the mean of weights brings attenuated filters back"),
    ],
)
def test_methods_that_undo_each_other_exclude_each_other(one: str, other: str, reason: str) -> None:
    message = f"{one}: excludes {other}, since {reason}, got both; take one out"
    assert refusal(f"{one}: {{}}\n{other}: {{}}") == message
    assert refusal(f"{GRID}{one}: {{}}\n{other}: {{grid: [null, {{}}]}}") == message


@pytest.mark.parametrize("output", ["uniform_soup", "greedy_soup"])
def test_attenuated_networks_have_no_mean(output: str) -> None:
    assert refusal(f"population: {{output: {output}}}\nattenuation: {{}}") == (
        f"population.output: attenuated filters differ from peer to peer, so that networks have no mean, got {output}; "
        f"choose best_peer or ensemble, or take out the section attenuation"
    )


def test_hard_pruning_has_factor_0() -> None:
    assert refusal("attenuation: {recoverable: false}") == (
        "attenuation.recoverable: false is hard pruning and needs factor 0, got 0.5; set attenuation.factor: 0, or "
        "recoverable: true"
    )
    assert accepted("attenuation: {recoverable: false, factor: 0}").attenuation


@pytest.mark.parametrize(
    "text",
    [
        "graft: {}\nrepr: {}",
        "graft: {}\nattenuation: {}",
        "repr: {}\nswa: {}",
        "graft: {}\nmutual: {}\nswa: {}",
        "population: {output: ensemble}\nattenuation: {}",
        "population: {num_peers: 1}\nmutual: {}",
    ],
)
def test_other_methods_go_together(text: str) -> None:
    assert accepted(text)


@pytest.mark.parametrize("section", ["data", "distillation", "mutual", "repr", "attenuation", "swa"])
def test_the_sections_of_the_methods_and_the_data_can_be_searched(section: str) -> None:
    keys: dict[str, tuple[str, Any]] = {
        "data": ("max_train_images", {"choice": [100, 200]}),
        "distillation": ("temperature", {"uniform": [1.0, 4.0]}),
        "mutual": ("exchange", {"choice": ["logits", "snapshots"]}),
        "repr": ("rate", {"uniform": [0.1, 0.5]}),
        "attenuation": ("criterion", {"choice": ["l1", "l2"]}),
        "swa": ("start", {"uniform": [0.5, 0.9]}),
    }
    key, domain = keys[section]
    tree = {section: {key: domain}}
    if section == "distillation":
        tree[section]["teachers"] = [{"checkpoint": "best"}]
    assert list(parse_space(tree).domains) == [f"{section}.{key}"]


@pytest.mark.parametrize("domain", ["{randint: [1, 9]}", "{uniform: [0.1, 0.2]}"])
def test_data_is_searched_by_values_that_can_all_be_looked_at(domain: str) -> None:
    got = yaml.safe_load(domain)
    assert refusal(f"data: {{val_fraction: {domain}}}") == (
        f"data.val_fraction: data is searched by choice or grid, since all of it is looked at before anything starts, "
        f"got {got}"
    )
