"""Criteria: functions from the filters of one layer to one score per filter; higher matters more.

All have one signature, so settings choose them by name. Only `random` draws from the generator. Scores are (O,)
float32 on the weights' device, without a graph. A score depends on its own layer only. `orthogonality`, `entropy`,
`passive` and `random` have the same range in every layer; the others grow with the size of weights or BatchNorm
entries.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor

from graftpop.ops.entropy import filter_entropies
from graftpop.ops.importance import filter_l1_norms
from graftpop.ops.orthogonal import overlaps

__all__ = [
    "CRITERIA",
    "Criterion",
    "Filters",
    "bn_activation",
    "bn_scale",
    "entropy",
    "geometric_median",
    "l1",
    "l2",
    "orthogonality",
    "passive",
    "random",
]

TOLERANCE = 1e-6
"""Relative differences up to this are rounding errors where a direction is chosen."""


class Filters(NamedTuple):
    """The filters of one layer, with the BatchNorm that follows them.

    Attributes:
        weight: weights of the convolution, (O, ...), one row per filter, finite.
        scale: gamma of the BatchNorm, (O,); None for 1.
        shift: beta of the BatchNorm, (O,); None for 0.
    """

    weight: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None


Criterion = Callable[[Filters, torch.Generator], Tensor]
"""From the filters of a layer and a generator on the CPU to one score per filter."""


def l1(filters: Filters, generator: torch.Generator) -> Tensor:
    """Return the L1 norm of each filter.

    References:
        Meng et al., Filter Grafting for Deep Neural Networks, CVPR 2020: a small norm makes a filter invalid.
    """
    del generator
    return filter_l1_norms(filters.weight)


def l2(filters: Filters, generator: torch.Generator) -> Tensor:
    """Return the L2 norm of each filter.

    References:
        He et al., Soft Filter Pruning, IJCAI 2018, and its released code.
    """
    del generator
    norms_O: Tensor = torch.linalg.vector_norm(filters.weight.detach().float().flatten(1), dim=1)
    return norms_O


def entropy(filters: Filters, generator: torch.Generator) -> Tensor:
    """Return the entropy of each filter's own weights in 10 bins, in nats, in [0, log(10)].

    References:
        Meng et al., CVPR 2020, define it for a layer; its use per filter is ours.
    """
    del generator
    return filter_entropies(filters.weight).float()


def bn_scale(filters: Filters, generator: torch.Generator) -> Tensor:
    """Return |gamma|, the standard deviation of the BatchNorm's output.

    Without a BatchNorm all filters score 1.

    References:
        The released filter-grafting code, filter_level_grafting.py.
    """
    del generator
    return _deviation(filters).float()


def bn_activation(filters: Filters, generator: torch.Generator) -> Tensor:
    """Return the mean output of a ReLU whose input is normal with mean beta and deviation |gamma|.

        E[ReLU(x)] = beta * Phi(beta / |gamma|) + |gamma| * phi(beta / |gamma|)      and ReLU(beta) where gamma = 0

    with phi and Phi the density and the distribution function of N(0, 1). Computed in float64: for a negative beta
    the two terms cancel. Without a BatchNorm all filters score alike.

    References:
        Oh et al., Batch Normalization Tells You Which Filter is Important, WACV 2022, arXiv:2112.01155. That it
        ranks by gamma and beta alone is in the abstract, the only part that we read. The formula is the expectation
        under its assumption, not a copy of theirs.
    """
    del generator
    deviation_O = _deviation(filters)
    mean_O = torch.zeros_like(deviation_O) if filters.shift is None else filters.shift.detach().double()
    in_deviations_O = mean_O / deviation_O.clamp_min(torch.finfo(torch.float64).tiny)
    # torch.special.ndtr loses all digits below -8; erfc keeps them
    share_above_0_O = torch.erfc(-in_deviations_O / math.sqrt(2)) / 2
    density_O = torch.exp(-0.5 * in_deviations_O.square()) / math.sqrt(2 * math.pi)
    return (mean_O * share_above_0_O + deviation_O * density_O).clamp_min(0.0).float()


def orthogonality(filters: Filters, generator: torch.Generator) -> Tensor:
    """Return minus each filter's overlap with the others of its layer, in (-1, 0].

    A filter of zeros overlaps with nothing and scores 0, the maximum.

    References:
        Prakash et al., RePr, CVPR 2019: the filters with the most overlap are dropped first; see `overlaps`.
    """
    del generator
    return -overlaps(filters.weight)


def geometric_median(filters: Filters, generator: torch.Generator) -> Tensor:
    """Return the sum of each filter's distances to all filters of its layer.

        g_i = sum over j of ||F_i - F_j||_2

    The filter nearest to the layer's geometric median has the lowest score, because the others can replace it best.

    References:
        He et al., Filter Pruning via Geometric Median, CVPR 2019: the filters with the smallest g are pruned.
    """
    del generator
    rows_OK = filters.weight.detach().float().flatten(1)
    # by differences; by a matrix product, equal filters can be 1e-3 apart
    distances_OO: Tensor = torch.cdist(rows_OK, rows_OK, compute_mode="donot_use_mm_for_euclid_dist")
    return distances_OO.sum(1)


def passive(filters: Filters, generator: torch.Generator) -> Tensor:
    """Return the squared response of each filter to the leading pattern of each input channel, in [0, 1].

        c_i = first right singular vector of the (O, k^2) kernels of channel i, minus their mean over the filters
        score_j = (sum over i of s_i * <W_ji - mean_i, c_i>)^2 / the maximum over j,      s_i = 1 or -1

    Axis 1 of the weights has the channels, later axes have the kernel. In a 1x1 convolution or a Linear layer each
    channel has a kernel of one weight, so c_i = 1. An attention head has its rows as channels. Equal filters all score
    0.

    A singular vector has no sign. The signs s_i are those of the first right singular vector of the (O, C) matrix of
    all <W_ji - mean_i, c_i>: channels that separate the filters alike do not cancel. They do not depend on the order
    of the filters. Where singular values are equal, c_i is the projection of the kernel position that keeps the
    largest length, the first of several. Computed in float64.

    References:
        Singh and Plumbley, Efficient CNNs via Passive Filter Pruning, arXiv:2304.02319, and its released code,
        Proposed_pruning.py. In the code, each c_i has the sign of filter 0's response, so the order of the filters
        changes the scores; the rule for the signs is ours.
    """
    del generator
    weight = filters.weight.detach().double()
    weight_OCK = weight.reshape(*weight.shape[:2], -1)
    centered_OCK = weight_OCK - weight_OCK[:1]  # without it, the mean of equal filters can differ from them
    centered_OCK = centered_OCK - centered_OCK.mean(0)
    largest = centered_OCK.abs().amax()
    centered_OCK = centered_OCK / largest.where(largest > 0, 1.0)  # squares neither overflow nor underflow
    patterns_CK = _leading_directions(centered_OCK.transpose(0, 1))
    responses_OC = (centered_OCK * patterns_CK).sum(2)
    common_C = _leading_directions(responses_OC[None])[0]
    signs_C = torch.where(common_C < -TOLERANCE, -1.0, 1.0).double()
    scores_O = (responses_OC @ signs_C).square()
    highest = scores_O.amax()
    return (scores_O / highest.where(highest > 0, 1.0)).float()


def random(filters: Filters, generator: torch.Generator) -> Tensor:
    """Return uniform random numbers in [0, 1), the control for every other criterion.

    They are drawn on the CPU, so a generator gives the same scores on every device.

    References:
        Prakash et al., RePr, CVPR 2019, compare with it.
    """
    return torch.rand(len(filters.weight), generator=generator, dtype=torch.float32).to(filters.weight.device)


def _leading_directions(rows_COK: Tensor) -> Tensor:
    """Return a first right singular vector of each of C matrices, (C, K) float64, with a rule for every tie.

    It is the normalized projection onto the space of the largest singular value of the axis that is closest to it, the
    first of several. So its largest entry is positive, and neither the order of the rows nor the device changes it.
    """
    columns_CKO = rows_COK.transpose(1, 2)
    if rows_COK.shape[1] < rows_COK.shape[2]:  # the smaller of the two Gram matrices, R x R
        squares_CR, left_COR = torch.linalg.eigh(rows_COK @ columns_CKO)
        right_CKR = columns_CKO @ left_COR  # times the singular values; those of the space are equal
    else:
        squares_CR, right_CKR = torch.linalg.eigh(columns_CKO @ rows_COK)
    is_first_CR = squares_CR >= squares_CR.amax(1, keepdim=True) * (1 - TOLERANCE)
    space_CKR = right_CKR * is_first_CR[:, None]
    lengths_CK = space_CKR.square().sum(2)  # of the axes' projections, squared
    is_closest_CK = lengths_CK >= lengths_CK.amax(1, keepdim=True) * (1 - TOLERANCE)
    axis_C11 = is_closest_CK.int().argmax(1)[:, None, None]
    projected_CK: Tensor = (space_CKR * space_CKR.take_along_dim(axis_C11, 1)).sum(2)
    norms_C1: Tensor = torch.linalg.vector_norm(projected_CK, dim=1, keepdim=True)
    return projected_CK / norms_C1.where(norms_C1 > 0, 1.0)


def _deviation(filters: Filters) -> Tensor:
    """Return |gamma| in float64, (O,)."""
    if filters.scale is None:
        return torch.ones(len(filters.weight), dtype=torch.float64, device=filters.weight.device)
    return filters.scale.detach().double().abs()


CRITERIA: Final[Mapping[str, Criterion]] = {
    "l1": l1,
    "l2": l2,
    "entropy": entropy,
    "bn_scale": bn_scale,
    "bn_activation": bn_activation,
    "orthogonality": orthogonality,
    "geometric_median": geometric_median,
    "passive": passive,
    "random": random,
}
