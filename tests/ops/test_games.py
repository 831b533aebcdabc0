"""Shapley values and interactions: closed forms, exact arithmetic by Harsanyi dividends, and the estimates' errors."""

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graftpop.ops.games import (
    MAX_EXACT_PLAYERS,
    Value,
    interactions_exact,
    mean_interaction,
    shapley,
    shapley_exact,
    shapley_sampled,
)

Coalition = frozenset[int]
Game = dict[Coalition, int]
"""Whole numbers as values of all coalitions; the empty one may have any."""

SEEDS = st.integers(0, 2**32 - 1)


def subsets(players: Coalition) -> list[Coalition]:
    return [frozenset(members) for size in range(len(players) + 1) for members in combinations(sorted(players), size)]


def games(least: int = 1, most: int = 5) -> st.SearchStrategy[Game]:
    def with_players(num_players: int) -> st.SearchStrategy[Game]:
        coalitions = subsets(frozenset(range(num_players)))
        values = st.lists(st.integers(-50, 50), min_size=len(coalitions), max_size=len(coalitions))
        return values.map(lambda drawn: dict(zip(coalitions, drawn, strict=True)))

    return st.integers(least, most).flatmap(with_players)


def size_of(game: Game) -> int:
    return max(map(len, game))


def value_of(game: Game, dtype: torch.dtype = torch.float64) -> Value:
    bits = 2 ** torch.arange(size_of(game))
    table = torch.empty(len(game), dtype=dtype)
    for coalition, worth in game.items():
        table[sum(2**player for player in coalition)] = worth

    def value(coalitions: Tensor) -> Tensor:
        assert coalitions.dtype == torch.bool
        return table[(coalitions * bits).sum(1)]

    return value


def value_of_sizes(worth: Callable[[Tensor], Tensor]) -> Value:
    """Return the game whose coalitions are worth a function of their number of members."""
    return lambda coalitions: worth(coalitions.sum(1).double())


def random_game(num_players: int, seed: int = 0) -> Game:
    random = Random(seed)
    return {coalition: random.randint(-50, 50) for coalition in subsets(frozenset(range(num_players)))}


def dividends(game: Game) -> dict[Coalition, int]:
    """Return the a(T) with V(S) = sum over T within S of a(T)."""
    return {team: sum((-1) ** len(team - part) * game[part] for part in subsets(team)) for team in game}


def slow_shapley(game: Game) -> list[float]:
    """A team's dividend is shared equally."""
    shares = [Fraction(0)] * size_of(game)
    for team, dividend in dividends(game).items():
        for player in team:
            shares[player] += Fraction(dividend, len(team))
    return [float(share) for share in shares]


def slow_interactions(game: Game) -> list[list[float]]:
    """A team T interacts by its dividend over |T| - 1, for each of its pairs."""
    num_players = size_of(game)
    result = [[Fraction(0)] * num_players for _ in range(num_players)]
    for team, dividend in dividends(game).items():
        for i, j in combinations(team, 2):
            result[i][j] += Fraction(dividend, len(team) - 1)
            result[j][i] += Fraction(dividend, len(team) - 1)
    return [[float(entry) for entry in row] for row in result]


def second_differences(game: Game) -> list[tuple[float, int]]:
    """Return |D_ij(S)| of all pairs and coalitions, each with its probability."""
    players = frozenset(range(size_of(game)))
    pairs = list(combinations(players, 2))
    return [
        (
            1 / (len(pairs) * (len(players) - 1) * math.comb(len(players) - 2, len(s))),
            abs(game[s | {i, j}] - game[s | {i}] - game[s | {j}] + game[s]),
        )
        for i, j in pairs
        for s in subsets(players - {i, j})
    ]


def unanimity(team: Coalition, num_players: int) -> Game:
    return {coalition: int(team <= coalition) for coalition in subsets(frozenset(range(num_players)))}


def swapped(game: Game, i: int, j: int) -> Game:
    other = {i: j, j: i}
    return {frozenset(other.get(player, player) for player in coalition): value for coalition, value in game.items()}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def near(expected: object) -> object:
    return pytest.approx(expected, abs=1e-9)


def additive(weights: Tensor, offset: float = 0.0) -> Value:
    return lambda coalitions: coalitions.double() @ weights.double() + offset


