"""Stochastic gradient descent with momentum: torch's arithmetic, without torch's optimizer class.

Making a `torch.optim.Optimizer` imports torch's compiler, which no peer uses, into every process. Its function is
public and does the same.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

__all__ = ["MomentumSGD"]


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

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, lr: float, momentum: float,
                 weight_decay: float) -> None:
        self.lr = lr
        self.momenta: dict[str, Tensor] = {}
        self._parameters = parameters
        self._momentum, self._weight_decay = momentum, weight_decay

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
        sgd(list(moved.values()), [parameter.grad for parameter in moved.values() if parameter.grad is not None],
            [self.momenta[name] for name in moved] if self._momentum else [], fused=True, lr=self.lr,
            momentum=self._momentum, weight_decay=self._weight_decay, dampening=0.0, nesterov=False, maximize=False)
