"""Weight averaging over epochs, against a list of clones; soups of peers, against closed forms."""

import math
from fractions import Fraction
from functools import cache

import pytest
import torch
from hook_makers import NORMS, entries, three_site_learner, train
from hypothesis import example, given
from hypothesis import strategies as st
from network_makers import same_bits
from torch import Tensor

from graftpop.hooks.weight_averaging import StochasticWeightAveraging
from graftpop.ops.soups import greedy_soup, uniform_soup
from graftpop.training.learner import Learner

EPOCHS = 6


def make(start: float = 0.5, *, network: int = 0, epochs: int = EPOCHS) -> tuple[Learner, StochasticWeightAveraging]:
    learner, _ = three_site_learner(network, epochs=epochs)
    return learner, StochasticWeightAveraging(learner, start=start, epochs=epochs)


def trained_entries(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in state.items()
        if name.startswith("network/") and name.endswith(("weight", "bias"))
    }


@pytest.mark.parametrize(("start", "num_averaged"), [(0.5, 3), (0.0, 6), (0.7, 2), (0.99, 1)])
def test_finish_averages_the_last_epochs(start: float, num_averaged: int) -> None:
    learner, hook = make(start)
    plain, _ = make()
    clones = []
    for epoch in range(1, EPOCHS + 1):
        train(learner, hook, epoch)
        plain.train_epoch()
        assert same_bits(learner.state_dict(), plain.state_dict())  # until finish, averaging changes nothing
        clones.append(trained_entries(entries(learner)))
    last = clones[-num_averaged:]
    hook.finish()
    assert hook.state_dict()["num_averaged"].item() == num_averaged
    for name, tensor in trained_entries(entries(learner)).items():
        mean = torch.stack([clone[name].double() for clone in last]).mean(0)
        assert torch.allclose(tensor.double(), mean, rtol=1e-5, atol=1e-6), name


def test_finish_recomputes_the_batchnorm_statistics_of_the_mean() -> None:
    learner, hook = make()
    train(learner, hook, EPOCHS)
    hook.finish()
    after = entries(learner)
    averaged = hook.state_dict()["mean"]
    assert not torch.allclose(
        learner.state.buffer, averaged, atol=1e-3
    )  # the mean of the statistics differs from the statistics of the mean
    for norm in NORMS:
        learner.state[f"{norm}.running_mean"].fill_(7.0)
        learner.state[f"{norm}.running_var"].fill_(7.0)
    learner.recalibrate()
    assert same_bits(entries(learner), after)


def test_mean_begins_anew_when_the_weights_were_replaced() -> None:
    learner, hook = make(0.0)
    train(learner, hook, 2)
    learner.state.buffer.copy_(make(network=5)[0].state.buffer)
    hook.restart()
    learner.train_epoch()
    expected = trained_entries(entries(learner))  # of the only epoch since
    hook.finish()
    assert same_bits(trained_entries(entries(learner)), expected)


def test_averaging_resumes_bit_for_bit() -> None:
    undisturbed, hook = make(0.3)
    train(undisturbed, hook, 4)
    weights, hook_state = entries(undisturbed), {name: tensor.clone() for name, tensor in hook.state_dict().items()}
    resumed, resumed_hook = make(0.3, network=5)
    resumed.load_state_dict(weights)
    resumed_hook.load_state_dict(hook_state)
    for learner, its_hook in ((undisturbed, hook), (resumed, resumed_hook)):
        train(learner, its_hook, EPOCHS)
        its_hook.finish()
    assert same_bits(resumed.state_dict(), undisturbed.state_dict())


@cache
def bare() -> Learner:
    return three_site_learner()[0]


@given(st.integers(0, 99), st.integers(1, 300))
@example(29, 100)  # 0.29 * 100 is 28.999999999999996
@example(7, 100)  # 0.07 * 100 is 7.000000000000001
def test_averaging_begins_with_the_first_epoch_after_start(percent: int, epochs: int) -> None:
    hook = StochasticWeightAveraging(bare(), start=percent / 100, epochs=epochs)
    for epoch in range(1, epochs + 1):
        hook.before_epoch(epoch)
    assert hook.state_dict()["num_averaged"].item() == epochs - math.floor(Fraction(percent, 100) * epochs)


# soups


def soup(*values: float) -> list[Tensor]:
    return [torch.tensor([value, -value]) for value in values]


def test_uniform_soup_is_the_mean() -> None:
    assert uniform_soup(soup(1.0, 2.0, 6.0)).tolist() == [3.0, -3.0]
    assert uniform_soup(iter(soup(4.0))).tolist() == [4.0, -4.0]


def nearness_to_0(weights: Tensor) -> float:
    """Return an accuracy that falls with the size of the first weight, without rounding errors."""
    return 1.0 - round(abs(weights[0].item()), 3) / 100


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([1.0, -1.0, 5.0], [1.0, -1.0]),  # mean 0 is perfect; 5 would worsen it
        ([1.0, 2.0, 3.0], [1.0]),  # each further one worsens it
        ([1.0, 3.0, -1.0], [1.0, -1.0]),  # a rejected one stays out
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]),  # as good as without: kept
        ([2.0, -1.0, -1.0, -8.0], [2.0, -1.0, -1.0]),
        ([7.0], [7.0]),
    ],
)
def test_greedy_soup_keeps_weights_that_do_not_hurt(values: list[float], kept: list[float]) -> None:
    found = greedy_soup(soup(*values), nearness_to_0)
    assert found[0].item() == pytest.approx(sum(kept) / len(kept))


@given(st.lists(st.integers(-50, 50).map(float), min_size=1, max_size=8))
def test_greedy_soup_equals_a_plain_loop(values: list[float]) -> None:
    pot = [values[0]]
    for value in values[1:]:
        if round(abs(sum([*pot, value]) / (len(pot) + 1)), 3) <= round(abs(sum(pot) / len(pot)), 3):
            pot.append(value)
    found = greedy_soup(iter(soup(*values)), nearness_to_0)
    assert found[0].item() == pytest.approx(sum(pot) / len(pot), abs=1e-4)
    assert nearness_to_0(found) >= nearness_to_0(torch.tensor([values[0]]))


def test_greedy_soup_evaluates_each_candidate_once() -> None:
    measured = []

    def accuracy(weights: Tensor) -> float:
        measured.append(weights[0].item())
        return 0.5

    greedy_soup(soup(1.0, 2.0, 6.0), accuracy)
    assert measured == [1.0, 1.5, 3.0]
