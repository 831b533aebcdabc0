"""Stochastic gradient descent equals torch's optimizer."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from graftpop.training.sgd import MomentumSGD


def make_parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"weight": (8, 3, 3, 3), "scale": (8,), "unused": (2,), "last": (10, 8)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def give_gradients(parameters: dict[str, nn.Parameter], step: int) -> None:
    """Give each parameter a gradient, but never `unused`, and `last` only from the third step on."""
    generator = torch.Generator().manual_seed(step)
    for name, parameter in parameters.items():
        gradient = torch.randn(parameter.shape, generator=generator)
        if name != "unused" and (name != "last" or step >= 2):
            parameter.grad = gradient


@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_steps_equal_torchs_optimizer_bit_for_bit(momentum: float, nesterov: bool, weight_decay: float) -> None:
    parameters = make_parameters()
    expected = copy.deepcopy(parameters)
    options: dict[str, Any] = {"lr": 0.1, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    optimizer = MomentumSGD(parameters, **options)
    late = torch.optim.SGD([expected["last"]], **options, fused=True)
    other = torch.optim.SGD([expected[name] for name in ("weight", "scale", "unused")], **options, fused=True)
    for step in range(5):
        lr = optimizer.lr = 0.1 / (step + 1)
        for torchs in (late, other):
            torchs.param_groups[0]["lr"] = lr
            torchs.zero_grad()
        optimizer.zero_grad()
        give_gradients(parameters, step)
        give_gradients(expected, step)
        optimizer.step()
        late.step()
        other.step()
        assert all(torch.equal(parameters[name], expected[name]) for name in parameters)
    assert set(optimizer.momenta) == ({"weight", "scale", "last"} if momentum else set())
    for name, momentum_tensor in optimizer.momenta.items():
        torchs_momentum = (late if name == "last" else other).state[expected[name]]["momentum_buffer"]
        assert torch.equal(momentum_tensor, torchs_momentum)


def test_undecayed_parameters_step_as_without_weight_decay() -> None:
    some, none, all_of_them = (make_parameters() for _ in range(3))
    for parameters, weight_decay, undecayed in (
        (some, 0.1, ["scale", "last"]),
        (none, 0.0, []),
        (all_of_them, 0.1, []),
    ):
        optimizer = MomentumSGD(parameters, lr=0.1, momentum=0.9, weight_decay=weight_decay, undecayed=undecayed)
        for step in range(3):
            give_gradients(parameters, step)
            optimizer.step()
    assert all(torch.equal(some[name], none[name]) for name in ("scale", "last"))
    assert torch.equal(some["weight"], all_of_them["weight"])
    assert not torch.equal(some["weight"], none["weight"])


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(ValueError, match="momentum"):
        MomentumSGD(make_parameters(), lr=0.1, momentum=0.0, weight_decay=0.0, nesterov=True)


def test_zero_grad_leaves_no_gradient() -> None:
    parameters = make_parameters()
    optimizer = MomentumSGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
    give_gradients(parameters, 2)
    optimizer.zero_grad()
    before = copy.deepcopy(parameters)
    optimizer.step()
    assert all(torch.equal(parameters[name], before[name]) for name in parameters)


def test_reset_discards_momentum_and_a_loaded_state_replaces_it() -> None:
    parameters = make_parameters()
    optimizer = MomentumSGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.0)
    give_gradients(parameters, 0)
    optimizer.step()
    saved = {name: tensor.clone() for name, tensor in optimizer.state_dict().items()}
    optimizer.reset()
    assert optimizer.state_dict() == {}
    optimizer.load_state_dict(saved)
    assert optimizer.state_dict().keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in optimizer.state_dict().items())
