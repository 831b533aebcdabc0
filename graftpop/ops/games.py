"""Cooperative games: the share of each player in the value of all, and the interaction of pairs of players.

A game is a value function V from coalitions of players to numbers. For filter pruning, the filters of a layer are the
players, and V(M) is the network's log-likelihood of the labels with only the filters of M. The caller evaluates V,
which takes nearly all of the time. All other arithmetic is in float64 on the device of the values. Dimensions in names:
N players, M coalitions.

References:
    Tang, Wei, Li, Structured Network Pruning by Measuring Filter-wise Interactions (SNPFI), arXiv:2307.00758. Filters
    are players with V(M) = log P(y | M); interactions set a layer's sparsity, importance ranks its filters. We know
    only the abstract and fragments. The Shapley value as importance and the formula of the strength are our reading.
"""

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

__all__ = [
    "MAX_EXACT_PLAYERS",
    "Value",
    "interactions_exact",
    "mean_interaction",
    "shapley",
    "shapley_exact",
    "shapley_sampled",
]

Value = Callable[[Tensor], Tensor]
"""From M coalitions to their values: bool (M, N) on the CPU, True for members, to float (M,), finite.

Each value depends on its own row only, so the function may split a batch to fit its memory.
"""

MAX_EXACT_PLAYERS: Final = 16
"""Largest number of players of the exact functions, whose value function gets all 2 ** N coalitions in one call."""


def shapley_exact(value: Value, num_players: int) -> Tensor:
    """Return the Shapley value of each player: its mean marginal contribution.

        phi_i = sum over S without i of s! * (N - s - 1)! / N! * (V(S + i) - V(S)),    s = |S|

    The values sum to V(all) - V(none). A player that never changes V has exactly 0.

    >>> shapley_exact(lambda coalitions: coalitions.sum(1) ** 2.0, 3)  # 9 among three equal players
    tensor([3., 3., 3.], dtype=torch.float64)

    Args:
        value: called once, with all 2 ** N coalitions.
        num_players: N, in [1, MAX_EXACT_PLAYERS].

    Returns:
        (N,) float64 on the device of the values, without a graph.

    Raises:
        ValueError: num_players is outside its range, or the values have another shape.

    References:
        Shapley, A Value for n-Person Games, 1953.
    """
    values = _all_values("shapley_exact", value, num_players)
    weights = _weights(num_players - 1).to(values.device)
    return torch.stack([(weights * _gains(values, player)).sum() for player in range(num_players)])


