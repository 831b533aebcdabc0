"""The section training.optimizer: names, arguments, their search, and refusals before anything starts."""

import random
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from space_makers import assert_refused

from graftpop.errors import SpaceError
from graftpop.settings.optimizer import OptimizerSettings
from graftpop.space import Space, load_space, parse_space
from graftpop.space.optimizer_arguments import check_optimizers
from graftpop.study.preflight import check_names
from graftpop.training.named_optimizers import TORCH_OPTIMIZERS


def space_of(text: str) -> Space:
    return parse_space(yaml.safe_load(text), "space.yaml")


def optimizer_of(text: str) -> OptimizerSettings:
    return space_of(text).resolve().training.optimizer


def test_default_is_sgd_without_arguments() -> None:
    assert (optimizer_of("{}").name, optimizer_of("{}").arguments) == ("sgd", {})


def test_arguments_are_kept_and_null_leaves_one_out() -> None:
    optimizer = optimizer_of("training: {optimizer: {name: adamw, betas: [0.9, 0.99], eps: 1.0e-8, amsgrad: null}}")
    assert (optimizer.name, optimizer.arguments) == ("adamw", {"betas": [0.9, 0.99], "eps": 1e-8})


@pytest.mark.parametrize(
    ("arguments", "key", "parts"),
    [
        ("name: adamv", "name", ["'adamw'", "timm:NAME", "got 'adamv'", "did you mean"]),
        ("name: 'timm:'", "name", ["timm:NAME", "got 'timm:'"]),
        ("name: null", "name", ["'adamw'", "timm:NAME", "got null"]),
        ("name: adamw, beta: 0.9", "beta", ["adamw has no argument", "betas, eps, amsgrad", "did you mean 'betas'"]),
        ("eps: 0.1", "eps", ["sgd has no argument", "nesterov"]),
        ("name: adam, fused: true", "fused", ["adam has no argument"]),
        ("name: adam, lr: 0.1", "lr", ["training.lr", "got 0.1"]),
        ("name: adam, weight_decay: null", "weight_decay", ["training.weight_decay", "got null"]),
        ("momentum: 0.9", "momentum", ["training.momentum", "got 0.9"]),
        ("name: 'timm:lamb', momentum: 0.9", "momentum", ["training.momentum", "got 0.9"]),
        ("name: adamw, betas: 0.9", "betas", ["list of 2 numbers", "got 0.9"]),
        ("name: adamw, betas: [0.9]", "betas", ["list of 2 numbers", "got [0.9]"]),
        ("name: adamw, betas: [0.9, true]", "betas", ["list of 2 numbers", "True"]),
        ("name: adamw, eps: '1e-8'", "eps", ["number", "got '1e-8'", "write 1e-08"]),
        ("name: adamw, eps: .inf", "eps", ["finite number", "inf"]),
        ("name: adamw, amsgrad: 1", "amsgrad", ["true or false", "got 1"]),
        ("name: adamw, eps: {unifrom: [0.1, 0.2]}", "eps", ["number", "unifrom"]),
        ("name: {choice: [sgd, adamw]}, nesterov: true", "nesterov", ["adamw has no argument"]),
    ],
)
def test_wrong_arguments_are_refused_with_their_key(arguments: str, key: str, parts: list[str]) -> None:
    assert_refused(f"training: {{optimizer: {{{arguments}}}}}", f"training.optimizer.{key}", *parts)


@pytest.mark.parametrize(
    ("training", "parts"),
    [
        ("optimizer: {name: adamw, betas: [0.9, 1.5]}", ["adamw", "betas", "1.5"]),
        ("optimizer: {nesterov: true}, momentum: 0.0", ["nesterov", "momentum above 0"]),
        ("optimizer: {name: muon, adjust_lr_fn: none}", ["muon", "adjust_lr_fn"]),
        ("optimizer: {name: muon, ns_steps: 2.5}", ["muon", "ns_steps"]),
        ("optimizer: {name: {choice: [sgd, adamw]}, eps: {choice: [null, -1.0]}}", ["eps"]),
        ("optimizer: {choice: [{name: sgd}, {name: rmsprop, alpha: -1.0}]}", ["rmsprop", "alpha"]),
        (
            "optimizer: {name: adamw}}\npopulation: {diversity: {training.optimizer.betas: [null, [0.9, 1.5]]}",
            ["adamw", "betas", "1.5"],
        ),
    ],
)
def test_values_that_the_optimizer_refuses_are_refused_before_a_study(training: str, parts: list[str]) -> None:
    with pytest.raises(SpaceError) as caught:
        check_names(space_of(f"training: {{{training}}}"))
    message = str(caught.value)
    assert "training.optimizer" in message
    assert "\n" not in message
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("name", [*TORCH_OPTIMIZERS, "sgd"])
def test_every_name_is_an_optimizer_that_trains_and_resumes(name: str) -> None:
    check_optimizers([space_of(f"training: {{optimizer: {{name: {name}}}}}").resolve()])


class Forgetful(torch.optim.Adam):
    """An optimizer that keeps a count outside its state, on which its steps depend."""

    num_steps = 0

    def step(self, closure: Any = None) -> Any:
        self.num_steps += 1
        for group in self.param_groups:
            group["lr"] = 0.1 / self.num_steps
        return super().step()


