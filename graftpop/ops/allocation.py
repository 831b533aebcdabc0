"""How many units each layer loses when a share of a network is pruned.

Each function returns one number per layer; a criterion (`ops/criteria.py`) or `k_reciprocal` then chooses the units.
`least` is the number of units that a layer keeps in any case; a layer with fewer units loses none. Dimensions in names:
O units of a layer, N weights of all layers, L layers, U units of the widest layer.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from graftpop.ops.pruning_target import counts_for_target

__all__ = ["budget", "by_utilization", "cross_layer", "global_ranking", "normalized", "uniform"]

LEAST_UTILIZATION = 0.05
"""Smallest utilization of a layer, as a share of the largest."""
NUM_STEPS = 200
STEP_SIZE = 0.1
"""First step of a layer's share of units; steps shrink in a straight line to 0."""
PENALTIES = (0.01, 100.0)
"""First and last factor of the distance to the target, which grows geometrically: cheap units go first, and in the end
the target decides."""


def uniform(sizes: Sequence[int], rate: float, least: Sequence[int]) -> list[int]:
    """Return floor(rate * O) for each layer, but never more than O - least.

    >>> uniform([16, 64, 4], 0.3, [1, 1, 3])
    [4, 19, 1]

    Args:
        sizes: number of units, layer by layer.
        rate: share of each layer's units, in [0, 1).
        least: units that each layer keeps, at least 0.

    Raises:
        ValueError: rate is outside its range, or the lists have different lengths.
    """
    _check_rate("uniform", rate)
    return [min(_floor(rate * size), most) for size, most in zip(sizes, _most(sizes, least), strict=True)]


def global_ranking(scores: Sequence[Tensor], rate: float, least: Sequence[int]) -> list[int]:
    """Return how many units each layer loses if the units with the lowest scores of all layers are dropped.

    The `least` best units of a layer are not in the ranking, so other units take their place:

        total = min(floor(rate * sum of O), sum of O - least)

    Equal scores are ranked in layer order, then in unit order. Within a layer this is the order of `weakest`, so the
    units are the first of `scores.argsort(stable=True)`.

    >>> global_ranking([torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0])], 0.5, [1, 1])
    [2, 1]

    Args:
        scores: (O,) for each layer, higher matters more; may be infinite.
        rate: share of the units of all layers, in [0, 1).
        least: units that each layer keeps, at least 0.

    Raises:
        ValueError: rate is outside its range, a score is nan, or the lists have different lengths.
    """
    _check_rate("global_ranking", rate)
    for layer, scores_O in enumerate(scores):
        if scores_O.isnan().any():
            raise ValueError(f"global_ranking: scores must not be nan, got nan in layer {layer}")
    sizes = [len(scores_O) for scores_O in scores]
    most = _most(sizes, least)
    num_dropped = min(_floor(rate * sum(sizes)), sum(most))
    if num_dropped == 0:
        return [0] * len(sizes)
    ranked = [scores_O.sort(stable=True).values[:num] for scores_O, num in zip(scores, most, strict=True)]
    dropped = torch.cat(ranked).argsort(stable=True)[:num_dropped]
    ends = torch.tensor(most, device=dropped.device).cumsum(0)
    layers = torch.bucketize(dropped, ends, right=True)
    counts: list[int] = layers.bincount(minlength=len(sizes)).tolist()
    return counts


def normalized(scores: Tensor) -> Tensor:
    """Return the scores of one layer divided by their L2 norm, for a ranking over several layers.

        s_i / sqrt(sum over j of s_j ^ 2)      and zeros if all are zero

    >>> normalized(torch.tensor([3.0, 4.0]))
    tensor([0.6000, 0.8000])

    Args:
        scores: (O,), finite.

    Returns:
        (O,) of the same dtype and device; the signs stay.

    References:
        Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR 2017, the
        layer-wise normalization of criteria.
    """
    exact_O = scores.double()  # squares of large float32 scores overflow
    norm = torch.linalg.vector_norm(exact_O)
    result: Tensor = (exact_O / norm.where(norm > 0, 1.0)).to(scores.dtype)
    return result


def by_utilization(sizes: Sequence[int], utilizations: Sequence[float], rate: float, least: Sequence[int]) -> list[int]:
    """Return how many units each layer loses if layers of low utilization lose more.

        kept_l = O_l * (1 - rate) ^ (m / u_l)      with m the geometric mean of all utilizations u

    A layer of mean utilization loses the share `rate`. A utilization below LEAST_UTILIZATION of the largest is raised
    to that share.

    >>> by_utilization([10, 10], [1.0, 4.0], 0.5, [1, 1])
    [7, 2]

    Args:
        sizes: number of units, layer by layer.
        utilizations: u of each layer, finite, at least 0.
        rate: in [0, 1).
        least: units that each layer keeps, at least 0.

    Raises:
        ValueError: rate or a utilization is outside its range, or the lists have different lengths.

    References:
        SNPFI, arXiv:2307.00758: the utilization of a layer's filters, from their interactions, sets its sparsity. We
        know only the abstract; the formula is ours.
    """
    _check_rate("by_utilization", rate)
    if not all(math.isfinite(value) and value >= 0 for value in utilizations):
        raise ValueError(f"by_utilization: utilizations must be finite, at least 0, got {list(utilizations)}")
    highest = max(utilizations) or 1.0
    bounded = [max(value / highest, LEAST_UTILIZATION) for value in utilizations]
    mean = math.exp(sum(map(math.log, bounded)) / len(bounded))
    shares = [1 - (1 - rate) ** (mean / value) for value in bounded]
    losses = [_floor(share * size) for share, size in zip(shares, sizes, strict=True)]
    return [min(loss, most) for loss, most in zip(losses, _most(sizes, least), strict=True)]


