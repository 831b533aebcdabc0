"""RePr on real networks: what is dropped is gone and held, and what comes back is orthogonal and new."""

import math
from typing import Any

import pytest
import torch
from hook_makers import CONVS, NORMS, WIDTHS, entries, gives_zero, of_filters, others, three_site_learner, train
from network_makers import learner, same_bits, seeded_small_net
from torch import Tensor

from graftpop.exchange.grafting import Grafting
from graftpop.hooks.repr import RePr
from graftpop.settings import GraftSettings, ReprSettings
from graftpop.training.filters import SiteFilters, site_filters
from graftpop.training.learner import Learner
from graftpop.training.sites import find_sites


def make(*, network: int = 0, seed: int = 0, peer: int = 0, **settings: Any) -> tuple[Learner, RePr]:
    """Return a learner with RePr's cycles: by default one epoch of all, two epochs of the rest, one cycle."""
    one, filters = three_site_learner(network, peer=peer, epochs=8)
    chosen = ReprSettings.model_validate({"S1": 1, "S2": 2, "N": 1, "rate": 0.4, **settings})
    return one, RePr(one, filters, chosen, seed=seed, peer=peer)


def dropped_by(rule: RePr) -> dict[int, list[int]]:
    state = rule.state_dict()
    return {site: state[f"{conv}/dropped"].tolist() for site, conv in enumerate(CONVS) if f"{conv}/dropped" in state}


def rows(weight: Tensor) -> list[list[float]]:
    return [row.flatten().tolist() for row in weight.double()]