def pairwise(interactions_NN: Tensor) -> Value:
    """Return the game in which each pair of members adds its entry above the diagonal, and each member its own."""

    def value(coalitions: Tensor) -> Tensor:
        members_MN = coalitions.double()
        return (members_MN @ interactions_NN.triu() * members_MN).sum(1)

    return value


def saturating(coalitions: Tensor) -> Tensor:
    return torch.log1p(coalitions.double() @ torch.arange(1.0, 1 + coalitions.shape[1]).double())


ESTIMATORS: dict[str, Callable[[Value, int], Tensor]] = {
    "exact": shapley_exact,
    "sampled": lambda value, num_players: shapley_sampled(value, num_players, 3, generator()),
}
each_estimator = pytest.mark.parametrize("estimate", ESTIMATORS.values(), ids=ESTIMATORS)


# --- exact ---


@given(games())
def test_shapley_values_equal_shares_of_dividends(game: Game) -> None:
    assert shapley_exact(value_of(game), size_of(game)).tolist() == near(slow_shapley(game))


@given(games())
def test_interactions_equal_shares_of_dividends(game: Game) -> None:
    result = interactions_exact(value_of(game), size_of(game))
    assert result.tolist() == [near(row) for row in slow_interactions(game)]
    assert torch.equal(result, result.T)
    assert torch.count_nonzero(result.diagonal()) == 0


def test_glove_game() -> None:
    """A pair of gloves is worth 1; players 0 and 1 have a left one, player 2 the right one."""

    def value(coalitions: Tensor) -> Tensor:
        return torch.minimum(coalitions[:, :2].sum(1), coalitions[:, 2]).double()

    assert shapley_exact(value, 3).tolist() == near([1 / 6, 1 / 6, 2 / 3])
    assert interactions_exact(value, 3).tolist() == [
        near([0, -1 / 2, 1 / 2]),
        near([-1 / 2, 0, 1 / 2]),
        near([1 / 2, 1 / 2, 0]),
    ]


@pytest.mark.parametrize("num_players", [1, 3, 5, 7])
def test_majority_game(num_players: int) -> None:
    """A pair is 1 player short of the majority as often as 1 above it, so its interactions of both signs cancel."""
    value = value_of_sizes(lambda size: (2 * size > num_players).double())
    assert shapley_exact(value, num_players).tolist() == near([1 / num_players] * num_players)
    assert interactions_exact(value, num_players).abs().max().item() == near(0.0)


@pytest.mark.parametrize("num_players", [2, 4, 6])
def test_unanimity_games(num_players: int) -> None:
    for size in range(1, num_players + 1):
        team = frozenset(range(num_players - size, num_players))
        value = value_of(unanimity(team, num_players))
        in_team = [player in team for player in range(num_players)]
        assert shapley_exact(value, num_players).tolist() == near([is_in / size for is_in in in_team])
        for i, row in enumerate(interactions_exact(value, num_players).tolist()):
            assert row == near(
                [0 if j == i or not in_team[i] else in_team[j] / (size - 1 or 1) for j in range(num_players)]
            )


def test_largest_game() -> None:
    """The square of the number of members: all players and all pairs are alike."""
    value = value_of_sizes(lambda size: size**2)
    num_players = MAX_EXACT_PLAYERS
    assert shapley_exact(value, num_players).tolist() == near([float(num_players)] * num_players)
    assert interactions_exact(value, num_players).tolist() == [
        near([2.0 * (i != j) for j in range(num_players)]) for i in range(num_players)
    ]


def test_a_single_player_has_all_and_no_partner() -> None:
    value = additive(torch.tensor([5.0]), offset=2.0)
    assert shapley_exact(value, 1).tolist() == [5.0]
    assert interactions_exact(value, 1).tolist() == [[0.0]]


# --- properties of exact and sampled values ---


@each_estimator
@given(games(2))
def test_values_share_the_gain_of_all(estimate: Callable[[Value, int], Tensor], game: Game) -> None:
    gain = game[frozenset(range(size_of(game)))] - game[frozenset()]
    assert estimate(value_of(game), size_of(game)).sum().item() == near(gain)


