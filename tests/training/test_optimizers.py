"""User-defined optimizers behind the learner's interface."""

from collections.abc import Callable

import pytest
import torch
from network_makers import same_bits
from torch import Tensor, nn

from graftpop.errors import CheckpointError
from graftpop.training.optimizers import TorchOptimizer


def adam(num_steps: int) -> TorchOptimizer:
    """Return an optimizer of a linear layer after some steps."""
    network = nn.Linear(3, 2)
    optimizer = TorchOptimizer(dict(network.named_parameters()), lambda weights: torch.optim.Adam(weights, lr=0.1))
    for _ in range(num_steps):
        optimizer.zero_grad()
        network(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    return optimizer


def test_loaded_state_replaces_the_old_one() -> None:
    used = adam(1)
    used.load_state_dict(adam(0).state_dict())
    assert used.state_dict() == {}


def test_reset_restores_the_state_before_the_first_step() -> None:
    network = nn.Linear(3, 2)
    optimizer = TorchOptimizer(
        dict(network.named_parameters()), lambda weights: torch.optim.Adagrad(weights, initial_accumulator_value=0.5)
    )
    before = {name: tensor.clone() for name, tensor in optimizer.state_dict().items()}
    assert float(before["optimizer/weight/sum"].min()) == 0.5
    for _ in range(2):
        network(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        assert not same_bits(optimizer.state_dict(), before)
        optimizer.reset()
        assert same_bits(optimizer.state_dict(), before)


def test_loaded_state_is_a_copy() -> None:
    state, loaded = adam(1).state_dict(), adam(0)
    loaded.load_state_dict(state)
    for tensor in state.values():
        tensor.fill_(7.0)
    assert all(float(tensor.max()) < 7.0 for tensor in loaded.state_dict().values())


def test_state_of_an_unknown_parameter_is_refused() -> None:
    optimizer = adam(1)
    state = {name.replace("bias", "gain"): tensor for name, tensor in optimizer.state_dict().items()}
    with pytest.raises(CheckpointError, match="it has no parameter gain"):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("change", [Tensor.double, lambda tensor: tensor[:1]], ids=["dtype", "shape"])
def test_state_of_another_kind_is_refused(change: Callable[[Tensor], Tensor]) -> None:
    optimizer = adam(1)
    state = {name: change(tensor) if tensor.dim() else tensor for name, tensor in optimizer.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"must have the shape \(2, 3\) in float32"):
        optimizer.load_state_dict(state)