def shapley_sampled(value: Value, num_players: int, num_permutations: int, generator: torch.Generator) -> Tensor:
    """Return an unbiased estimate of each player's Shapley value.

    The players join one by one in a random order, and each gets the change of V. The estimate is the mean over the
    orders. The changes of an order sum to V(all) - V(none), so the estimates do too, up to rounding.

    Every second order is the reverse of the one before, so a player that joins early in one joins late in the other.
    Two orders are exact if only pairs of players interact. They usually beat two independent ones if contributions
    shrink or grow with the coalition. If contributions peak at half of the players, as in a majority vote, a reverse
    adds nothing.

    Args:
        value: called with the 2 coalitions of none and all, then once per order with N - 1 coalitions.
        num_players: N, at least 2.
        num_permutations: number of orders, at least 1; even numbers use the reverses best.
        generator: on the CPU.

    Returns:
        (N,) float64 on the device of the values, without a graph.

    Raises:
        ValueError: an argument is outside its range, or the values have another shape.

    References:
        Castro, Gomez, Tejada, Polynomial calculation of the Shapley value based on sampling, 2009. The reverses are the
        antithetic sampling of Mitchell et al., Sampling Permutations for Shapley Value Estimation, JMLR 2022.
    """
    where = "shapley_sampled"
    _check_at_least(where, "num_players", num_players, 2)
    _check_at_least(where, "num_permutations", num_permutations, 1)
    none_and_all = _values(where, value, torch.tensor([[False], [True]]).repeat(1, num_players))
    drawn = [torch.randperm(num_players, generator=generator) for _ in range((num_permutations + 1) // 2)]
    orders = [ranks_N for order in drawn for ranks_N in (order, num_players - 1 - order)][:num_permutations]
    sizes_M1 = torch.arange(1, num_players)[:, None]
    estimates = []
    for ranks_N in orders:
        values_M = _values(where, value, ranks_N < sizes_M1)
        gains_N = torch.cat([none_and_all[:1], values_M, none_and_all[1:]]).diff()
        estimates.append(gains_N[ranks_N.to(gains_N.device)])
    return torch.stack(estimates).mean(0)


def shapley(value: Value, num_players: int, num_permutations: int, generator: torch.Generator) -> Tensor:
    """Return each player's Shapley value, exact where that takes no more evaluations than sampling.

    Sampling evaluates 2 + num_permutations * (N - 1) coalitions. `shapley_exact` evaluates 2 ** N and draws nothing
    from the generator.

    Args:
        value: see `Value`.
        num_players: N, at least 1.
        num_permutations: at least 1.
        generator: on the CPU.

    Returns:
        (N,) float64 on the device of the values, without a graph.

    Raises:
        ValueError: an argument is outside its range, or the values have another shape.
    """
    _check_at_least("shapley", "num_players", num_players, 1)
    _check_at_least("shapley", "num_permutations", num_permutations, 1)
    num_sampled = 2 + num_permutations * (num_players - 1)
    if num_players <= MAX_EXACT_PLAYERS and 2**num_players <= num_sampled:
        return shapley_exact(value, num_players)
    return shapley_sampled(value, num_players, num_permutations, generator)


def interactions_exact(value: Value, num_players: int) -> Tensor:
    """Return the Shapley interaction index of each pair of players.

        D_ij(S) = V(S + i + j) - V(S + i) - V(S + j) + V(S)
        I(i, j) = sum over S without i and j of s! * (N - s - 2)! / (N - 1)! * D_ij(S),    s = |S|

    It is positive for players that gain from each other and negative for players that replace each other.

    >>> interactions_exact(lambda coalitions: coalitions.any(1).double(), 2)  # either is enough
    tensor([[ 0., -1.],
            [-1.,  0.]], dtype=torch.float64)

    Args:
        value: called once, with all 2 ** N coalitions.
        num_players: N, in [1, MAX_EXACT_PLAYERS].

    Returns:
        (N, N) float64 on the device of the values, symmetric with a diagonal of zeros, without a graph.

    Raises:
        ValueError: num_players is outside its range, or the values have another shape.

    References:
        Grabisch, Roubens, An axiomatic approach to the concept of interaction among players in cooperative games, 1999.
    """
    values = _all_values("interactions_exact", value, num_players)
    result_NN = values.new_zeros(num_players, num_players)
    if num_players > 1:
        weights = _weights(num_players - 2).to(values.device)
        for high in range(1, num_players):
            gains = _gains(values, high)  # without the higher player, the lower one keeps its bit
            for low in range(high):
                result_NN[low, high] = result_NN[high, low] = (weights * _gains(gains, low)).sum()
    return result_NN


def mean_interaction(value: Value, num_players: int, num_pairs: int, generator: torch.Generator) -> Tensor:
    """Return an unbiased estimate of the players' interaction strength, the mean size of D_ij(S).

        strength = mean over pairs i < j and coalitions S of |V(S + i + j) - V(S + i) - V(S + j) + V(S)|

    S has the weights of the Shapley interaction index: its size is uniform in 0, ..., N - 2, and all coalitions of one
    size are equally likely. Each sample is one pair with one coalition, so it takes 4 evaluations.

    The strength is 0 only for a game without interaction. It is at least the mean of |I(i, j)|, and equal to it where
    no pair changes the sign of D between coalitions. The strength usually falls with the number of players, so compare
    layers of different width with care.

    Args:
        value: called once, with 4 * num_pairs coalitions.
        num_players: N, at least 2.
        num_pairs: samples, at least 1; pairs may repeat.
        generator: on the CPU.

    Returns:
        Scalar float64, at least 0, on the device of the values, without a graph.

    Raises:
        ValueError: an argument is outside its range, or the values have another shape.

    References:
        Our reading of SNPFI's utilization strength. The other choice is the mean of |I(i, j)|. Its estimate from a few
        coalitions per pair is too large and falls with their number; from one coalition it equals ours.
    """
    where = "mean_interaction"
    _check_at_least(where, "num_players", num_players, 2)
    _check_at_least(where, "num_pairs", num_pairs, 1)
    ranks = torch.stack([torch.randperm(num_players, generator=generator) for _ in range(num_pairs)])
    sizes = torch.randint(num_players - 1, (num_pairs, 1), generator=generator)
    is_i, is_j, others = ranks == 0, ranks == 1, (ranks >= 2) & (ranks < 2 + sizes)
    coalitions = torch.stack([others, others | is_i, others | is_j, others | is_i | is_j], dim=1)
    neither, only_i, only_j, both = _values(where, value, coalitions.flatten(0, 1)).view(-1, 4).unbind(1)
    return ((both - only_i) - (only_j - neither)).abs().mean()


def _values(where: str, value: Value, coalitions: Tensor) -> Tensor:
    values = value(coalitions)
    if values.shape != coalitions.shape[:1]:
        raise ValueError(f"{where}: values must have shape ({len(coalitions)},), got {tuple(values.shape)}")
    return values.detach().double()


def _all_values(where: str, value: Value, num_players: int) -> Tensor:
    if not 1 <= num_players <= MAX_EXACT_PLAYERS:
        raise ValueError(f"{where}: num_players must be in [1, {MAX_EXACT_PLAYERS}], got {num_players=}")
    return _values(where, value, _all_coalitions(num_players))


def _all_coalitions(num_players: int) -> Tensor:
    """Return all coalitions; player i is in coalition c if bit i of c is set."""
    return (torch.arange(2**num_players)[:, None] >> torch.arange(num_players)) % 2 == 1


def _gains(values: Tensor, player: int) -> Tensor:
    """Return V(S + player) - V(S) for all coalitions S of the other players, numbered by the bits of those."""
    without, with_player = values.view(-1, 2, 2**player).unbind(1)
    return (with_player - without).flatten()


def _weights(num_others: int) -> Tensor:
    """Return the probability of each coalition if all sizes are equally likely, and all coalitions of one size."""
    by_size = [1 / ((num_others + 1) * math.comb(num_others, size)) for size in range(num_others + 1)]
    return torch.tensor(by_size, dtype=torch.float64)[_all_coalitions(num_others).sum(1)]


def _check_at_least(where: str, name: str, number: int, least: int) -> None:
    if number < least:
        raise ValueError(f"{where}: {name} must be at least {least}, got {name}={number}")
