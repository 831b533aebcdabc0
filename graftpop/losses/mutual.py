"""Deep mutual learning: a loss from the logits of all peers on the same images.

References:
    Zhang et al., Deep Mutual Learning, CVPR 2018, arXiv:1706.00384.
"""

import torch
from torch import Tensor

from graftpop.ops.distillation import mutual_loss
from graftpop.training.epoch import MutualTerm

__all__ = ["mutual_term"]


def mutual_term(peer: int, *, temperature: float, weight: float) -> MutualTerm:
    """Return weight * temperature**2 / (K - 1) * sum over the others of KL(p_other || p_own); zero for K = 1.

    Args:
        peer: index of the peer among the K logits.
        temperature: divisor of all logits, > 0.
        weight: weight of the term; the task's loss has weight 1.
    """

    def term(logits: Tensor, all_logits: Tensor) -> Tensor:
        others = torch.cat((all_logits[:peer], all_logits[peer + 1 :]))
        return weight * mutual_loss(logits, others, temperature)

    return term
