"""Pruning of trained networks by its schedules, against loops over filters."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
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
from network_makers import same_bits
from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.hooks.gated import GatedPruning
from graftpop.hooks.pruning import Pruning
from graftpop.hooks.pruning_plan import plan_pruning
from graftpop.models.flops import count_flops, count_parameters, flops_by_weight
from graftpop.ops.allocation import budget, cross_layer, normalized
from graftpop.ops.attenuation import growing
from graftpop.ops.entropy import filter_entropies
from graftpop.ops.selection import k_reciprocal
from graftpop.settings import PruningSettings
from graftpop.settings.pruning import PRESETS
from graftpop.sites import find_sites
from graftpop.training.learner import Learner
from graftpop.training.removal import remove_dropped

EPOCHS = 8
Row = list[float]

SLOW_SCORES: dict[str, Callable[[Row, list[Row]], float]] = {
    "l1": lambda own, _: math.fsum(abs(value) for value in own),
    "l2": lambda own, _: math.hypot(*own),
    "geometric_median": lambda own, layer: math.fsum(math.dist(own, other) for other in layer),
}


def make(*, network: int = 0, seed: int = 0, peer: int = 0, **settings: Any) -> tuple[Learner, Pruning]:
    learner, filters = three_site_learner(network, peer=peer, epochs=EPOCHS)
    pruning = PruningSettings.model_validate({"rate": 0.4, **settings})
    plan = plan_pruning(pruning, learner.network, [site.site for site in filters], (3, 8, 8), "three sites")
    hook = GatedPruning if pruning.method.schedule == "gated" else Pruning
    return learner, hook(learner, filters, pruning, plan, epochs=EPOCHS, seed=seed, peer=peer)


def slow_weakest(weight: Tensor, rate: float, criterion: str = "l2") -> list[int]:
    layer = [row.flatten().tolist() for row in weight.double()]
    ranked = sorted(range(len(layer)), key=lambda index: SLOW_SCORES[criterion](layer[index], layer))
    return sorted(ranked[: math.floor(rate * len(layer) + 1e-9)])


def weakest_of_all(learner: Learner, rate: float, criterion: str = "l2") -> dict[int, list[int]]:
    return {site: slow_weakest(learner.state[f"{conv}.weight"], rate, criterion) for site, conv in enumerate(CONVS)}


def zeroed(learner: Learner) -> dict[int, list[int]]:
    """Return the filters whose weights are all zero."""
    return {
        site: [index for index, row in enumerate(learner.state[f"{conv}.weight"]) if not row.any()]
        for site, conv in enumerate(CONVS)
    }


@pytest.mark.parametrize("criterion", SLOW_SCORES)
@pytest.mark.parametrize(("factor", "rate"), [(0.5, 0.4), (0.9, 0.1), (0.0, 0.75), (1.0, 0.5)])
def test_only_the_weakest_filters_are_multiplied(criterion: str, factor: float, rate: float) -> None:
    schedule = {"schedule": "attenuate", "factor": factor} if factor else {"schedule": "soft"}
    learner, hook = make(rate=rate, criterion=criterion, **schedule)
    learner.train_epoch()
    expected = entries(learner)
    for site, weak in weakest_of_all(learner, rate, criterion).items():
        for index in weak:
            expected[f"network/{CONVS[site]}.weight"][index] *= factor
    hook.before_epoch(1)
    assert same_bits(entries(learner), expected)  # momentum and BatchNorm too


def test_skip_first_leaves_the_first_convolution_unchanged() -> None:
    learner, hook = make(schedule="soft", skip_first=True)
    learner.train_epoch()
    hook.before_epoch(1)
    hook.finish()
    assert {site: len(filters) for site, filters in zeroed(learner).items()} == {0: 0, 1: 4, 2: 4}


def test_recovered_filter_is_no_longer_attenuated() -> None:
    learner, hook = make()
    learner.train_epoch()
    weak = weakest_of_all(learner, 0.4)
    hook.before_epoch(1)
    for site, conv in enumerate(CONVS):
        learner.state[f"{conv}.weight"][weak[site][0]] *= 1000.0
    before = entries(learner)
    now_weak = weakest_of_all(learner, 0.4)
    hook.before_epoch(2)
    for site in range(3):
        recovered = weak[site][0]
        assert len(now_weak[site]) == len(weak[site])
        assert recovered not in now_weak[site]
        assert torch.equal(
            learner.state[f"{CONVS[site]}.weight"][recovered], before[f"network/{CONVS[site]}.weight"][recovered]
        )
        for index in now_weak[site]:
            assert torch.equal(
                learner.state[f"{CONVS[site]}.weight"][index], before[f"network/{CONVS[site]}.weight"][index] * 0.5
            )


def test_attenuated_filters_continue_to_train() -> None:
    """An epoch changes them as it changes equal weights in a network that was never attenuated."""
    learner, hook = make(schedule="soft")
    learner.train_epoch()
    hook.before_epoch(1)
    never_attenuated, _ = make(network=5)
    never_attenuated.load_state_dict(entries(learner))
    assert sum(map(len, zeroed(learner).values())) == 3 + 4 + 4
    learner.train_epoch()
    never_attenuated.train_epoch()
    assert same_bits(learner.state_dict(), never_attenuated.state_dict())
    assert not any(zeroed(learner).values())  # soft pruning: they have grown again


def test_growing_share_reaches_the_rate_at_the_end() -> None:
    learner, hook = make(rate=0.6, schedule="asymptotic")
    num_zeroed = []
    for epoch in range(1, EPOCHS):
        learner.train_epoch()
        hook.before_epoch(epoch)
        rate = 0.6 * (1 - 4 ** (-8 * epoch / EPOCHS))
        num_zeroed.append({site: len(filters) for site, filters in zeroed(learner).items()})
        assert num_zeroed[-1] == {site: math.floor(rate * width) for site, width in enumerate(WIDTHS)}
    hook.finish()
    num_zeroed.append({site: len(filters) for site, filters in zeroed(learner).items()})
    assert num_zeroed[-1] == {0: 4, 1: 7, 2: 6}
    assert all(now[site] <= then[site] for now, then in pairwise(num_zeroed) for site in range(3))
    assert num_zeroed[0] != num_zeroed[-1]


def test_falling_factor_reaches_zero_at_the_end() -> None:
    learner, hook = make(schedule="softer")
    learner.train_epoch()
    for epoch in range(1, EPOCHS + 1):
        before, weak = entries(learner), weakest_of_all(learner, 0.4)
        hook.before_epoch(epoch)
        for site, conv in enumerate(CONVS):
            now, then = learner.state[f"{conv}.weight"][weak[site]], before[f"network/{conv}.weight"][weak[site]]
            assert torch.allclose(now, (EPOCHS - epoch) / EPOCHS * then, rtol=1e-6, atol=0)
            learner.state[f"{conv}.weight"][weak[site]] = then  # so that every epoch has something to multiply
    hook.before_epoch(EPOCHS)
    assert zeroed(learner) == weakest_of_all(learner, 0.4)


def test_hard_pruned_filters_stay_zero_and_receive_no_update() -> None:
    learner, hook = make(schedule="hard", rate=0.5)
    learner.train_epoch()
    pruned: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for epoch in range(1, EPOCHS):
        hook.before_epoch(epoch)
        now = zeroed(learner)
        assert all(set(now[site]) >= set(pruned[site]) for site in range(3))
        pruned = now
        learner.train_epoch()
        assert silent_filters_are(learner, pruned)
        state = entries(learner)
        assert not any(
            tensor.any() for site in range(3) for tensor in filter_entries(state, site, pruned[site], statistics=False)
        )
    hook.finish()
    assert all(set(zeroed(learner)[site]) >= set(pruned[site]) for site in range(3))
    assert {site: len(filters) for site, filters in zeroed(learner).items()} == {0: 4, 1: 6, 2: 5}


def test_hard_pruned_filters_are_zeroed_again_after_an_exchange() -> None:
    learner, hook = make(schedule="hard")
    train(learner, hook, 2)
    pruned = zeroed(learner)
    learner.state.buffer.add_(1.0)
    assert not any(zeroed(learner).values())
    hook.before_epoch(2)
    assert zeroed(learner) == pruned
    assert silent_filters_are(learner, pruned)


def test_finish_zeroes_the_weak_filters_and_keeps_the_others() -> None:
    learner, hook = make()
    train(learner, hook, EPOCHS)
    before, weak = entries(learner), weakest_of_all(learner, 0.4)
    assert silent_filters_are(learner, {})
    hook.finish()
    assert silent_filters_are(learner, weak)
    after = entries(learner)
    for site in range(3):
        kept = other_filters(weak[site], site)
        assert not any(tensor.any() for tensor in filter_entries(after, site, weak[site], statistics=False))
        assert all(
            torch.equal(now, then)
            for now, then in zip(
                filter_entries(after, site, kept, statistics=False),
                filter_entries(before, site, kept, statistics=False),
                strict=True,
            )
        )


def test_finish_recomputes_batchnorm_statistics_without_the_weak() -> None:
    learner, hook = make()
    train(learner, hook, EPOCHS)
    hook.finish()
    after = entries(learner)
    for norm in NORMS:
        learner.state[f"{norm}.running_mean"].fill_(7.0)
    learner.recalibrate()
    assert same_bits(entries(learner), after)


def test_finish_with_rate_zero_changes_nothing() -> None:
    learner, hook = make(rate=0.0)
    train(learner, hook, 2)
    before = entries(learner)
    hook.finish()
    assert same_bits(entries(learner), before)


def test_hard_pruning_resumes_bit_for_bit() -> None:
    undisturbed, hook = make(schedule="hard")
    train(undisturbed, hook, 2)
    weights, hook_state = entries(undisturbed), {name: tensor.clone() for name, tensor in hook.state_dict().items()}
    resumed, resumed_hook = make(network=5, schedule="hard")
    resumed.load_state_dict(weights)
    resumed_hook.load_state_dict(hook_state)
    for epoch in (3, 4, 5):
        train(undisturbed, hook, epoch)
        train(resumed, resumed_hook, epoch)
        assert same_bits(resumed.state_dict(), undisturbed.state_dict())
    hook.finish()
    resumed_hook.finish()
    assert same_bits(resumed.state_dict(), undisturbed.state_dict())


def test_gradients_of_hard_pruned_filters_are_masked_after_resuming() -> None:
    learner, hook = make(schedule="hard")
    train(learner, hook, 2)
    resumed, resumed_hook = make(network=5, schedule="hard")
    resumed.load_state_dict(entries(learner))
    resumed_hook.load_state_dict(hook.state_dict())
    resumed.train_epoch()  # without before_epoch, which would zero them again
    assert silent_filters_are(resumed, zeroed(learner))


def test_recoverable_attenuation_has_no_state() -> None:
    learner, hook = make()
    train(learner, hook, 3)
    assert hook.state_dict() == {}


def test_random_scores_depend_on_seed_peer_and_epoch() -> None:
    pruned = []
    for seed, peer, epoch in [(0, 0, 1), (0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 2)]:
        learner, hook = make(seed=seed, peer=peer, schedule="soft", criterion="random")
        hook.before_epoch(epoch)
        pruned.append(zeroed(learner))
    assert [other == pruned[0] for other in pruned] == [True, True, False, False, False]


def test_bn_scale_criterion_reads_the_batchnorm_of_the_site() -> None:
    learner, hook = make(schedule="soft", rate=0.25, criterion="bn_scale")
    for norm, width in zip(NORMS, WIDTHS, strict=True):
        learner.state[f"{norm}.weight"].copy_(torch.linspace(1, -1.9, width))  # smallest in size where it crosses zero
    hook.before_epoch(1)
    scale_sizes = [[abs(1 - 2.9 * index / (width - 1)) for index in range(width)] for width in WIDTHS]
    assert zeroed(learner) == {
        site: sorted(sorted(range(len(sizes)), key=sizes.__getitem__)[: len(sizes) // 4])
        for site, sizes in enumerate(scale_sizes)
    }


def test_pruning_begins_at_its_start() -> None:
    learner, hook = make(schedule="hard", start=0.5)
    for epoch in range(1, EPOCHS):
        learner.train_epoch()
        hook.before_epoch(epoch)
        assert any(zeroed(learner).values()) == (epoch >= EPOCHS // 2)


def test_global_allocation_ranks_scores_relative_to_their_layers() -> None:
    learner, hook = make(schedule="soft", allocation="global", rate=0.5, criterion="l1")
    learner.train_epoch()
    norms = [learner.state[f"{conv}.weight"].flatten(1).abs().sum(1).double() for conv in CONVS]
    ranked = sorted(
        (float(norm / layer.square().sum().sqrt()), site, index)
        for site, layer in enumerate(norms)
        for index, norm in enumerate(layer)
    )
    hook.before_epoch(1)
    expected = {site: sorted(index for _, of, index in ranked[: sum(WIDTHS) // 2] if of == site) for site in range(3)}
    assert zeroed(learner) == expected


def test_scores_with_one_range_are_ranked_as_they_are() -> None:
    learner, hook = make(schedule="soft", allocation="global", rate=0.5, criterion="entropy")
    learner.train_epoch()
    scores = [filter_entropies(learner.state[f"{conv}.weight"]) for conv in CONVS]
    ranked = sorted((float(score), site, index) for site, of in enumerate(scores) for index, score in enumerate(of))
    hook.before_epoch(1)
    expected = {site: sorted(index for _, of, index in ranked[: sum(WIDTHS) // 2] if of == site) for site in range(3)}
    assert zeroed(learner) == expected


def test_clr_rnf_drops_all_but_the_recommended_filters() -> None:
    learner, hook = make(preset="clr_rnf", rate=0.6, flops_exponent=0.5)
    learner.train_epoch()
    weights = [learner.state[f"{conv}.weight"].clone() for conv in CONVS]
    flops = [flops_by_weight(learner.network, (3, 8, 8))[f"{conv}.weight"] for conv in CONVS]
    counts = cross_layer(weights, flops, 0.5, 0.6, [1, 1, 1])
    assert len(set(counts)) > 1
    hook.before_epoch(1)
    for site, (weight, count) in enumerate(zip(weights, counts, strict=True)):
        assert other_filters(zeroed(learner)[site], site) == k_reciprocal(weight, WIDTHS[site] - count).tolist()


def test_budget_weighs_scores_relative_to_their_layers() -> None:
    pytest.importorskip("torch_pruning", reason="needs torch-pruning, which cuts the filters out")
    method: dict[str, Any] = {
        "allocation": "budget",
        "criterion": "l1",
        "schedule": "hard",
        "coupled": "skip",
        "least_share": 0.3,
    }
    learner, hook = make(target=0.25, target_of="parameters", **method)
    learner.train_epoch()
    learner.state[f"{CONVS[1]}.weight"].mul_(100.0)  # which does not make the layer important
    norms = [learner.state[f"{conv}.weight"].flatten(1).abs().sum(1) for conv in CONVS]
    _, filters = three_site_learner()
    sites = [site.site for site in filters]
    plan = plan_pruning(PruningSettings(coupled="skip"), learner.network, sites, (3, 8, 8), "three sites")
    assert plan.size is not None
    share_left = partial(plan.size.smooth_share_left, "parameters")
    least = [math.ceil(0.3 * width) for width in WIDTHS]
    counts = budget([*map(normalized, norms)], share_left, 0.25, least)
    assert counts != budget(norms, share_left, 0.25, least)
    assert counts != budget([*map(normalized, norms)], partial(plan.size.smooth_share_left, "flops"), 0.25, least)
    hook.before_epoch(1)
    assert zeroed(learner) == {
        site: sorted(layer.argsort(stable=True)[:count].tolist())
        for site, (layer, count) in enumerate(zip(norms, counts, strict=True))
    }


@pytest.mark.parametrize(("preset", "of_preset"), PRESETS.items())
@pytest.mark.parametrize("kind", ["flops", "parameters"])
def test_target_is_met_by_every_preset(preset: str, of_preset: dict[str, str], kind: str) -> None:
    pytest.importorskip("torch_pruning", reason="needs torch-pruning, which cuts the filters out")
    coupled = of_preset.get("coupled", "skip")
    learner, hook = make(preset=preset, coupled=coupled, target=0.5, target_of=kind, ticks=1, tock_epochs=1, finetune=0)
    train(learner, hook, 2)
    hook.finish()
    measure = count_parameters if kind == "parameters" else partial(count_flops, image_shape=(3, 8, 8))
    sites = find_sites(learner.network, (3, 8, 8), "three sites", "conv_bn")
    small, _ = remove_dropped(learner.network, sites, (3, 8, 8), "three sites")
    unit = 1 / min(WIDTHS)  # of the narrowest layer; a wide network comes nearer
    assert measure(small) / measure(learner.network) == pytest.approx(0.5, abs=unit / 2)


@pytest.mark.parametrize("preset", ["asymptotic", "holistic"])
def test_target_grows_with_the_schedule(preset: str) -> None:
    pytest.importorskip("torch_pruning", reason="needs torch-pruning, which cuts the filters out")
    _, sites = three_site_learner()
    learner, hook = make(preset=preset, coupled="skip", target=0.4, target_of="parameters")
    plan = plan_pruning(
        PruningSettings(coupled="skip"), learner.network, [site.site for site in sites], (3, 8, 8), "three sites"
    )
    assert plan.size is not None
    for epoch in range(1, EPOCHS):
        learner.train_epoch()
        hook.before_epoch(epoch)
        left = plan.size.share_left("parameters", [len(zeroed(learner)[site]) for site in range(3)])
        assert left == pytest.approx(1 - 0.6 * growing(epoch, EPOCHS), abs=0.06)


def test_unreachable_target_is_refused() -> None:
    pytest.importorskip("torch_pruning", reason="needs torch-pruning, which cuts the filters out")
    with pytest.raises(ModelError, match=r"^pruning\.target: must be at least 0\.\d+ of the flops.*got 0\.001"):
        make(coupled="skip", target=0.001)


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_zero_filters_gradient_is_divided_by_sqrt_eps(eps: float) -> None:
    """docs/methods/ warns of the factor, 316 at torch's eps; other filters have 1 / (deviation of their output)."""
    generator = torch.Generator().manual_seed(0)
    images, weighting = (torch.randn(8, channels, 5, 5, generator=generator) for channels in (3, 1))
    convolution, norm = nn.Conv2d(3, 1, 1, bias=False), nn.BatchNorm2d(1, eps=eps)
    with torch.no_grad():
        convolution.weight.zero_()
    (norm(convolution(images)) * weighting).sum().backward()
    centered = weighting - weighting.mean()
    expected = (centered * images).sum((0, 2, 3)) / math.sqrt(eps)
    assert nn.BatchNorm2d(1).eps == 1e-5
    assert convolution.weight.grad is not None
    assert torch.allclose(convolution.weight.grad.flatten(), expected, rtol=1e-4)
