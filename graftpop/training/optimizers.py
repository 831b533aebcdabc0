"""What a learner asks of an optimizer, and torch's own optimizers behind it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from graftpop.errors import CheckpointError

__all__ = ["MakeOptimizer", "Optimizer", "TorchOptimizer", "checked_like"]

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""From a network's parameters to a new optimizer of them, such as a `partial` of a class of `torch.optim`."""

PREFIX = "optimizer/"
MOMENTUM = ("momentum_buffer", "exp_avg")
"""Under which names torch's optimizers keep the mean of past gradients."""


class Optimizer(Protocol):
    """Changes a network's parameters by their gradients.

    Attributes:
        lr: learning rate of the next step.
    """

    lr: float

    def zero_grad(self) -> None:
        """Let every parameter have no gradient."""

    def step(self) -> None:
        """Change every parameter that has a gradient."""

    def momentum(self, name: str) -> Tensor | None:
        """Return the mean of a parameter's past gradients, to read or to change; None where there is none."""
        ...

    def forget(self) -> None:
        """Be as before the first step."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that it remembers."""
        ...

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state that `state_dict` returned; of what is none of its own it takes nothing.

        Raises:
            CheckpointError: the state is that of other parameters.
        """


class TorchOptimizer:
    """An optimizer of torch, or of any class that keeps to `torch.optim.Optimizer`; `step` is called without a closure.

    Args:
        parameters: by name.
        make: makes it.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], make: MakeOptimizer) -> None:
        self._parameters = parameters
        self._optimizer = make(parameters.values())
        first = self._optimizer.param_groups[0]["lr"]
        self._shares = [group["lr"] / first for group in self._optimizer.param_groups]

    @property
    def lr(self) -> float:
        """Learning rate of the next step, of the first group of parameters; others keep their ratio to it."""
        return float(self._optimizer.param_groups[0]["lr"])

    @lr.setter
    def lr(self, lr: float) -> None:
        for group, share in zip(self._optimizer.param_groups, self._shares, strict=True):
            group["lr"] = lr * share

    def zero_grad(self) -> None:
        """See `Optimizer`."""
        self._optimizer.zero_grad()

    def step(self) -> None:
        """See `Optimizer`."""
        self._optimizer.step()

    def momentum(self, name: str) -> Tensor | None:
        """See `Optimizer`."""
        kept = self._optimizer.state.get(self._parameters[name], {})
        return next((kept[key] for key in MOMENTUM if isinstance(kept.get(key), Tensor)), None)

    def forget(self) -> None:
        """See `Optimizer`."""
        self._optimizer.state.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """Return what it keeps of each parameter; numbers as tensors of one element."""
        return {
            f"{PREFIX}{name}/{key}": torch.as_tensor(value)
            for name, parameter in self._parameters.items()
            for key, value in self._optimizer.state.get(parameter, {}).items()
            if value is not None
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Optimizer`."""
        self.forget()
        for full_name, tensor in tensors.items():
            if full_name.startswith(PREFIX):
                name, _, key = full_name.removeprefix(PREFIX).rpartition("/")
                parameter = self._parameters.get(name)
                if parameter is None:
                    raise CheckpointError(f"checkpoint: not one of this network: it has no parameter {name}")
                if tensor.dim():
                    tensor = checked_like(parameter, tensor, f"{key} of {name}")
                self._optimizer.state[parameter][key] = tensor.clone()


def checked_like(parameter: nn.Parameter, tensor: Tensor, what: str) -> Tensor:
    """Return a copy of what an optimizer kept of a parameter, laid out as the parameter is.

    Raises:
        CheckpointError: it has another shape or kind of number.
    """
    if (tensor.shape, tensor.dtype) != (parameter.shape, parameter.dtype):
        raise CheckpointError(
            f"checkpoint: not one of this network: the {what} must have the shape "
            f"{tuple(parameter.shape)} in float32, got {tuple(tensor.shape)}"
        )
    return torch.empty_like(parameter.detach()).copy_(tensor)
