"""Attenuation and its relatives on real networks, against loops over filters."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hook_makers import CONVS, NORMS, WIDTHS, entries, gives_zero, of_filters, others, three_site_learner, train
from network_makers import same_bits
from torch import Tensor, nn

from graftpop.hooks.attenuation import Attenuation
from graftpop.settings import AttenuationSettings
from graftpop.training.learner import Learner

EPOCHS = 8
Row = list[float]

SLOW_SCORES: dict[str, Callable[[Row, list[Row]], float]] = {
    "l1": lambda own, _: math.fsum(abs(value) for value in own),
    "l2": lambda own, _: math.hypot(*own),
    "geometric_median": lambda own, layer: math.fsum(math.dist(own, other) for other in layer),
}


def make(*, network: int = 0, seed: int = 0, peer: int = 0, **settings: Any) -> tuple[Learner, Attenuation]:
    one, filters = three_site_learner(network, peer=peer, epochs=EPOCHS)
    chosen = AttenuationSettings.model_validate({"rate": 0.4, **settings})
    return one, Attenuation(one, filters, chosen, epochs=EPOCHS, seed=seed, peer=peer)


def slow_weakest(weight: Tensor, rate: float, criterion: str = "l2") -> list[int]:
    layer = [row.flatten().tolist() for row in weight.double()]
    ranked = sorted(range(len(layer)), key=lambda index: SLOW_SCORES[criterion](layer[index], layer))
    return sorted(ranked[: math.floor(rate * len(layer) + 1e-9)])


def weakest_of_all(one: Learner, rate: float, criterion: str = "l2") -> dict[int, list[int]]:
    return {site: slow_weakest(one.state[f"{conv}.weight"], rate, criterion) for site, conv in enumerate(CONVS)}


def zeroed(one: Learner) -> dict[int, list[int]]:
    """Return the filters whose weights are all zero."""
    return {
        site: [index for index, row in enumerate(one.state[f"{conv}.weight"]) if not row.any()]
        for site, conv in enumerate(CONVS)
    }


@pytest.mark.parametrize("criterion", SLOW_SCORES)
@pytest.mark.parametrize(("factor", "rate"), [(0.5, 0.4), (0.9, 0.1), (0.0, 0.75), (1.0, 0.5)])
def test_the_weakest_of_each_layer_are_multiplied_and_nothing_else_changes(
    criterion: str, factor: float, rate: float
) -> None:
    one, rule = make(factor=factor, rate=rate, criterion=criterion)
    one.train_epoch()
    expected = entries(one)
    for site, weak in weakest_of_all(one, rate, criterion).items():
        for index in weak:
            expected[f"network/{CONVS[site]}.weight"][index] *= factor
    rule.before_epoch(1)
    assert same_bits(entries(one), expected)  # momentum and BatchNorm too


def test_the_first_convolution_is_left_alone_where_the_settings_say_so() -> None:
    one, rule = make(factor=0.0, skip_first=True)
    one.train_epoch()
    rule.before_epoch(1)
    rule.finish()
    assert {site: len(filters) for site, filters in zeroed(one).items()} == {0: 0, 1: 4, 2: 4}


def test_a_filter_that_has_recovered_leaves_the_weak() -> None:
    one, rule = make()
    one.train_epoch()
    weak = weakest_of_all(one, 0.4)
    rule.before_epoch(1)
    for site, conv in enumerate(CONVS):
        one.state[f"{conv}.weight"][weak[site][0]] *= 1000.0
    before = entries(one)
    now_weak = weakest_of_all(one, 0.4)
    rule.before_epoch(2)
    for site in range(3):
        recovered = weak[site][0]
        assert len(now_weak[site]) == len(weak[site])
        assert recovered not in now_weak[site]
        assert torch.equal(
            one.state[f"{CONVS[site]}.weight"][recovered], before[f"network/{CONVS[site]}.weight"][recovered]
        )
        for index in now_weak[site]:
            assert torch.equal(
                one.state[f"{CONVS[site]}.weight"][index], before[f"network/{CONVS[site]}.weight"][index] * 0.5
            )


def test_filters_that_were_attenuated_train_on_as_others_do() -> None:
    """What an epoch makes of them is what it makes of a network that has such weights anyway."""
    one, rule = make(factor=0.0)
    one.train_epoch()
    rule.before_epoch(1)
    alone, _ = make(network=5)
    alone.load_state_dict(entries(one))
    assert sum(map(len, zeroed(one).values())) == 3 + 4 + 4
    one.train_epoch()
    alone.train_epoch()
    assert same_bits(one.state_dict(), alone.state_dict())
    assert not any(zeroed(one).values())  # soft pruning: they have grown again


def test_the_share_of_asymptotic_pruning_grows_to_the_rate() -> None:
    one, rule = make(factor=0.0, rate=0.6, rate_schedule="growing")
    found = []
    for epoch in range(1, EPOCHS):
        one.train_epoch()
        rule.before_epoch(epoch)
        rate = 0.6 * (1 - 4 ** (-8 * epoch / EPOCHS))
        found.append({site: len(filters) for site, filters in zeroed(one).items()})
        assert found[-1] == {site: math.floor(rate * width) for site, width in enumerate(WIDTHS)}
    rule.finish()
    found.append({site: len(filters) for site, filters in zeroed(one).items()})
    assert found[-1] == {0: 4, 1: 7, 2: 6}
    assert all(now[site] <= then[site] for now, then in pairwise(found) for site in range(3))
    assert found[0] != found[-1]


def test_the_factor_of_softer_pruning_falls_to_zero() -> None:
    one, rule = make(factor=0.8, factor_schedule="falling")
    one.train_epoch()
    for epoch in range(1, EPOCHS + 1):
        before, weak = entries(one), weakest_of_all(one, 0.4)
        rule.before_epoch(epoch)
        for site, conv in enumerate(CONVS):
            now, then = one.state[f"{conv}.weight"][weak[site]], before[f"network/{conv}.weight"][weak[site]]
            assert torch.allclose(now, 0.8 * (EPOCHS - epoch) / EPOCHS * then, rtol=1e-6, atol=0)
            one.state[f"{conv}.weight"][weak[site]] = then  # so that every epoch has something to multiply
    rule.before_epoch(EPOCHS)
    assert zeroed(one) == weakest_of_all(one, 0.4)


@pytest.mark.parametrize("rate_schedule", ["constant", "growing"])
def test_what_is_pruned_hard_never_comes_back_and_never_updates(rate_schedule: str) -> None:
    one, rule = make(factor=0.0, recoverable=False, rate_schedule=rate_schedule, rate=0.5)
    one.train_epoch()
    gone: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for epoch in range(1, EPOCHS):
        rule.before_epoch(epoch)
        now = zeroed(one)
        assert all(set(now[site]) >= set(gone[site]) for site in range(3))
        gone = now
        one.train_epoch()
        assert gives_zero(one, gone)
        state = entries(one)
        assert not any(
            tensor.any() for site in range(3) for tensor in of_filters(state, site, gone[site], statistics=False)
        )
    rule.finish()
    assert all(set(zeroed(one)[site]) >= set(gone[site]) for site in range(3))
    assert {site: len(filters) for site, filters in zeroed(one).items()} == {0: 4, 1: 6, 2: 5}


def test_an_exchange_cannot_bring_back_what_is_pruned_hard() -> None:
    one, rule = make(factor=0.0, recoverable=False)
    train(one, rule, 2)
    gone = zeroed(one)
    one.state.buffer.add_(1.0)
    assert not any(zeroed(one).values())
    rule.before_epoch(2)
    assert zeroed(one) == gone
    assert gives_zero(one, gone)


def test_in_the_end_the_weak_give_exactly_zero_and_the_others_are_as_they_were() -> None:
    one, rule = make()
    train(one, rule, EPOCHS)
    before, weak = entries(one), weakest_of_all(one, 0.4)
    assert gives_zero(one, {})
    rule.finish()
    assert gives_zero(one, weak)
    after = entries(one)
    for site in range(3):
        kept = others(weak[site], site)
        assert not any(tensor.any() for tensor in of_filters(after, site, weak[site], statistics=False))
        assert all(
            torch.equal(now, then)
            for now, then in zip(
                of_filters(after, site, kept, statistics=False),
                of_filters(before, site, kept, statistics=False),
                strict=True,
            )
        )


def test_in_the_end_the_statistics_are_those_without_the_weak() -> None:
    one, rule = make()
    train(one, rule, EPOCHS)
    rule.finish()
    after = entries(one)
    for norm in NORMS:
        one.state[f"{norm}.running_mean"].fill_(7.0)
    one.recalibrate()
    assert same_bits(entries(one), after)


def test_where_nothing_is_dropped_the_end_changes_nothing() -> None:
    one, rule = make(rate=0.0)
    train(one, rule, 2)
    before = entries(one)
    rule.finish()
    assert same_bits(entries(one), before)


def test_hard_pruning_is_resumed_to_the_bit() -> None:
    undisturbed, rule = make(factor=0.0, recoverable=False, rate_schedule="growing")
    train(undisturbed, rule, 2)
    weights, remembered = entries(undisturbed), {name: tensor.clone() for name, tensor in rule.state_dict().items()}
    resumed, again = make(network=5, factor=0.0, recoverable=False, rate_schedule="growing")
    resumed.load_state_dict(weights)
    again.load_state_dict(remembered)
    for epoch in (3, 4, 5):
        train(undisturbed, rule, epoch)
        train(resumed, again, epoch)
        assert same_bits(resumed.state_dict(), undisturbed.state_dict())
    rule.finish()
    again.finish()
    assert same_bits(resumed.state_dict(), undisturbed.state_dict())


def test_what_is_pruned_hard_is_held_from_the_moment_of_resuming() -> None:
    one, rule = make(factor=0.0, recoverable=False)
    train(one, rule, 2)
    resumed, again = make(network=5, factor=0.0, recoverable=False)
    resumed.load_state_dict(entries(one))
    again.load_state_dict(rule.state_dict())
    resumed.train_epoch()  # without before_epoch, which would set them to zero again
    assert gives_zero(resumed, zeroed(one))


def test_a_recoverable_rule_remembers_nothing() -> None:
    one, rule = make()
    train(one, rule, 3)
    assert rule.state_dict() == {}


def test_random_scores_differ_by_seed_peer_and_epoch_and_can_be_repeated() -> None:
    chosen = []
    for seed, peer, epoch in [(0, 0, 1), (0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 2)]:
        one, rule = make(seed=seed, peer=peer, factor=0.0, criterion="random")
        rule.before_epoch(epoch)
        chosen.append(zeroed(one))
    assert [other == chosen[0] for other in chosen] == [True, True, False, False, False]


def test_scores_by_batchnorm_read_the_sites_own() -> None:
    one, rule = make(factor=0.0, rate=0.25, criterion="bn_scale")
    for norm, width in zip(NORMS, WIDTHS, strict=True):
        one.state[f"{norm}.weight"].copy_(torch.linspace(1, -1.9, width))  # least in size where it crosses zero
    rule.before_epoch(1)
    sizes = [[abs(1 - 2.9 * index / (width - 1)) for index in range(width)] for width in WIDTHS]
    assert zeroed(one) == {
        site: sorted(sorted(range(len(of_site)), key=of_site.__getitem__)[: len(of_site) // 4])
        for site, of_site in enumerate(sizes)
    }


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_behind_batchnorm_the_gradient_of_a_filter_at_zero_is_divided_by_the_root_of_eps(eps: float) -> None:
    """docs/methods.md warns of it: by 316 at torch's eps, where other filters have 1 over the deviation they give."""
    generator = torch.Generator().manual_seed(0)
    images, weighting = (torch.randn(8, channels, 5, 5, generator=generator) for channels in (3, 1))
    convolution, norm = nn.Conv2d(3, 1, 1, bias=False), nn.BatchNorm2d(1, eps=eps)
    with torch.no_grad():
        convolution.weight.zero_()
    (norm(convolution(images)) * weighting).sum().backward()
    centred = weighting - weighting.mean()
    expected = (centred * images).sum((0, 2, 3)) / math.sqrt(eps)
    assert nn.BatchNorm2d(1).eps == 1e-5
    assert convolution.weight.grad is not None
    assert torch.allclose(convolution.weight.grad.flatten(), expected, rtol=1e-4)