def cross_layer(
    weights: Sequence[Tensor], flops: Sequence[float], exponent: float, rate: float, least: Sequence[int]
) -> list[int]:
    """Return how many units each layer loses by a ranking of the single weights of all layers.

        v = |w| / flops_l ^ exponent                     for every weight w of layer l
        t = smallest of the floor((1 - rate) * N) largest v of all layers
        p_l = share of layer l's v below t
        kept_l = max(least_l, floor(O_l * (1 - p_l)))

    So a layer loses many units if its weights are small or, with exponent > 0, if it costs much.

    >>> cross_layer([torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])], [1.0, 1.0], 0.0, 0.5, [1, 1])
    [1, 0]

    Args:
        weights: (O_l, ...) for each layer, not empty, finite; all on one device.
        flops: cost of each layer in any unit, above 0. A common factor changes nothing.
        exponent: at least 0; 0 ignores the cost. Float64 must hold (largest / smallest of flops) ^ exponent.
        rate: share of the weights of all layers that is ranked below t, in [0, 1). The share of units is close to it.
        least: units that each layer keeps, at least 0.

    Raises:
        ValueError: rate, exponent or flops are outside their ranges, or the lists have different lengths.

    References:
        Lin et al., Pruning Networks with Cross-Layer Ranking & k-Reciprocal Nearest Filters, TNNLS 2022: the released
        code, lmbxmu/CLR-RNF, cifar.py. Its exponent is 0.5 for VGG-16, 10 for ResNet-56 and 5 for ResNet-110. It
        rounds O * (1 - p) down in floats, which may lose a unit, and fails if a layer loses all. Here the number is
        exact, and `least` is kept.
    """
    _check_rate("cross_layer", rate)
    if not (math.isfinite(exponent) and exponent >= 0):
        raise ValueError(f"cross_layer: exponent must be a finite number, at least 0, got {exponent=}")
    if not all(math.isfinite(cost) and cost > 0 for cost in flops):
        raise ValueError(f"cross_layer: flops must be finite and above 0, got {list(flops)}")
    # flops ^ 10 overflows float32, and in other units float64 too; quotients by the smallest do not
    values = [
        weight.detach().double().flatten().abs() * (min(flops) / cost) ** exponent
        for weight, cost in zip(weights, flops, strict=True)
    ]
    all_values_N = torch.cat(values)
    num_weights = len(all_values_N)
    num_kept = max(1, _floor((1 - rate) * num_weights))
    threshold = all_values_N.kthvalue(num_weights - num_kept + 1).values
    num_below: list[int] = torch.stack([(part < threshold).count_nonzero() for part in values]).tolist()
    sizes = [len(weight) for weight in weights]
    return [
        min(size - size * (weight.numel() - below) // weight.numel(), most)
        for size, weight, below, most in zip(sizes, weights, num_below, _most(sizes, least), strict=True)
    ]


def budget(
    scores: Sequence[Tensor], share_left: Callable[[Tensor], Tensor], target: float, least: Sequence[int]
) -> list[int]:
    """Return how many units each layer loses, by gradient descent on the shares of all layers together.

    Gradient descent (Adam, `NUM_STEPS` steps) minimizes, over the share r_l of its units that each layer loses,

        sum over l of lost_l(r_l * O_l) / sum of all scores  +  factor * (1 - log share_left(r * O) / log target) ^ 2

        lost_l(n) = sum of the n lowest scores of layer l, linear between whole n

    So a layer loses many units if its scores are low or if its units cost much. The factor grows (`PENALTIES`). Then
    the shares are scaled and rounded by `counts_for_target`, so the target is met as nearly as single units allow.
    Layers with equal scores and costs lose the same number of units, or differ by one.

    >>> costs = torch.tensor([1.0, 3.0]).double()
    >>> budget([torch.ones(4), torch.ones(4)], lambda counts_L: 1 - counts_L @ costs / 16, 0.5, [1, 1])
    [0, 3]

    Args:
        scores: (O,) for each layer, higher matters more, on one scale. -inf marks units that are dropped already: they
            are among those that the layer loses. If a score is below 0, the lowest finite one is subtracted from all.
        share_left: maps numbers of units that the layers lose, (L,) float64 on the CPU and not always whole, to the
            share of the network that is left, (), with a graph. It never grows with a number.
        target: share to be left, in (0, 1].
        least: units that each layer keeps, at least 0.

    Returns:
        The number of units that each layer loses.

    Raises:
        ValueError: target is outside its range or cannot be reached, a score is nan or inf, or the lists have different
            lengths.

    References:
        Enderich et al., Holistic Filter Pruning for Efficient Deep Neural Networks, arXiv:2009.08169: the size is
        compared with the target after each forward pass, and gradient descent distributes the budget over the layers.
        We know only the abstract. The objective and its constants are our reading.
    """
    if not 0 < target <= 1:
        raise ValueError(f"budget: target must be in (0, 1], got {target=}")
    for layer, scores_O in enumerate(scores):
        if not (scores_O < torch.inf).all():
            raise ValueError(f"budget: scores must be finite or -inf, got {scores_O.max().item()} in layer {layer}")
    most = _most([len(scores_O) for scores_O in scores], least)
    dropped = [min(int((scores_O == -torch.inf).sum()), num) for scores_O, num in zip(scores, most, strict=True)]

    def share_of(counts: Sequence[int]) -> float:
        return float(share_left(torch.tensor(counts, dtype=torch.float64)))

    if target == 1 or share_of(dropped) <= target:
        return dropped
    if share_of(most) > target:
        raise ValueError(f"budget: target must be at least {share_of(most):.4g}, got {target:g}")
    values_LU = _sorted_values(scores, most)
    sizes_L = torch.tensor([len(scores_O) for scores_O in scores], dtype=torch.float64).clamp_min(1)
    first_L, last_L = (torch.tensor(counts, dtype=torch.float64) for counts in (dropped, most))

    def objective(shares_L: Tensor, factor: float) -> Tensor:
        counts_L = shares_L * sizes_L
        is_lost_LU = (counts_L[:, None] - torch.arange(values_LU.shape[1])).clamp(0, 1)  # the next unit in part
        share = share_left(counts_L).clamp_min(torch.finfo(torch.float64).tiny)
        distance = 1 - share.log() / math.log(target)
        return (values_LU * is_lost_LU).sum() + factor * distance.square()

    best_L = _descend(objective, first_L / sizes_L, last_L / sizes_L) * sizes_L

    def allocate(rate: float) -> list[int]:
        """Return the counts at a rate: from the dropped units (0) over the best shares (1/2) to the most units (1)."""
        path_L = torch.lerp(first_L, best_L, 2 * rate) if rate < 0.5 else torch.lerp(best_L, last_L, 2 * rate - 1)
        counts: list[int] = (path_L + 0.5).floor().long().tolist()
        return counts

    return counts_for_target(target, allocate, share_of)


def _sorted_values(scores: Sequence[Tensor], most: Sequence[int]) -> Tensor:
    """Return the scores that layers may lose, ascending, at least 0, with sum 1, and 0 for dropped units, (L, U)."""
    values = [scores_O.detach().double().cpu().sort().values[:num] for scores_O, num in zip(scores, most, strict=True)]
    values_LU = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=-torch.inf)
    is_dropped_LU = values_LU == -torch.inf
    lowest = values_LU.masked_fill(is_dropped_LU, 0).min().clamp(max=0)
    values_LU = (values_LU - lowest).masked_fill(is_dropped_LU, 0)
    total = values_LU.sum()
    return values_LU / total.where(total > 0, 1.0)