def test_optimizer_that_does_not_resume_to_the_bit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast(dict[str, Any], TORCH_OPTIMIZERS), "adam", Forgetful)
    with pytest.raises(SpaceError, match=r"^training\.optimizer: .*to the bit, got adam"):
        check_optimizers([space_of("training: {optimizer: {name: adam}}").resolve()])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("timm:lamv", ["unknown name 'timm:lamv'", "'timm:lamb'"]),
        ("timm:adafactor", ["resume", "timm:adafactor"]),  # its state has other shapes than the weights
        ("timm:adahessian", ["train", "timm:adahessian"]),  # needs second derivatives
        ("timm:fusedadam", ["timm:fusedadam"]),  # needs another package
    ],
)
def test_optimizers_of_timm_that_cannot_work_are_refused(name: str, parts: list[str]) -> None:
    pytest.importorskip("timm")
    with pytest.raises(SpaceError) as caught:
        check_names(space_of(f"training: {{optimizer: {{name: '{name}'}}}}"))
    message = str(caught.value)
    assert message.startswith("training.optimizer")
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("name", ["adan", "madgrad", "mars"])
@pytest.mark.parametrize("method", ["repr: {S1: 1, S2: 1, N: 1}", "pruning: {}"])
def test_optimizers_that_move_dropped_filters_are_refused_with_methods_that_drop_them(name: str, method: str) -> None:
    pytest.importorskip("timm")
    space = f"training: {{epochs: 5, optimizer: {{name: 'timm:{name}'}}}}"
    check_names(space_of(space))
    with pytest.raises(SpaceError, match=rf"^training\.optimizer: .*dropp?.*timm:{name}"):
        check_names(space_of(f"{space}\n{method}"))


@pytest.mark.parametrize("name", ["adamw", "rmsprop", "muon", "timm:sgdp", "timm:lamb"])
def test_other_optimizers_leave_dropped_filters_at_zero(name: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    check_names(space_of(f"training: {{optimizer: {{name: '{name}'}}}}\npruning: {{}}"))


def test_unknown_arguments_of_timm_are_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(SpaceError, match=r"^training\.optimizer\.beta: .*betas"):
        check_names(space_of("training: {optimizer: {name: 'timm:lamb', beta: 0.9}}"))


def drawn(text: str, number: int = 40) -> list[dict[str, Any]]:
    rng, space = random.Random(0), space_of(text)
    samples = [space.sample(rng) for _ in range(number)]
    for sample in samples:
        check_optimizers([space.resolve(sample)])
    return samples


def test_momentum_is_sampled_for_optimizers_that_have_one() -> None:
    text = "training: {momentum: {uniform: [0.1, 0.9]}, optimizer: {name: {choice: [sgd, adamw, rmsprop]}}}"
    assert {(one["training.optimizer.name"], "training.momentum" in one) for one in drawn(text)} == {
        ("sgd", True),
        ("adamw", False),
        ("rmsprop", True),
    }
    assert_refused(
        "training: {momentum: {uniform: [0.1, 0.9]}, optimizer: {name: adamw}}",
        "training.momentum",
        "no effect",
        "adamw",
    )


def test_whole_optimizers_are_searched_with_domains_inside() -> None:
    text = """
        training:
          momentum: {uniform: [0.1, 0.9]}
          optimizer:
            choice:
              - {name: sgd, nesterov: true}
              - {name: adamw, betas: {choice: [[0.9, 0.99], [0.9, 0.999]]}, eps: {loguniform: [1.0e-9, 1.0e-7]}}
    """
    space = space_of(text)
    found = {(one["training.optimizer"]["name"], *sorted(one)) for one in drawn(text)}
    adamw = ("training.optimizer", "training.optimizer.betas", "training.optimizer.eps")
    assert found == {("sgd", "training.momentum", "training.optimizer"), ("adamw", *adamw)}
    assert parse_space(yaml.safe_load(space.to_yaml())) == space
    chosen = {"training.optimizer": {"name": "adamw"}, "training.optimizer.betas": [0.9, 0.99]}
    assert space.resolve(chosen).training.optimizer.arguments == {"betas": [0.9, 0.99]}


def test_options_set_name_and_arguments(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("training: {optimizer: {nesterov: true}}\nvariants: {a: {}, b: {}}")
    overrides = [
        "training.optimizer.name=adamw",
        "training.optimizer.nesterov=null",
        "training.optimizer.betas=[0.8, 0.9]",
        "variants.b.training.optimizer.eps=0.1",
    ]
    space = load_space(file, overrides)
    found = [space.resolve({"variant": name}).training.optimizer for name in ("a", "b")]
    assert [one.name for one in found] == ["adamw", "adamw"]
    assert [one.arguments for one in found] == [{"betas": [0.8, 0.9]}, {"betas": [0.8, 0.9], "eps": 0.1}]
    whole = load_space(file, ["training.optimizer={name: rmsprop}"]).resolve({"variant": "a"}).training.optimizer
    assert (whole.name, whole.arguments) == ("rmsprop", {})
    file.write_text("training: {}")
    with pytest.raises(SpaceError, match=r"^--set training\.optimizer\.beta=1: training\.optimizer\.beta: sgd has no"):
        load_space(file, ["training.optimizer.beta=1"])
