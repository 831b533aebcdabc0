"""Conditions: a key that cannot matter under the others is neither sampled nor recorded."""

import random
from typing import Any

import pytest
import yaml
from space_makers import assert_refused

from graftpop.settings import Settings
from graftpop.settings.optimizer import TIMM
from graftpop.space import Space, parse_space
from graftpop.space.conditions import dependent_keys
from graftpop.space.keys import known_keys
from graftpop.space.yaml_tree import put
from graftpop.user_code import PYTHON

CURVE = "A: {uniform: [0.0, 1.0]}, c: {loguniform: [1.0, 500.0]}"
BRANCHES = """
graft:
  choice:
    - null
    - {alpha: 0.5}
    - {burn_in_rounds: 1, alpha: {choice: [adaptive, 1.0]}, A: {choice: [0.1, 0.4]}}
"""


def space_of(text: str) -> Space:
    return parse_space(yaml.safe_load(text), "space.yaml")


def drawn(space: Space, number: int = 200) -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [space.sample(rng) for _ in range(number)]


def test_curve_is_sampled_with_adaptive_alpha_only() -> None:
    samples = drawn(space_of(f"graft: {{{CURVE}, alpha: {{choice: [adaptive, 0.5]}}}}"))
    assert {(one["graft.alpha"], "graft.A" in one, "graft.c" in one) for one in samples} == {
        ("adaptive", True, True),
        (0.5, False, False),
    }


def test_conditions_are_inherited_from_the_keys_that_a_key_needs() -> None:
    """A needs alpha: adaptive, and alpha needs source: external."""
    text = f"graft: {{{CURVE}, source: {{choice: [noise, external]}}, noise_base: {{uniform: [0.9, 0.99]}}}}"
    for sample in drawn(space_of(text)):
        is_noise = sample["graft.source"] == "noise"
        assert ("graft.A" in sample, "graft.noise_base" in sample) == (not is_noise, is_noise)


def test_conditional_values_do_not_change_the_draws_of_the_others() -> None:
    text = "training: {lr: {uniform: [0.01, 0.1]}}\ngraft: {A: {uniform: [0.0, 1.0]}, alpha: %s}"
    free, conditional = (drawn(space_of(text % alpha)) for alpha in ("adaptive", "{choice: [adaptive, 0.5]}"))
    assert len(free) == len(conditional)
    assert all("training.lr" in one for one in conditional)


def test_augmentation_is_searched_and_its_policies_have_keys_of_their_own() -> None:
    text = """
augmentation:
  policy: {choice: [none, autoaugment, randaugment]}
  num_ops: {choice: [1, 3]}
  magnitude: {randint: [5, 16]}
  learned_on: {choice: [cifar10, svhn]}
  mixup: {uniform: [0, 1]}
  cutmix: {choice: [0.0, 1.0]}
  erasing: {uniform: [0.1, 0.3]}
  color_jitter: {uniform: [0, 0.4]}
  mix_probability: {uniform: [0.5, 1]}
"""
    space = space_of(text)
    for sample in drawn(space):
        policy = sample["augmentation.policy"]
        assert ("augmentation.num_ops" in sample) == ("augmentation.magnitude" in sample) == (policy == "randaugment")
        assert ("augmentation.learned_on" in sample) == (policy == "autoaugment")
        augmentation = space.resolve(sample).augmentation
        assert (augmentation.policy, augmentation.mixup) == (policy, sample["augmentation.mixup"])
        assert 0 <= augmentation.mixup <= 1


def test_condition_names_existing_keys_and_valid_values() -> None:
    known = list(known_keys(Settings))
    for key, conditions in dependent_keys().items():
        assert key in known
        for on in conditions:
            for value in on.values:
                chosen = {PYTHON: "python:user_parts.spread", TIMM: "timm:lamb"}.get(value, value)
                tree: dict[str, Any] = {}
                put(tree, on.key, chosen)
                found: Any = parse_space(tree).resolve()
                for name in on.key.split("."):
                    found = getattr(found, name)
                assert found == chosen
                assert on.allows(chosen)