@each_estimator
@given(games(1, 4), st.sampled_from([-30, 0, 7]), st.data())
def test_dummy_player_has_its_own_value(
    estimate: Callable[[Value, int], Tensor], game: Game, own: int, data: st.DataObject
) -> None:
    """The dummy is put at any place among the others."""
    place = data.draw(st.integers(0, size_of(game)))
    value_of_others = value_of(game)

    def value(coalitions: Tensor) -> Tensor:
        others = torch.cat([coalitions[:, :place], coalitions[:, place + 1 :]], dim=1)
        return value_of_others(others) + own * coalitions[:, place]

    num_players = size_of(game) + 1
    assert estimate(value, num_players)[place].item() == (near(own) if own else 0.0)
    assert torch.count_nonzero(interactions_exact(value, num_players)[place]) == 0


@pytest.mark.parametrize("function", [*ESTIMATORS.values(), interactions_exact], ids=[*ESTIMATORS, "interactions"])
@given(games(2, 4), st.integers(-3, 3), SEEDS)
def test_results_are_linear_in_the_game(
    function: Callable[[Value, int], Tensor], game: Game, factor: int, seed: int
) -> None:
    other = random_game(size_of(game), seed)
    total = {coalition: game[coalition] + factor * other[coalition] for coalition in game}
    result, one, two = (function(value_of(each), size_of(game)) for each in (total, game, other))
    assert torch.allclose(result, one + factor * two, rtol=0, atol=1e-9)


@given(games(2), st.data())
def test_players_alike_have_equal_values(game: Game, data: st.DataObject) -> None:
    i, j = data.draw(st.permutations(range(size_of(game))))[:2]
    mirrored = swapped(game, i, j)
    alike = {coalition: game[coalition] + mirrored[coalition] for coalition in game}
    values = shapley_exact(value_of(alike), size_of(game))
    assert values[i].item() == near(values[j].item())
    interactions = interactions_exact(value_of(alike), size_of(game))
    others = [player for player in range(size_of(game)) if player not in (i, j)]
    assert interactions[i, others].tolist() == near(interactions[j, others].tolist())


@each_estimator
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=12), st.integers(-50, 50))
def test_additive_game_has_its_weights_as_values(
    estimate: Callable[[Value, int], Tensor], weights: list[int], offset: int
) -> None:
    value = additive(torch.tensor(weights), offset)
    assert estimate(value, len(weights)).tolist() == near(weights)
    assert shapley_sampled(value, len(weights), 1, generator()).tolist() == weights
    assert mean_interaction(value, len(weights), 20, generator()).item() == 0.0


# --- sampled values ---


@given(games(2, 4), st.integers(1, 5), SEEDS)
def test_sampled_values_are_means_over_orders(game: Game, num_permutations: int, seed: int) -> None:
    """The slow reference adds the players one by one, in drawn orders and their reverses."""
    num_players = size_of(game)
    source = generator(seed)
    gains = [Fraction(0)] * num_players
    order: list[int] = []
    for number in range(num_permutations):
        if number % 2:
            order.reverse()
        else:
            ranks = torch.randperm(num_players, generator=source).tolist()
            order = sorted(range(num_players), key=ranks.__getitem__)
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            gains[player] += Fraction(game[before | {player}] - game[before], num_permutations)
    estimate = shapley_sampled(value_of(game), num_players, num_permutations, generator(seed))
    assert estimate.tolist() == near([float(gain) for gain in gains])


@pytest.mark.parametrize("num_permutations", [1, 2, 3])
def test_sampled_values_converge_to_the_exact_ones(num_permutations: int) -> None:
    """The mean of many estimates is within 4 standard errors, which are small against the values' range."""
    game = random_game(6)
    value, source = value_of(game), generator()
    estimates = torch.stack([shapley_sampled(value, 6, num_permutations, source) for _ in range(900)])
    standard_errors = estimates.std(0) / 30
    expected = torch.tensor(slow_shapley(game))
    assert torch.all((estimates.mean(0) - expected).abs() < 4 * standard_errors)
    assert standard_errors.max() < 0.1 * (expected.max() - expected.min())


@given(st.integers(2, 10), SEEDS)
def test_an_order_and_its_reverse_are_exact_for_pairs(num_players: int, seed: int) -> None:
    interactions_NN = torch.randint(-50, 50, (num_players, num_players), generator=generator(seed)).double()
    estimate = shapley_sampled(pairwise(interactions_NN), num_players, 2, generator(seed))
    upper = interactions_NN.triu(1)
    assert estimate.tolist() == near((interactions_NN.diagonal() + (upper + upper.T).sum(1) / 2).tolist())


