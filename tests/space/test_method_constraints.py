"""Rules of the methods' sections: requirements of each method, and methods that exclude each other."""

from typing import Any

import pytest
import yaml
from space_makers import assert_refused

from graftpop.settings import Settings
from graftpop.space import parse_space

GRID = "tune: {sampler: grid}\n"


def accepted(text: str) -> Settings:
    return parse_space(yaml.safe_load(text)).resolve()


# grafting


@pytest.mark.parametrize("source", ["internal", "noise"])
def test_only_external_grafting_needs_a_second_peer(source: str) -> None:
    assert accepted(f"population: {{num_peers: 1}}\ngraft: {{source: {source}}}")
    text = f"population: {{num_peers: 1}}\ngraft: {{source: {{choice: [{source}, external]}}}}"
    assert_refused(text, "population.num_peers", "at least 2", "got 1")


def test_burn_in_must_be_shorter_than_the_training() -> None:
    text = "training: {epochs: 12}\npopulation: {epochs_per_round: 2}\ngraft: {burn_in_rounds: %d}"
    assert accepted(text % 5)
    assert_refused(text % 6, "graft.burn_in_rounds", "rounds (6)", "got 6")


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [
        ("base", "0.4", "0.5"),
        ("level", "filter", "layer"),
        ("criterion", "l1", "entropy"),
        ("source", "noise", "external"),
    ],
)
def test_released_code_fixes_level_criterion_and_source(key: str, value: str, needed: str) -> None:
    text = f"graft: {{compat: released_code, {key}: {value}}}"
    assert_refused(text, f"graft.{key}", "released_code", f"got {value}; set {needed}", "graft.compat: none")
    assert accepted(f"graft: {{compat: released_code, {key}: {needed}}}")


# teachers


@pytest.mark.parametrize(
    ("teacher", "parts"),
    [
        ("{model: resnet8}", ["exactly one of epochs, checkpoint, pretrained: true", "got none"]),
        ("{}", ["exactly one of epochs, checkpoint, pretrained: true", "got none"]),
        ("{model: resnet8, epochs: 3, checkpoint: best}", ["exactly one", "got epochs and checkpoint; "]),
        (
            "{model: resnet8, epochs: 3, checkpoint: best, pretrained: true}",
            ["exactly one", "got epochs and checkpoint and pretrained: true; "],
        ),
        ("{epochs: 3}", ["epochs needs", "got model null", "set model"]),
        ("{pretrained: true}", ["pretrained: true needs", "got model null", "set model"]),
    ],
)
def test_teacher_without_exactly_one_source_is_refused_with_its_index(teacher: str, parts: list[str]) -> None:
    assert_refused(f"distillation: {{teachers: [{teacher}]}}", "distillation.teachers[0]", *parts)
    second = f"distillation: {{teachers: [{{model: resnet8, epochs: 1}}, {teacher}]}}"
    assert_refused(second, "distillation.teachers[1]", *parts)


def test_teacher_must_train_longer_than_the_warmup() -> None:
    training = "training: {warmup_epochs: 5}\n"
    where = "distillation.teachers[0].epochs"
    assert_refused(f"{training}distillation: {{teachers: [{{model: resnet8, epochs: 5}}]}}", where, "(5)", "got 5")
    assert accepted(f"{training}distillation: {{teachers: [{{model: resnet8, epochs: 6}}]}}").distillation


@pytest.mark.parametrize(
    "teacher",
    [
        "{model: resnet8, epochs: 3}",
        "{checkpoint: best}",
        "{model: resnet8, checkpoint: weights.pt}",
        "{model: 'torchvision:resnet18', pretrained: true}",
    ],
)
def test_teacher_with_one_source_is_accepted(teacher: str) -> None:
    assert accepted(f"distillation: {{teachers: [{teacher}]}}").distillation


# combinations


def test_repr_cycles_must_end_before_the_last_epoch() -> None:
    text = "training: {epochs: %d}\nrepr: {S1: 4, S2: 2, N: 3}"
    assert accepted(text % 19).repr
    assert_refused(text % 18, "repr", "N * (S1 + S2) = 3 * (4 + 2) = 18", "got 18 epochs")


def test_searched_repr_cycles_that_are_too_long_are_found() -> None:
    text = "training: {epochs: 40}\nrepr: {S1: {choice: [1, 9]}, S2: {choice: [1, 5]}, N: {choice: [1, 3]}}"
    assert_refused(text, "repr", "3 * (9 + 5) = 42", "got 40 epochs")
    assert accepted(text.replace("40", "43"))


@pytest.mark.parametrize(
    ("first", "second"), [("repr", "pruning"), ("swa", "pruning"), ("ema", "pruning"), ("swa", "ema")]
)
def test_methods_that_undo_each_other_exclude_each_other(first: str, second: str) -> None:
    assert_refused(f"{first}: {{}}\n{second}: {{}}", first, f"excludes {second}", "got both")
    assert_refused(f"{GRID}{first}: {{}}\n{second}: {{grid: [null, {{}}]}}", first, f"excludes {second}", "got both")


