"""Recalibration of a network: the running statistics of its BatchNorms, computed anew."""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.optim.swa_utils import update_bn

from graftpop.data.images import Batches
from graftpop.tasks.task import Outputs, Task

__all__ = ["recalibrate"]


def recalibrate(network: nn.Module, task: Task, batches: Batches) -> None:
    """Recompute the running statistics of every BatchNorm, as the mean over the batches of training images.

    Averaged weights need this: the mean of several networks' statistics differs from the mean network's statistics.
    The same holds for the singular vectors of `spectral_norm`, which every pass in training mode improves.

    Args:
        network: the network; its weights stay as they are.
        task: calls the network.
        batches: inputs (B, ...) and their targets; used up.
    """
    called = _CalledByTask(network, task)
    update_bn((inputs for inputs, _ in batches), called)
    if any(map(is_parametrized, network.modules())):
        network.train()
        with torch.no_grad():
            for inputs, _ in batches:  # none are left if there was a BatchNorm
                called(inputs)


class _CalledByTask(nn.Module):
    """A network as a task calls it in training."""

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network, self._task, self.training = network, task, network.training

    def forward(self, inputs: Tensor) -> Outputs:
        """Return the task's outputs."""
        return self._task.forward(self.network, inputs)
