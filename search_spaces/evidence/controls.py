"""Alphas that keep the values of adaptive grafting and break their link to information; for `saturated.yaml`.

If grafting gains because entropy chooses each site's alpha, these must lose: they give the same alphas to wrong sites.
"""

import torch
from torch import Tensor

from graftpop.ops.alpha import adaptive_alpha

__all__ = ["reversed_sign", "shuffled"]

A, C, BASE = 0.4, 100.0, 0.8


def reversed_sign(own: Tensor, theirs: Tensor) -> Tensor:
    """Return alpha with receiver and donor exchanged: a site with more information than the donor's keeps less."""
    return adaptive_alpha(theirs, own, A=A, c=C, base=BASE)


def shuffled(own: Tensor, theirs: Tensor) -> Tensor:
    """Return adaptive alphas in a random order of the sites, another one in every exchange.

    The order follows from the scores, so that a resumed trial repeats it.
    """
    alpha = adaptive_alpha(own, theirs, A=A, c=C, base=BASE)
    seed = int(own.double().sum().view(torch.int64)) & (2**63 - 1)
    order = torch.randperm(len(alpha), generator=torch.Generator().manual_seed(seed))
    return alpha[order.to(alpha.device)]
