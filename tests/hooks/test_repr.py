"""RePr on trained networks: dropped filters stay zero, and revived ones are orthogonal and new."""

import math
from typing import Any

import pytest
import torch
from graft_makers import conv_bn_sites, make_grafting, snapshot_of
from hook_makers import (
    CONVS,
    NORMS,
    WIDTHS,
    entries,
    filter_entries,
    other_filters,
    silent_filters_are,
    three_site_learner,
    train,
)
from network_makers import make_learner, same_bits, seeded_small_net
from torch import Tensor

from graftpop.hooks.repr import RePr, lowest_of_all
from graftpop.settings import ReprSettings
from graftpop.sites import find_sites
from graftpop.training.filters import site_filters
from graftpop.training.learner import Learner


def make(*, network: int = 0, seed: int = 0, peer: int = 0, **settings: Any) -> tuple[Learner, RePr]:
    """Return a learner with RePr; by default one cycle of one epoch of all filters and two epochs of the rest."""
    learner, filters = three_site_learner(network, peer=peer, epochs=8)
    repr_settings = ReprSettings.model_validate({"S1": 1, "S2": 2, "N": 1, "rate": 0.4, **settings})
    return learner, RePr(learner, filters, repr_settings, seed=seed, peer=peer)


def dropped_by(hook: RePr) -> dict[int, list[int]]:
    state = hook.state_dict()
    return {site: state[f"{conv}/dropped"].tolist() for site, conv in enumerate(CONVS) if f"{conv}/dropped" in state}


def rows(weight: Tensor) -> list[list[float]]:
    return [row.flatten().tolist() for row in weight.double()]


def cosine(left: list[float], right: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True)) / (math.hypot(*left) * math.hypot(*right))


def slow_overlaps(weight: Tensor) -> list[float]:
    filters = rows(weight)
    return [sum(abs(cosine(row, other)) for other in filters if other is not row) / len(filters) for row in filters]


def slow_choice(weights: dict[int, Tensor], rate: float) -> dict[int, list[int]]:
    """Choose the filters of all layers from the largest overlap down, except each layer's least overlapping one."""
    ranked = [
        (overlap, site, index)
        for site, weight in weights.items()
        for index, overlap in enumerate(slow_overlaps(weight))
    ]
    protected = {
        (site, min((overlap, index) for overlap, other, index in ranked if other == site)[1]) for site in weights
    }
    chosen: dict[int, list[int]] = {}
    for _, site, index in sorted(ranked, reverse=True):
        if sum(map(len, chosen.values())) < math.floor(rate * len(ranked)) and (site, index) not in protected:
            chosen.setdefault(site, []).append(index)
    return {site: sorted(chosen[site]) for site in sorted(chosen)}


@pytest.mark.parametrize("skip_first", [True, False])
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_most_overlapping_filters_of_all_layers_are_dropped(rate: float, skip_first: bool) -> None:
    learner, hook = make(rate=rate, skip_first=skip_first)
    learner.train_epoch()
    weights = {site: learner.state[f"{CONVS[site]}.weight"].clone() for site in range(skip_first, 3)}
    hook.before_epoch(1)
    dropped = dropped_by(hook)
    assert dropped == slow_choice(weights, rate)
    assert (0 in dropped) == (not skip_first)  # the first layer's fan-in is the smallest: its filters overlap most
    assert sum(map(len, dropped.values())) == math.floor(rate * sum(WIDTHS[skip_first:]))


@pytest.mark.parametrize("criterion", ["orthogonality", "l1", "bn_scale", "random"])
def test_every_layer_keeps_at_least_one_filter(criterion: str) -> None:
    learner, hook = make(rate=0.99, criterion=criterion, skip_first=False)
    learner.train_epoch()
    norms = [learner.state[f"{conv}.weight"].abs().sum((1, 2, 3)) for conv in CONVS]
    hook.before_epoch(1)
    kept = {site: other_filters(dropped, site) for site, dropped in dropped_by(hook).items()}
    assert [len(kept[site]) for site in range(3)] == [1, 1, 1]
    if criterion == "l1":
        assert kept == {site: [int(site_norms.argmax())] for site, site_norms in enumerate(norms)}
    learner.train_epoch()
    assert learner.state.buffer.isfinite().all()