def test_reverses_beat_independent_orders_where_contributions_shrink() -> None:
    source = generator()
    reverses = torch.stack([shapley_sampled(saturating, 8, 2, source) for _ in range(200)])
    independent = torch.stack([shapley_sampled(saturating, 8, 1, source) for _ in range(400)]).view(200, 2, 8).mean(1)
    assert reverses.var(0).sum() < 0.75 * independent.var(0).sum()


@pytest.mark.parametrize("num_permutations", [1, 2, 5])
def test_sampling_evaluates_none_and_all_once(num_permutations: int) -> None:
    calls: list[Tensor] = []

    def value(coalitions: Tensor) -> Tensor:
        calls.append(coalitions)
        return saturating(coalitions)

    shapley_sampled(value, 7, num_permutations, generator())
    assert [tuple(call.shape) for call in calls] == [(2, 7)] + [(6, 7)] * num_permutations
    assert calls[0].sum(1).tolist() == [0, 7]
    assert all(call.sum(1).tolist() == [1, 2, 3, 4, 5, 6] for call in calls[1:])


# --- the choice between exact and sampled ---


@pytest.mark.parametrize(
    ("num_players", "num_permutations", "is_exact"),
    [
        (1, 1, True),
        (2, 1, False),  # 4 coalitions against 3
        (2, 2, True),
        (4, 4, False),  # 16 against 14
        (4, 5, True),  # 16 against 17
        (5, 7, False),  # 32 against 30
        (5, 8, True),  # 32 against 34
        (MAX_EXACT_PLAYERS + 1, 8, False),
    ],
)
def test_exact_values_where_they_cost_no_more(num_players: int, num_permutations: int, is_exact: bool) -> None:
    num_evaluated = 0

    def value(coalitions: Tensor) -> Tensor:
        nonlocal num_evaluated
        num_evaluated += len(coalitions)
        return saturating(coalitions)

    result = shapley(value, num_players, num_permutations, generator())
    num_sampled = 2 + num_permutations * (num_players - 1)
    assert num_evaluated == (2**num_players if is_exact else num_sampled)
    expected = (
        shapley_exact(value, num_players)
        if is_exact
        else shapley_sampled(value, num_players, num_permutations, generator())
    )
    assert torch.equal(result, expected)


def test_games_too_large_for_exact_values_are_sampled_at_any_budget() -> None:
    num_players = MAX_EXACT_PLAYERS + 1
    budget = 2**num_players // (num_players - 1) + 1
    seen: list[int] = []

    def value(coalitions: Tensor) -> Tensor:
        if len(seen) == 3:
            raise InterruptedError
        seen.append(len(coalitions))
        return coalitions.sum(1).double()

    with pytest.raises(InterruptedError):
        shapley(value, num_players, budget, generator())
    assert seen == [2, num_players - 1, num_players - 1]


# --- the strength of a game's interactions ---


@pytest.mark.parametrize("num_pairs", [1, 3, 20])
@pytest.mark.parametrize("bonus", [-2.5, 0.5])
def test_strength_is_exact_where_all_pairs_interact_alike(bonus: float, num_pairs: int) -> None:
    value = value_of_sizes(lambda size: bonus * size * (size - 1) / 2 + 3)
    assert mean_interaction(value, 6, num_pairs, generator()).item() == near(abs(bonus))


def test_two_players_have_one_interaction() -> None:
    value = value_of({frozenset(): 1, frozenset({0}): 10, frozenset({1}): 100, frozenset({0, 1}): 1000})
    assert mean_interaction(value, 2, 1, generator()).item() == 1000 - 100 - 10 + 1
    assert interactions_exact(value, 2)[0, 1].item() == 1000 - 100 - 10 + 1


def test_interactions_of_opposite_sign_do_not_cancel() -> None:
    """Three players play odd or even: each pair has -2 without the third, 2 with it, and the index is 0."""
    value = value_of_sizes(lambda size: size % 2)
    assert interactions_exact(value, 3).abs().max().item() == near(0.0)
    assert mean_interaction(value, 3, 10, generator()).item() == 2.0


def within_standard_errors(value: Value, num_players: int, expected: float, deviation: float) -> None:
    for num_pairs in (1, 5, 500):
        num_estimates = 500 // num_pairs
        source = generator(num_pairs)
        estimates = [mean_interaction(value, num_players, num_pairs, source).item() for _ in range(num_estimates)]
        error = sum(estimates) / num_estimates - expected
        assert abs(error) < 3 * deviation / (num_pairs * num_estimates) ** 0.5


