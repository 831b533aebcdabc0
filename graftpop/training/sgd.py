"""Stochastic gradient descent with momentum: torch's arithmetic, without torch's optimizer class.

Making a `torch.optim.Optimizer` imports torch's compiler, which no peer uses, into every process. Its function is
public and does the same.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from graftpop.training.optimizers import checked_like

__all__ = ["MomentumSGD"]

PREFIX = "momentum/"


class MomentumSGD:
    """`v <- momentum * v + gradient + weight_decay * w`, then `w <- w - lr * v`, from `v = 0`.

    Args:
        parameters: by name.
        lr: learning rate of the next step.
        momentum: in [0, 1); 0: there is no `v`.
        weight_decay: factor of the weights in their gradient, >= 0.

    Attributes:
        lr: learning rate of the next step.
        momenta: `v` of each parameter that has one, by name.

    References:
        Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013, in the form of
        `torch.optim.SGD`, where the learning rate is no part of `v`.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        self.lr = lr
        self.momenta: dict[str, Tensor] = {}
        self._parameters = parameters
        self._momentum, self._weight_decay = momentum, weight_decay

    def momentum(self, name: str) -> Tensor | None:
        """Return `v` of a parameter, to read or to change; None before its first step."""
        return self.momenta.get(name)

    def forget(self) -> None:
        """Let there be no `v`."""
        self.momenta.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """Return `v` of each parameter that has one."""
        return {f"{PREFIX}{name}": momentum for name, momentum in self.momenta.items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state that `state_dict` returned; of what is none of its own it takes nothing.

        Raises:
            CheckpointError: the state is that of other parameters.
        """
        self.momenta = {
            name: checked_like(parameter, held, f"momentum of {name}")
            for name, parameter in self._parameters.items()
            if (held := tensors.get(f"{PREFIX}{name}")) is not None
        }

    def zero_grad(self) -> None:
        """Let every parameter have no gradient."""
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter that has a gradient."""
        moved = {name: parameter for name, parameter in self._parameters.items() if parameter.grad is not None}
        if self._momentum:
            for name in moved.keys() - self.momenta.keys():
                self.momenta[name] = torch.zeros_like(moved[name])
        sgd(
            list(moved.values()),
            [parameter.grad for parameter in moved.values() if parameter.grad is not None],
            [self.momenta[name] for name in moved] if self._momentum else [],
            fused=True,
            lr=self.lr,
            momentum=self._momentum,
            weight_decay=self._weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