def test_dropped_filters_stay_zero_until_revived() -> None:
    learner, hook = make()
    learner.train_epoch()
    whole = entries(learner)
    assert silent_filters_are(learner, {})
    for epoch in (1, 2):
        hook.before_epoch(epoch)
        dropped = dropped_by(hook)
        assert sum(map(len, dropped.values())) == 8
        assert silent_filters_are(learner, dropped)
        learner.train_epoch()
        assert silent_filters_are(learner, dropped)
        after = entries(learner)
        for site, indices in dropped.items():
            assert not any(tensor.any() for tensor in filter_entries(after, site, indices, statistics=False))
            kept = other_filters(indices, site)
            assert all(
                (now != then).any()
                for now, then in zip(filter_entries(after, site, kept), filter_entries(whole, site, kept), strict=True)
            )
    hook.before_epoch(3)
    assert silent_filters_are(learner, {})


def test_dropping_and_reviving_leave_kept_filters_unchanged() -> None:
    learner, hook = make()
    learner.train_epoch()
    dropped: dict[int, list[int]] = {}
    for epoch in (1, 2, 3):
        before = entries(learner)
        hook.before_epoch(epoch)
        after = entries(learner)
        dropped = dropped_by(hook) or dropped
        for site in range(3):
            kept = other_filters(dropped.get(site, []), site)
            assert kept
            assert all(
                torch.equal(now, then)
                for now, then in zip(filter_entries(after, site, kept), filter_entries(before, site, kept), strict=True)
            )
        classifier = [name for name in after if name.startswith(("network/11.", "momentum/11."))]
        assert len(classifier) == 4
        assert all(torch.equal(after[name], before[name]) for name in classifier)
        learner.train_epoch()


def test_revived_filters_are_orthogonal() -> None:
    learner, hook = make()
    learner.train_epoch()
    before = entries(learner)
    train(learner, hook, 3)
    dropped = dropped_by(hook)
    hook.before_epoch(3)
    assert len(dropped) == 2
    for site, indices in dropped.items():
        now, old = rows(learner.state[f"{CONVS[site]}.weight"]), rows(before[f"network/{CONVS[site]}.weight"])
        kept = [now[index] for index in other_filters(indices, site)]
        new = [now[index] for index in indices]
        avoided = [*kept, *(old[index] for index in indices)]
        assert max(abs(cosine(fresh, other)) for fresh in new for other in avoided) < 1e-4
        assert all(abs(cosine(fresh, other)) < 1e-4 for fresh in new for other in new if other is not fresh)
        mean_norm = sum(math.hypot(*row) for row in kept) / len(kept)
        assert [math.hypot(*row) for row in new] == pytest.approx([mean_norm] * len(new), rel=1e-5)


def test_revived_filters_have_new_batchnorm_entries_and_no_momentum() -> None:
    learner, hook = make()
    train(learner, hook, 3)
    dropped = dropped_by(hook)
    hook.before_epoch(3)
    assert 1 in dropped  # the site with a bias
    state = entries(learner)
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
    learner.train_epoch()
    trained = entries(learner)
    for site, indices in dropped.items():  # they train again
        assert all(
            (now != then).any()
            for now, then in zip(
                filter_entries(trained, site, indices), filter_entries(state, site, indices), strict=True
            )
        )


@pytest.mark.parametrize(("S1", "S2", "N"), [(1, 1, 2), (2, 1, 1), (1, 3, 1), (1, 2, 2)])
def test_filters_are_dropped_in_n_cycles_only(S1: int, S2: int, N: int) -> None:
    learner, hook = make(S1=S1, S2=S2, N=N)
    plan = (["all"] * S1 + ["rest"] * S2) * N + ["all"] * 9
    for epoch in range(8):
        before = entries(learner)
        if epoch > 0:
            hook.before_epoch(epoch)
        assert bool(dropped_by(hook)) == bool(hook.state_dict()) == (plan[epoch] == "rest")
        changes = epoch > 0 and plan[epoch] != plan[epoch - 1]
        assert same_bits(entries(learner), before) == (not changes)
        learner.train_epoch()