@pytest.mark.parametrize("num_players", [2, 3, 6])
def test_strength_has_the_same_mean_at_every_number_of_pairs(num_players: int) -> None:
    game = random_game(num_players)
    differences = second_differences(game)
    expected = sum(probability * size for probability, size in differences)
    variance = sum(probability * (size - expected) ** 2 for probability, size in differences)
    within_standard_errors(value_of(game), num_players, expected, max(variance**0.5, 1e-9))
    indices = [abs(index) for row in slow_interactions(game) for index in row]
    assert expected >= sum(indices) / (num_players**2 - num_players) - 1e-9


def test_large_coalitions_are_as_likely_as_small_ones() -> None:
    """All 9 are needed: only the coalition of all others counts, 1 of 8 sizes."""
    value = value_of_sizes(lambda size: (size == 9).double())
    within_standard_errors(value, 9, 1 / 8, (1 / 8 * 7 / 8) ** 0.5)


@pytest.mark.parametrize("pair", list(combinations(range(4), 2)))
def test_pairs_are_equally_likely(pair: tuple[int, int]) -> None:
    value = value_of(unanimity(frozenset(pair), 4))
    within_standard_errors(value, 4, 1 / 6, (1 / 6 * 5 / 6) ** 0.5)


# --- all of them ---

CALLS: dict[str, Callable[[Value, int], Tensor]] = {
    "shapley_exact": shapley_exact,
    "shapley_sampled": ESTIMATORS["sampled"],
    "shapley": lambda value, num_players: shapley(value, num_players, 3, generator()),
    "interactions_exact": interactions_exact,
    "mean_interaction": lambda value, num_players: mean_interaction(value, num_players, 3, generator()),
}
each_function = pytest.mark.parametrize("name", CALLS)


@each_function
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_results_are_float64_without_a_graph(name: str, dtype: torch.dtype) -> None:
    game = random_game(4)  # whole numbers up to 50, exact in every format

    def value(coalitions: Tensor) -> Tensor:
        return value_of(game, dtype)(coalitions).requires_grad_()

    result = CALLS[name](value, 4)
    assert result.dtype == torch.float64
    assert not result.requires_grad
    assert torch.equal(result, CALLS[name](value_of(game), 4))


def test_differences_of_close_float32_values_are_not_rounded() -> None:

    def value(coalitions: Tensor) -> Tensor:
        return 2.0**24 - coalitions[:, 0].float()

    assert shapley_exact(value, 12).tolist() == [-1.0] + [0.0] * 11
    assert shapley_sampled(value, 12, 3, generator()).tolist() == [-1.0] + [0.0] * 11


@each_function
def test_values_of_another_shape_are_refused(name: str) -> None:
    where = rf"^{name if name != 'shapley' else 'shapley_sampled'}: values .* shape \(\d+,\), got "
    with pytest.raises(ValueError, match=rf"{where}\(\d+, 1\)"):
        CALLS[name](lambda coalitions: saturating(coalitions)[:, None], 4)
    with pytest.raises(ValueError, match=rf"{where}\(\)"):
        CALLS[name](lambda coalitions: saturating(coalitions).mean(), 4)


@pytest.mark.parametrize("function", [shapley_exact, interactions_exact])
@pytest.mark.parametrize("num_players", [-1, 0, MAX_EXACT_PLAYERS + 1, 4096])
def test_too_few_or_many_players_are_refused_by_exact_functions(
    function: Callable[[Value, int], Tensor], num_players: int
) -> None:
    with pytest.raises(
        ValueError, match=rf"^{function.__name__}: num_players .*\[1, {MAX_EXACT_PLAYERS}\], got {num_players=}"
    ):
        function(saturating, num_players)


@pytest.mark.parametrize(("function", "least"), [(shapley, 1), (shapley_sampled, 2), (mean_interaction, 2)])
def test_numbers_below_their_least_are_refused(
    function: Callable[[Value, int, int, torch.Generator], Tensor], least: int
) -> None:
    with pytest.raises(ValueError, match=rf"^{function.__name__}: num_players .* {least}, got num_players={least - 1}"):
        function(saturating, least - 1, 1, generator())
    with pytest.raises(ValueError, match=rf"^{function.__name__}: num_(permutations|pairs) .* 1, got num_\w+=0"):
        function(saturating, 4, 0, generator())
