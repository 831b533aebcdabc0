"""Distillation: a loss from the probabilities of networks that stay as they are, for a while or for ever.

Teachers are such networks ("cultivation" where the students graft too), and so are the peers' last snapshots
(codistillation).

References:
    arXiv 2004.12311, section 3.5 (cultivation); Anil et al., Large Scale Distributed Neural Network Training through
    Online Distillation, ICLR 2018 (codistillation).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graftpop.ops.distillation import distillation_loss, mean_probabilities
from graftpop.training.learner import LossTerm

__all__ = ["distillation_term"]


def distillation_term(
    teachers: Sequence[nn.Module], *, temperature: float, weight: float, dtype: torch.dtype
) -> LossTerm:
    """Return weight * temperature**2 * CE(mean of the teachers' probabilities, student), with no teachers zero.

    Args:
        teachers: in evaluation mode; what stands in the list at a step counts at that step.
        temperature: that all logits are divided by.
        weight: of the term; the labels' loss has weight 1.
        dtype: what the teachers compute in.
    """

    def term(logits: Tensor, pixels: Tensor) -> Tensor:
        if not teachers:
            return logits.new_zeros(())
        with torch.no_grad(), torch.autocast(pixels.device.type, dtype, enabled=dtype != torch.float32):
            taught = [teacher(pixels).float() for teacher in teachers]
        return weight * distillation_loss(logits, mean_probabilities(taught, temperature), temperature)

    return term