def cosine(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def slow_overlaps(weight: Tensor) -> list[float]:
    filters = rows(weight)
    return [sum(abs(cosine(one, other)) for other in filters if other is not one) / len(filters) for one in filters]


def slow_choice(weights: dict[int, Tensor], rate: float) -> dict[int, list[int]]:
    """Go through all filters of all layers from the largest overlap down, sparing each layer's least overlapping."""
    ranked = [
        (overlap, site, index)
        for site, weight in weights.items()
        for index, overlap in enumerate(slow_overlaps(weight))
    ]
    spared = {(site, min((overlap, index) for overlap, of, index in ranked if of == site)[1]) for site in weights}
    chosen: dict[int, list[int]] = {}
    for _, site, index in sorted(ranked, reverse=True):
        if sum(map(len, chosen.values())) < math.floor(rate * len(ranked)) and (site, index) not in spared:
            chosen.setdefault(site, []).append(index)
    return {site: sorted(chosen[site]) for site in sorted(chosen)}


@pytest.mark.parametrize("skip_first", [True, False])
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_the_filters_that_overlap_most_are_dropped_over_all_layers_together(rate: float, skip_first: bool) -> None:
    one, rule = make(rate=rate, skip_first=skip_first)
    one.train_epoch()
    weights = {site: one.state[f"{CONVS[site]}.weight"].clone() for site in range(skip_first, 3)}
    rule.before_epoch(1)
    dropped = dropped_by(rule)
    assert dropped == slow_choice(weights, rate)
    assert (0 in dropped) == (not skip_first)  # the first layer's fan-in is the smallest: its filters overlap most
    assert sum(map(len, dropped.values())) == math.floor(rate * sum(WIDTHS[skip_first:]))


@pytest.mark.parametrize("criterion", ["orthogonality", "l1", "bn_scale", "random"])
def test_no_layer_is_ever_emptied(criterion: str) -> None:
    one, rule = make(rate=0.99, criterion=criterion, skip_first=False)
    one.train_epoch()
    norms = [one.state[f"{conv}.weight"].abs().sum((1, 2, 3)) for conv in CONVS]
    rule.before_epoch(1)
    kept = {site: others(dropped, site) for site, dropped in dropped_by(rule).items()}
    assert [len(kept[site]) for site in range(3)] == [1, 1, 1]
    if criterion == "l1":
        assert kept == {site: [int(of_site.argmax())] for site, of_site in enumerate(norms)}
    one.train_epoch()
    assert one.state.buffer.isfinite().all()


def test_dropped_filters_give_zero_and_receive_no_update_until_they_come_back() -> None:
    one, rule = make()
    one.train_epoch()
    whole = entries(one)
    assert gives_zero(one, {})
    for epoch in (1, 2):
        rule.before_epoch(epoch)
        dropped = dropped_by(rule)
        assert sum(map(len, dropped.values())) == 8
        assert gives_zero(one, dropped)
        one.train_epoch()
        assert gives_zero(one, dropped)
        after = entries(one)
        for site, indices in dropped.items():
            assert not any(tensor.any() for tensor in of_filters(after, site, indices, statistics=False))
            kept = others(indices, site)
            assert all(
                (now != then).any()
                for now, then in zip(of_filters(after, site, kept), of_filters(whole, site, kept), strict=True)
            )
    rule.before_epoch(3)
    assert gives_zero(one, {})


def test_dropping_and_giving_back_leave_the_kept_filters_alone() -> None:
    one, rule = make()
    one.train_epoch()
    chosen: dict[int, list[int]] = {}
    for epoch in (1, 2, 3):
        before = entries(one)
        rule.before_epoch(epoch)
        after = entries(one)
        chosen = dropped_by(rule) or chosen
        for site in range(3):
            kept = others(chosen.get(site, []), site)
            assert kept
            assert all(
                torch.equal(now, then)
                for now, then in zip(of_filters(after, site, kept), of_filters(before, site, kept), strict=True)
            )
        beside = [name for name in after if name.startswith(("network/11.", "momentum/11."))]
        assert len(beside) == 4
        assert all(torch.equal(after[name], before[name]) for name in beside)
        one.train_epoch()


def test_filters_come_back_orthogonal_to_the_kept_to_their_old_values_and_to_each_other() -> None:
    one, rule = make()
    one.train_epoch()
    before = entries(one)
    train(one, rule, 3)
    dropped = dropped_by(rule)
    rule.before_epoch(3)
    assert len(dropped) == 2
    for site, indices in dropped.items():
        now, old = rows(one.state[f"{CONVS[site]}.weight"]), rows(before[f"network/{CONVS[site]}.weight"])
        kept = [now[index] for index in others(indices, site)]
        new = [now[index] for index in indices]
        avoided = [*kept, *(old[index] for index in indices)]
        assert max(abs(cosine(fresh, other)) for fresh in new for other in avoided) < 1e-4
        assert all(abs(cosine(fresh, other)) < 1e-4 for fresh in new for other in new if other is not fresh)
        mean_norm = sum(math.hypot(*row) for row in kept) / len(kept)
        assert [math.hypot(*row) for row in new] == pytest.approx([mean_norm] * len(new), rel=1e-5)


def test_filters_come_back_with_new_batchnorm_entries_and_no_momentum() -> None:
    one, rule = make()
    train(one, rule, 3)
    dropped = dropped_by(rule)
    rule.before_epoch(3)
    assert 1 in dropped  # the site with a bias
    state = entries(one)
    for site, indices in dropped.items():
        conv, norm = CONVS[site], NORMS[site]
        expected = {
            f"network/{norm}.weight": 1.0,
            f"network/{norm}.bias": 0.0,
            f"network/{norm}.running_mean": 0.0,
            f"network/{norm}.running_var": 1.0,
            f"network/{conv}.bias": 0.0,
            f"momentum/{conv}.bias": 0.0,
            f"momentum/{conv}.weight": 0.0,
            f"momentum/{norm}.weight": 0.0,
            f"momentum/{norm}.bias": 0.0,
        }
        for name, value in expected.items():
            assert name not in state or (state[name][indices] == value).all(), name
    one.train_epoch()
    trained = entries(one)
    for site, indices in dropped.items():  # they train again
        assert all(
            (now != then).any()
            for now, then in zip(of_filters(trained, site, indices), of_filters(state, site, indices), strict=True)
        )


@pytest.mark.parametrize(("S1", "S2", "N"), [(1, 1, 2), (2, 1, 1), (1, 3, 1), (1, 2, 2)])
def test_after_n_cycles_nothing_more_happens(S1: int, S2: int, N: int) -> None:
    one, rule = make(S1=S1, S2=S2, N=N)
    plan = (["all"] * S1 + ["rest"] * S2) * N + ["all"] * 9
    for epoch in range(8):
        before = entries(one)
        if epoch > 0:
            rule.before_epoch(epoch)
        assert bool(dropped_by(rule)) == bool(rule.state_dict()) == (plan[epoch] == "rest")
        changes = epoch > 0 and plan[epoch] != plan[epoch - 1]
        assert same_bits(entries(one), before) == (not changes)
        one.train_epoch()


def test_a_run_resumed_while_filters_are_dropped_goes_on_to_the_bit() -> None:
    undisturbed, rule = make()
    train(undisturbed, rule, 2)
    weights, remembered = entries(undisturbed), {name: tensor.clone() for name, tensor in rule.state_dict().items()}
    assert len(remembered) == 4
    resumed, again = make(network=5)
    resumed.load_state_dict(weights)
    again.load_state_dict(remembered)
    assert dropped_by(again) == dropped_by(rule)
    for epoch in (3, 4):
        train(undisturbed, rule, epoch)
        train(resumed, again, epoch)
        assert same_bits(resumed.state_dict(), undisturbed.state_dict())
        assert dropped_by(again) == dropped_by(rule)


def test_what_is_held_is_resumed_with_the_rule() -> None:
    one, rule = make()
    train(one, rule, 2)
    resumed, again = make(network=5)
    resumed.load_state_dict(entries(one))
    again.load_state_dict(rule.state_dict())
    resumed.train_epoch()  # without before_epoch, which would set them to zero again
    assert gives_zero(resumed, dropped_by(rule))
    again.load_state_dict({})
    assert not dropped_by(again)
    resumed.train_epoch()
    assert gives_zero(resumed, {})  # and what is forgotten is let go


def test_an_exchange_cannot_bring_dropped_filters_back() -> None:
    one, rule = make()
    donor, _ = make(network=1, peer=1)
    for peer in (one, donor):
        peer.train_epoch()
    rule.before_epoch(1)
    one.train_epoch()
    dropped = dropped_by(rule)
    ours, theirs = (
        Grafting(peer.state, find_sites(peer.network, (3, 8, 8), "three sites"), GraftSettings(alpha=0.25))
        for peer in (one, donor)
    )
    snapshot = theirs.publish(1, theirs.entropies(), torch.empty(0, dtype=torch.int64))
    ours.graft_(ours.alpha(ours.entropies(), snapshot), snapshot)
    assert gives_zero(one, {})  # the donor's are there
    rule.before_epoch(2)
    assert gives_zero(one, dropped)
    one.train_epoch()
    assert gives_zero(one, dropped)


def test_directions_differ_from_peer_to_peer_and_seed_to_seed_and_can_be_repeated() -> None:
    found = []
    for seed, peer in [(0, 0), (0, 1), (1, 0), (0, 0)]:
        one, _ = make()
        one.train_epoch()
        filters: list[SiteFilters] = site_filters(one, find_sites(one.network, (3, 8, 8), "three sites"))
        rule = RePr(one, filters, ReprSettings(S1=1, S2=1, N=1), seed=seed, peer=peer)
        rule.before_epoch(1)
        rule.before_epoch(2)
        found.append(one.state.buffer.clone())
    assert [torch.equal(found[0], other) for other in found] == [True, False, False, True]


def test_where_the_first_convolution_is_the_only_one_it_is_not_left_alone() -> None:
    one = learner(seeded_small_net())
    rule = RePr(
        one,
        site_filters(one, find_sites(one.network, (3, 8, 8), "small")),
        ReprSettings(S1=1, rate=0.5),
        seed=0,
        peer=0,
    )
    one.train_epoch()
    rule.before_epoch(1)
    assert len(rule.state_dict()["0/dropped"]) == 8