@pytest.mark.parametrize("output", ["uniform_soup", "greedy_soup"])
def test_pruning_excludes_soups(output: str) -> None:
    text = f"population: {{output: {output}}}\npruning: {{}}"
    assert_refused(text, "population.output", f"got {output}", "best_peer or ensemble", "section pruning")


def test_preset_fixes_its_keys() -> None:
    assert_refused(
        "pruning: {preset: soft, schedule: hard}", "pruning.schedule", "must be soft", "preset soft", "got hard"
    )
    searched = "pruning: {preset: {choice: [soft, hard]}, schedule: hard}"
    assert_refused(searched, "pruning.schedule", "must be soft", "got hard")
    assert accepted("pruning: {preset: soft, schedule: soft, criterion: l1, rate: 0.5}").pruning
    assert accepted("pruning: {preset: {choice: [soft, clr_rnf]}}").pruning


def test_criterion_without_effect_is_refused() -> None:
    assert_refused("pruning: {preset: clr_rnf, criterion: l1}", "pruning.criterion", "k_reciprocal", "got l1")
    assert accepted("pruning: {selection: k_reciprocal, allocation: global, criterion: l1}").pruning


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("repr: {criterion: interaction}", "repr.criterion"),
        ("pruning: {criterion: interaction}", "pruning.criterion"),
        ("pruning: {allocation: utilization}", "pruning.allocation"),
    ],
)
def test_interaction_needs_classes(section: str, key: str) -> None:
    task = "task: {name: 'python:user_tasks.Regression'}\n"
    assert_refused(task + section, key, "classification or recognition", "user_tasks")
    assert accepted(section)
    assert accepted(task + section.replace("interaction", "taylor").replace("utilization", "uniform"))


def test_gated_pruning_needs_ticks() -> None:
    text = "training: {epochs: 13}\npruning: {preset: gate_decorator}"
    assert_refused(text, "pruning.tock_epochs", "last 3 epochs", "got 10 of 13 epochs")
    assert accepted(text.replace("13", "14")).pruning
    text = "pruning: {schedule: gated, selection: k_reciprocal}"
    assert_refused(text, "pruning.selection", "must be lowest", "got k_reciprocal")


@pytest.mark.parametrize("method", ["allocation: budget", "preset: holistic"])
def test_budget_needs_a_target(method: str) -> None:
    assert_refused(f"pruning: {{{method}}}", "pruning.allocation", "budget needs pruning.target", "got null")
    assert accepted(f"pruning: {{{method}, target: 0.5, selection: k_reciprocal, criterion: l1}}").pruning


def test_importances_of_torch_pruning_need_units_that_can_be_removed() -> None:
    criterion = "criterion: 'torch_pruning:TaylorImportance'"
    assert_refused(f"pruning: {{{criterion}}}", "pruning.coupled", "sum or skip", "got apart")
    assert accepted(f"pruning: {{{criterion}, coupled: skip}}").pruning
    assert accepted(f"pruning: {{{criterion}, target: 0.5}}").pruning
    assert_refused("repr: {criterion: 'torch_pruning:TaylorImportance'}", "repr.criterion", "TaylorImportance")


def test_target_needs_units_that_can_be_removed() -> None:
    assert_refused("pruning: {target: 0.5, coupled: apart}", "pruning.coupled", "sum or skip", "got apart")
    assert accepted("pruning: {target: {uniform: [0.3, 0.9]}, coupled: skip}").pruning
    assert accepted("pruning: {target: 0.5}").pruning


@pytest.mark.parametrize(
    "text",
    [
        "graft: {}\nrepr: {}",
        "graft: {}\npruning: {}",
        "repr: {}\nswa: {}",
        "repr: {}\nema: {}",
        "graft: {}\nmutual: {}\nswa: {}",
        "population: {output: ensemble}\npruning: {}",
        "population: {num_peers: 1}\nmutual: {}",
    ],
)
def test_other_methods_can_be_combined(text: str) -> None:
    assert accepted(text)


@pytest.mark.parametrize("section", ["data", "distillation", "mutual", "repr", "pruning", "swa", "ema"])
def test_data_and_every_method_are_searchable(section: str) -> None:
    keys: dict[str, tuple[str, Any]] = {
        "data": ("max_train_images", {"choice": [100, 200]}),
        "distillation": ("temperature", {"uniform": [1.0, 4.0]}),
        "mutual": ("exchange", {"choice": ["logits", "snapshots"]}),
        "repr": ("rate", {"uniform": [0.1, 0.5]}),
        "pruning": ("criterion", {"choice": ["l1", "l2"]}),
        "swa": ("start", {"uniform": [0.5, 0.9]}),
        "ema": ("decay", {"uniform": [0.9, 0.999]}),
    }
    key, domain = keys[section]
    tree = {section: {key: domain}}
    if section == "distillation":
        tree[section]["teachers"] = [{"checkpoint": "best"}]
    assert list(parse_space(tree).domains) == [f"{section}.{key}"]


@pytest.mark.parametrize("domain", ["{randint: [1, 9]}", "{uniform: [0.1, 0.2]}"])
def test_data_is_searched_only_by_lists_of_values(domain: str) -> None:
    got = yaml.safe_load(domain)
    assert_refused(f"data: {{val_fraction: {domain}}}", "data.val_fraction", "choice or grid", f"got {got}")