def test_repr_with_dropped_filters_resumes_bit_for_bit() -> None:
    undisturbed, hook = make()
    train(undisturbed, hook, 2)
    weights, hook_state = entries(undisturbed), {name: tensor.clone() for name, tensor in hook.state_dict().items()}
    assert len(hook_state) == 4
    resumed, resumed_hook = make(network=5)
    resumed.load_state_dict(weights)
    resumed_hook.load_state_dict(hook_state)
    assert dropped_by(resumed_hook) == dropped_by(hook)
    for epoch in (3, 4):
        train(undisturbed, hook, epoch)
        train(resumed, resumed_hook, epoch)
        assert same_bits(resumed.state_dict(), undisturbed.state_dict())
        assert dropped_by(resumed_hook) == dropped_by(hook)


def test_loading_a_state_replaces_the_gradient_masks() -> None:
    learner, hook = make()
    train(learner, hook, 2)
    resumed, resumed_hook = make(network=5)
    resumed.load_state_dict(entries(learner))
    resumed_hook.load_state_dict(hook.state_dict())
    resumed.train_epoch()  # without before_epoch, which would zero them again
    assert silent_filters_are(resumed, dropped_by(hook))
    resumed_hook.load_state_dict({})
    assert not dropped_by(resumed_hook)
    resumed.train_epoch()
    assert silent_filters_are(resumed, {})  # an empty state masks nothing


def test_dropped_filters_are_zeroed_again_after_an_exchange() -> None:
    learner, hook = make()
    donor, _ = make(network=1, peer=1)
    for peer in (learner, donor):
        peer.train_epoch()
    hook.before_epoch(1)
    learner.train_epoch()
    dropped = dropped_by(hook)
    own = make_grafting(learner.state, conv_bn_sites(learner.network), alpha=0.25)
    own.receive([snapshot_of(donor.state, conv_bn_sites(donor.network))])
    assert silent_filters_are(learner, {})  # grafting brought the donor's filters
    hook.before_epoch(2)
    assert silent_filters_are(learner, dropped)
    learner.train_epoch()
    assert silent_filters_are(learner, dropped)


def test_new_weights_depend_on_seed_peer_and_epoch() -> None:
    buffers = []
    for seed, peer, epoch in [(0, 0, 1), (0, 0, 1), (0, 1, 1), (1, 0, 1), (0, 0, 3)]:
        learner, filters = three_site_learner()
        learner.train_epoch()
        hook = RePr(learner, filters, ReprSettings(S1=1, S2=1, N=2), seed=seed, peer=peer)
        hook.before_epoch(epoch)
        assert any(map(len, dropped_by(hook).values()))
        hook.before_epoch(epoch + 1)
        buffers.append(learner.state.buffer.clone())
    assert [torch.equal(buffers[0], buffer) for buffer in buffers] == [True, True, False, False, False]


def test_random_ranking_depends_on_seed_peer_and_epoch() -> None:
    dropped = []
    for seed, peer, epoch in [(0, 0, 1), (0, 0, 1), (0, 1, 1), (1, 0, 1), (0, 0, 4)]:
        learner, filters = three_site_learner()
        settings = ReprSettings(S1=1, S2=2, N=2, rate=0.4, criterion="random")
        hook = RePr(learner, filters, settings, seed=seed, peer=peer)
        hook.before_epoch(epoch)
        dropped.append(dropped_by(hook))
    assert [each == dropped[0] for each in dropped] == [True, True, False, False, False]


@pytest.mark.parametrize(("rate", "num_dropped"), [(0.0, 0), (0.29, 29), (0.295, 29), (0.57, 57), (0.99, 98)])
def test_number_of_dropped_filters_is_the_share_rounded_down(rate: float, num_dropped: int) -> None:
    """In floating point, 0.29 * 100 and 0.57 * 100 are just below 29 and 57."""
    dropped = lowest_of_all([torch.arange(60.0), torch.arange(60.0, 100.0)], rate)
    assert [indices.tolist() for indices in dropped] == [
        [*range(min(num_dropped, 59))],  # the best filter of each layer is protected
        [*range(max(num_dropped - 59, 0))],
    ]


def test_skip_first_keeps_the_only_site() -> None:
    learner = make_learner(seeded_small_net())
    hook = RePr(
        learner,
        site_filters(learner, find_sites(learner.network, (3, 8, 8), "small", "conv_bn")),
        ReprSettings(S1=1, rate=0.5),
        seed=0,
        peer=0,
    )
    learner.train_epoch()
    hook.before_epoch(1)
    assert len(hook.state_dict()["0/dropped"]) == 8
