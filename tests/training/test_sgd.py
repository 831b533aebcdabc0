"""Stochastic gradient descent, against torch's optimizer."""

import copy

import pytest
import torch
from torch import nn

from graftpop.training.sgd import MomentumSGD


def some_parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"weight": (8, 3, 3, 3), "scale": (8,), "unused": (2,), "last": (10, 8)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def give_gradients(parameters: dict[str, nn.Parameter], step: int) -> None:
    """Give each a gradient, but never to `unused`, and to `last` from the third step on."""
    generator = torch.Generator().manual_seed(step)
    for name, parameter in parameters.items():
        gradient = torch.randn(parameter.shape, generator=generator)
        if name != "unused" and (name != "last" or step >= 2):
            parameter.grad = gradient


@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_are_those_of_torchs_optimizer_to_the_bit(momentum: float, weight_decay: float) -> None:
    ours = some_parameters()
    theirs = copy.deepcopy(ours)
    optimizer = MomentumSGD(ours, lr=0.1, momentum=momentum, weight_decay=weight_decay)
    late = torch.optim.SGD([theirs["last"]], lr=0.1, momentum=momentum, weight_decay=weight_decay, fused=True)
    other = torch.optim.SGD(
        [theirs[name] for name in ("weight", "scale", "unused")],
        lr=0.1,
        momentum=momentum,
        weight_decay=weight_decay,
        fused=True,
    )
    for step in range(5):
        lr = optimizer.lr = 0.1 / (step + 1)
        for one in (late, other):
            one.param_groups[0]["lr"] = lr
            one.zero_grad()
        optimizer.zero_grad()
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.step()
        late.step()
        other.step()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert set(optimizer.momenta) == ({"weight", "scale", "last"} if momentum else set())
    for name, momenta in optimizer.momenta.items():
        of_torch = (late if name == "last" else other).state[theirs[name]]["momentum_buffer"]
        assert torch.equal(momenta, of_torch)


def test_zero_grad_leaves_no_gradient() -> None:
    parameters = some_parameters()
    optimizer = MomentumSGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
    give_gradients(parameters, 2)
    optimizer.zero_grad()
    before = copy.deepcopy(parameters)
    optimizer.step()
    assert all(torch.equal(parameters[name], before[name]) for name in parameters)