def _descend(objective: Callable[[Tensor, float], Tensor], lowest_L: Tensor, highest_L: Tensor) -> Tensor:
    """Return where Adam arrives from the lowest values; all stay between lowest and highest."""
    point_L, mean_L, square_L = lowest_L, torch.zeros_like(lowest_L), torch.zeros_like(lowest_L)
    first, last = PENALTIES
    for step in range(NUM_STEPS):
        here_L = point_L.detach().requires_grad_()
        with torch.enable_grad():
            value = objective(here_L, first * (last / first) ** (step / NUM_STEPS))
        (slope_L,) = torch.autograd.grad(value, here_L)
        mean_L = 0.9 * mean_L + 0.1 * slope_L
        square_L = 0.99 * square_L + 0.01 * slope_L.square()
        unbiased_L = (square_L / (1 - 0.99 ** (step + 1))).sqrt() + 1e-12
        change_L = mean_L / (1 - 0.9 ** (step + 1)) / unbiased_L
        point_L = (point_L - STEP_SIZE * (1 - step / NUM_STEPS) * change_L).clamp(lowest_L, highest_L)
    return point_L


def _check_rate(where: str, rate: float) -> None:
    if not 0 <= rate < 1:
        raise ValueError(f"{where}: rate must be in [0, 1), got {rate=}")


def _floor(number: float) -> int:
    return math.floor(number + 1e-9)  # 0.29 * 100 is 28.999999999999996


def _most(sizes: Sequence[int], least: Sequence[int]) -> list[int]:
    """Return the largest number of units that each layer may lose."""
    return [max(0, size - kept) for size, kept in zip(sizes, least, strict=True)]
