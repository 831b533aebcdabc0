"""Recalibration of a network: the running statistics of its normalizations, computed anew."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.optim.swa_utils import update_bn

from graftpop.data.images import Batches
from graftpop.models.layers import BATCHNORMS, INSTANCENORMS
from graftpop.tasks.task import Outputs, Task

__all__ = ["recalibrate"]


def recalibrate(network: nn.Module, task: Task, batches: Batches) -> None:
    """Recompute all running statistics of BatchNorm and InstanceNorm, as the mean over the batches of training images.

    Averaged weights need this: the mean of several networks' statistics differs from the mean network's statistics.
    The same holds for the singular vectors of `spectral_norm`, which every pass in training mode improves. A BatchNorm
    that stays in evaluation mode, because the network's `train` freezes it, keeps its statistics.

    Args:
        network: the network; its weights stay as they are.
        task: calls the network.
        batches: inputs (B, ...) and their targets; used up.
    """
    called = _CalledByTask(network, task)
    statistics = {module: _copied_buffers(module) for module in network.modules() if isinstance(module, BATCHNORMS)}
    momenta = {
        module: module.momentum
        for module in network.modules()
        if isinstance(module, INSTANCENORMS) and module.track_running_stats
    }

    def inputs_of_batches() -> Iterator[Tensor]:
        for number, (inputs, _) in enumerate(batches, start=1):
            for norm in momenta:
                norm.momentum = 1 / number  # gives the mean over the batches; update_bn skips InstanceNorm
            yield inputs

    inputs_left = inputs_of_batches()
    update_bn(inputs_left, called)
    for module, before in statistics.items():
        if before and not module.num_batches_tracked:  # update_bn reset it, and no batch gave it new statistics
            module.load_state_dict(before, strict=False)
    if momenta or any(map(is_parametrized, network.modules())):
        was_training = network.training
        network.train()
        with torch.no_grad():
            for inputs in inputs_left:  # none are left if there was a BatchNorm
                called(inputs)
        network.train(was_training)
    for norm, momentum in momenta.items():
        norm.momentum = momentum


def _copied_buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)}


class _CalledByTask(nn.Module):
    """A network as a task calls it in training."""

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network, self._task, self.training = network, task, network.training

    def forward(self, inputs: Tensor) -> Outputs:
        """Return the task's outputs."""
        return self._task.forward(self.network, inputs)