def test_domain_inside_a_choice_is_sampled_in_that_choice_only() -> None:
    space = space_of(BRANCHES)
    samples = drawn(space)
    found = {(str(one["graft"]), one.get("graft.alpha"), one.get("graft.A")) for one in samples}
    assert found == {
        ("None", None, None),
        ("{'alpha': 0.5}", None, None),
        ("{'burn_in_rounds': 1}", 1.0, None),
        ("{'burn_in_rounds': 1}", "adaptive", 0.1),
        ("{'burn_in_rounds': 1}", "adaptive", 0.4),
    }
    for one in samples:
        graft = space.resolve(one).graft
        assert (graft is None) == (one["graft"] is None)
        if graft is not None and "graft.A" in one:
            assert (graft.alpha, graft.A, graft.burn_in_rounds) == ("adaptive", one["graft.A"], 1)


def test_sample_of_a_tuner_may_have_keys_before_their_section_and_without_it() -> None:
    """A user's Tuner samples each key of its own space, in any order."""
    space = space_of("graft: {A: 0.1}")
    sample: dict[str, Any]
    for sample in ({"graft.A": 0.7, "graft": {"level": "filter"}}, {"graft": {"level": "filter"}, "graft.A": 0.7}):
        graft = space.resolve(sample).graft
        assert graft is not None
        assert (graft.A, graft.level) == (0.7, "filter")
    for sample in ({"graft.A": 0.7, "graft": None}, {"graft": None, "graft.A": 0.7}):
        assert space.resolve(sample).graft is None


def test_resolving_a_sample_does_not_change_the_space() -> None:
    space = space_of(BRANCHES)
    for one in drawn(space, 50):
        space.resolve(one)
    assert space == space_of(BRANCHES)


def test_grid_has_each_distinct_combination_once() -> None:
    space = space_of(f"{BRANCHES}\ntune: {{sampler: grid}}")
    assert space.num_trials() == 5
    assert len({repr(sample) for sample in space.grid}) == 5


def test_space_with_domains_inside_choices_survives_yaml() -> None:
    space = space_of(BRANCHES)
    assert space_of(space.to_yaml()) == space


def test_argument_of_a_network_is_searched_where_that_network_is_chosen() -> None:
    space = space_of(
        "model:\n  choice:\n    - {name: resnet8}\n"
        "    - {name: 'timm:test_vit', args: {depth: 2, drop_rate: {uniform: [0.0, 0.5]}}}"
    )
    samples = drawn(space)
    assert {(one["model"]["name"], "model.args.drop_rate" in one) for one in samples} == {
        ("resnet8", False),
        ("timm:test_vit", True),
    }
    for one in samples:
        rate = {"depth": 2, "drop_rate": one["model.args.drop_rate"]} if "model.args.drop_rate" in one else {}
        assert space.resolve(one).model.args == rate
    assert len({one.get("model.args.drop_rate") for one in samples}) > 50
    assert space_of(space.to_yaml()) == space


def test_equal_domain_in_two_choices_is_one_key() -> None:
    space = space_of(f"graft: {{choice: [{{level: layer, {CURVE}}}, {{level: filter, {CURVE}}}, {{alpha: 0.5}}]}}")
    for one in drawn(space):
        assert ("graft.A" in one) == ("level" in one["graft"])


def test_a_row_of_the_table_gives_the_sample_back() -> None:
    """Unused keys are null in the table, like the choice null."""
    space = space_of(BRANCHES)
    for sample in drawn(space, 50):
        assert space.sample_of({key: sample.get(key) for key in space.domains}) == sample


