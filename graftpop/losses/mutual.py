"""Deep mutual learning: a loss from the logits of all peers on the same images.

References:
    Zhang et al., Deep Mutual Learning, CVPR 2018, arXiv:1706.00384.
"""

import torch
from torch import Tensor

from graftpop.ops.distillation import mutual_loss
from graftpop.training.learner import MutualTerm

__all__ = ["mutual_term"]


def mutual_term(peer: int, *, temperature: float, weight: float) -> MutualTerm:
    """Return weight * temperature**2 / (K - 1) * sum over the others of KL(p_other || p_own), alone zero.

    Args:
        peer: whose place among all logits is its own.
        temperature: that all logits are divided by.
        weight: of the term; the labels' loss has weight 1.
    """

    def term(logits: Tensor, everyone: Tensor) -> Tensor:
        others = torch.cat((everyone[:peer], everyone[peer + 1 :]))
        return weight * mutual_loss(logits, others, temperature)

    return term
