"""Distillation: a loss from the probabilities of fixed networks.

The fixed networks are teachers ("cultivation" if the students are also grafted) or the other peers' last snapshots
(codistillation).

References:
    arXiv 2004.12311, section 3.5 (cultivation); Anil et al., Large Scale Distributed Neural Network Training through
    Online Distillation, ICLR 2018 (codistillation).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from graftpop.ops.distillation import distillation_loss, mean_probabilities
from graftpop.training.epoch import LossTerm

__all__ = ["distillation_term"]


def distillation_term(
    teachers: Sequence[nn.Module],
    logits_of: Callable[[nn.Module, Tensor], Tensor],
    *,
    temperature: float,
    weight: float,
    dtype: torch.dtype,
) -> LossTerm:
    """Return weight * temperature**2 * CE(mean of the teachers' probabilities, student); zero without teachers.

    Args:
        teachers: networks in evaluation mode; the list is read at every step, so that later additions count.
        logits_of: returns a teacher's logits (B, C) for a batch of inputs.
        temperature: divisor of all logits, > 0.
        weight: weight of the term; the task's loss has weight 1.
        dtype: dtype of the teachers' arithmetic.
    """

    def term(logits: Tensor, inputs: Tensor) -> Tensor:
        if not teachers:
            return logits.new_zeros(())
        with torch.no_grad(), torch.autocast(inputs.device.type, dtype, enabled=dtype != torch.float32):
            teacher_logits = [logits_of(teacher, inputs).float() for teacher in teachers]
        return weight * distillation_loss(logits, mean_probabilities(teacher_logits, temperature), temperature)

    return term