@pytest.mark.parametrize(
    ("text", "key", "parts"),
    [
        (
            "graft: {choice: [{A: {uniform: [0, 1]}}, {A: {uniform: [0, 0.5]}, level: filter}]}",
            "graft.A",
            ["same domain"],
        ),
        ("graft: {choice: [{A: {uniform: [0, 1]}}, {c: {uniform: [1, 5]}}]}", "graft", ["differ in a fixed value"]),
        ("graft: {choice: [null, {A: {uniform: [0, 2]}}]}", "graft.A", ["less than or equal to 1", "got 2"]),
        ("graft: {choice: [null, {alpha: 0.5, A: {uniform: [0, 1]}}]}", "graft.A", ["no effect", "alpha: adaptive"]),
        (
            "graft: {level: {choice: [layer, filter]}, source: internal}",
            "graft.level",
            ["no effect", "source: external"],
        ),
        ("graft: {source: internal, noise_base: {uniform: [0.9, 0.99]}}", "graft.noise_base", ["graft.source: noise"]),
    ],
)
def test_conditions_that_cannot_hold_or_clash_are_refused(text: str, key: str, parts: list[str]) -> None:
    assert_refused(text, key, *parts)


def test_rules_hold_for_the_choices_that_are_sampled_together() -> None:
    """One peer cannot graft, but it is never sampled with grafting."""
    choices = "{choice: [{num_peers: 1}, {num_peers: 2}]}"
    assert_refused(f"population: {choices}\n{BRANCHES}", "population.num_peers", "at least 2")
    assert space_of(f"population: {{num_peers: 2}}\n{BRANCHES}").num_trials() == 10


def test_invalid_value_is_named_before_the_keys_that_need_another() -> None:
    assert_refused(f"graft: {{{CURVE}, alpha: 2}}", "graft.alpha", "got 2")


# points to try first


def test_published_values_are_tried_first_if_they_lie_in_the_space() -> None:
    space = space_of(f"graft: {{{CURVE}, alpha: {{choice: [0.5, adaptive]}}}}")
    assert space.first == [{"graft.alpha": "adaptive", "graft.A": 0.4, "graft.c": 500.0}]
    assert space_of("graft: {A: {uniform: [0.5, 1.0]}}").first == []
    assert space_of("training: {lr: {uniform: [0.01, 0.1]}}").first == []
    assert space_of(f"graft: {{{CURVE}}}\ntune: {{first: []}}").first == []


@pytest.mark.parametrize(
    ("first", "parts"),
    [
        ("[{graft.B: 0.4}]", ["'graft.B' is not searched", "graft.A"]),
        ("[{graft.A: 1.5}]", ["graft.A must lie in its domain", "got 1.5"]),
        ("[{graft.A: 0.4, graft.alpha: 0.5}]", ["graft.A has no effect"]),
        ("[{graft.A: 0.4}, {graft.A: 0.5}]", ["at most", "got 2", "tune.num_samples: 2"]),
    ],
)
def test_points_outside_the_space_are_refused(first: str, parts: list[str]) -> None:
    text = f"graft: {{{CURVE}, alpha: {{choice: [0.5, adaptive]}}}}\ntune: {{num_samples: 1, first: {first}}}"
    assert_refused(text, "tune.first", *parts)


def test_grid_refuses_points_to_try_first() -> None:
    text = "graft: {A: {choice: [0.1, 0.4]}}\ntune: {sampler: grid, first: [{graft.A: 0.4}]}"
    assert_refused(text, "tune.first", "sampler grid")


# objectives


@pytest.mark.parametrize(
    ("tune", "key"),
    [
        ("metric: flops, mode: min", "tune.metric"),
        ("metric: [flops, parameters], mode: [min, min]", "tune.metric"),
        ("metric: [val_accuracy, flops], mode: [min, min]", "tune.mode"),
        ("metric: [val_accuracy, flops], mode: [max, min], scheduler: asha", "tune.scheduler"),
    ],
)
def test_objectives_that_do_not_fit_together_are_refused(tune: str, key: str) -> None:
    assert_refused(f"graft: {{{CURVE}}}\ntune: {{{tune}}}", key)


def test_objectives_pair_metrics_with_modes() -> None:
    settings = space_of("tune: {metric: [val_accuracy, flops], mode: [max, min]}").resolve()
    assert settings.objectives == {"val_accuracy": "max", "flops": "min"}
