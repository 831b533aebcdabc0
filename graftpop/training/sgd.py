"""Stochastic gradient descent with momentum: torch's arithmetic, without torch's optimizer class.

Creating a `torch.optim.Optimizer` imports torch's compiler, which no peer uses, into every process. The public
function `torch.optim.sgd.sgd` does the same arithmetic without it.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from graftpop.training.optimizers import checked_like

__all__ = ["MomentumSGD"]

PREFIX = "momentum/"


class MomentumSGD:
    """Stochastic gradient descent with momentum and weight decay.

        v <- momentum * v + gradient + weight_decay * w,    v = 0 at first
        w <- w - lr * v,    with nesterov: w <- w - lr * (gradient + weight_decay * w + momentum * v)

    Args:
        parameters: the network's parameters by name.
        lr: learning rate of the next step.
        momentum: factor of `v`, in [0, 1); at 0 no `v` is kept.
        weight_decay: factor of the weights in their gradient, >= 0.
        undecayed: names of parameters without weight decay.
        nesterov: whether to look ahead; needs a momentum.

    Attributes:
        lr: learning rate of the next step.
        momenta: `v` of each parameter that has one, by name.

    References:
        Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013, in the form of
        `torch.optim.SGD`, where `v` does not contain the learning rate.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        undecayed: Collection[str] = (),
        nesterov: bool = False,
    ) -> None:
        if nesterov and not momentum:
            raise ValueError("nesterov needs a momentum above 0")
        self.lr = lr
        self.momenta: dict[str, Tensor] = {}
        self._parameters = parameters
        self._momentum, self._weight_decay = momentum, weight_decay
        self._undecayed, self._nesterov = frozenset(undecayed), nesterov

    def momentum(self, name: str) -> Tensor | None:
        """Return `v` of a parameter, writable in place, or None before its first step."""
        return self.momenta.get(name)

    def reset(self) -> None:
        """Discard every `v`."""
        self.momenta.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """Return `v` of each parameter that has one."""
        return {f"{PREFIX}{name}": momentum for name, momentum in self.momenta.items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a state that `state_dict` returned; other entries, such as the network's, are ignored.

        Raises:
            CheckpointError: the state belongs to other parameters.
        """
        self.momenta = {
            name: checked_like(parameter, momentum, f"momentum of {name}")
            for name, parameter in self._parameters.items()
            if (momentum := tensors.get(f"{PREFIX}{name}")) is not None
        }

    def zero_grad(self) -> None:
        """Set every parameter's gradient to None."""
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        moved = {name: parameter for name, parameter in self._parameters.items() if parameter.grad is not None}
        if self._momentum:
            for name in moved.keys() - self.momenta.keys():
                self.momenta[name] = torch.zeros_like(moved[name])
        undecayed = self._undecayed & moved.keys()
        self._move({name: moved[name] for name in moved if name not in undecayed}, self._weight_decay)
        self._move({name: moved[name] for name in moved if name in undecayed}, 0.0)

    def _move(self, moved: Mapping[str, nn.Parameter], weight_decay: float) -> None:
        if not moved:
            return
        sgd(
            list(moved.values()),
            [parameter.grad for parameter in moved.values() if parameter.grad is not None],
            [self.momenta[name] for name in moved] if self._momentum else [],
            fused=True,
            lr=self.lr,
            momentum=self._momentum,
            weight_decay=weight_decay,
            dampening=0.0,
            nesterov=self._nesterov,
            maximize=False,
        )
