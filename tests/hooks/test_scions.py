"""Noise and internal scions change the invalid filters of a network only."""

from collections.abc import Sequence

import pytest
import torch
from hook_makers import CONVS, NORMS, WIDTHS, entries, three_site_learner
from network_makers import same_bits
from torch import Tensor

from graftpop.hooks.scions import InternalScions, NoiseScions
from graftpop.training.filters import SiteFilters
from graftpop.training.learner import Learner

THRESHOLD = 0.1


def with_invalid(num_invalid: Sequence[int] = (2, 5, 3), *, trained: int = 1) -> tuple[Learner, list[SiteFilters]]:
    """Return a trained learner whose first filters of each site are invalid, with rising L1 norms."""
    learner, filters = three_site_learner()
    for _ in range(trained):
        learner.train_epoch()
    for site, num in zip(filters, num_invalid, strict=True):
        for index in range(num):
            site.weight[index] *= 0.008 * (index + 1) / site.weight[index].abs().sum()
    return learner, filters


def noise(filters: list[SiteFilters], *, base: float = 0.5, seed: int = 0, peer: int = 0) -> NoiseScions:
    return NoiseScions(filters, threshold=THRESHOLD, base=base, seed=seed, peer=peer)


def noise_of(epoch: int, *, base: float = 0.5, seed: int = 0, peer: int = 0) -> list[Tensor]:
    """Return the noise added to the invalid filters of each site."""
    _, filters = with_invalid()
    before = [site.weight.clone() for site in filters]
    noise(filters, base=base, seed=seed, peer=peer).before_epoch(epoch)
    return [(site.weight - old)[:num] for site, old, num in zip(filters, before, (2, 5, 3), strict=True)]


def test_noise_changes_every_weight_of_invalid_filters_only() -> None:
    learner, filters = with_invalid()
    before = entries(learner)
    noise(filters).before_epoch(1)
    after = entries(learner)
    for conv, num_invalid in zip(CONVS, (2, 5, 3), strict=True):
        changed = after[f"network/{conv}.weight"] != before[f"network/{conv}.weight"]
        assert changed[:num_invalid].all()
        assert not changed[num_invalid:].any()
    rest = [name for name in after if name not in {f"network/{conv}.weight" for conv in CONVS}]
    assert same_bits({name: after[name] for name in rest}, {name: before[name] for name in rest})


def test_network_without_invalid_filters_is_unchanged() -> None:
    learner, filters = with_invalid((0, 0, 0))
    before = entries(learner)
    noise(filters).before_epoch(1)
    InternalScions(filters, threshold=THRESHOLD).before_epoch(1)
    assert same_bits(entries(learner), before)


def test_noise_depends_on_seed_peer_epoch_and_site() -> None:
    first = noise_of(1)
    assert all(map(torch.equal, first, noise_of(1)))
    for other in (noise_of(1, seed=1), noise_of(1, peer=1)):
        assert not any(map(torch.equal, first, other))
    assert not torch.allclose(noise_of(2)[2] / 0.5**2, first[2] / 0.5, atol=0.1)
    num = first[0].numel()
    assert not torch.allclose(first[0].flatten(), first[1].flatten()[:num], atol=0.1)


@pytest.mark.parametrize("base", [0.5, 0.975])
def test_noise_deviation_is_a_power_of_the_base(base: float) -> None:
    for epoch in (1, 2, 10):
        drawn = torch.cat([site_noise.flatten() for site_noise in noise_of(epoch, base=base)])
        assert len(drawn) == 2 * 27 + 5 * 72 + 3 * 108
        assert drawn.std().item() == pytest.approx(base**epoch, rel=0.1)  # the estimate itself deviates by 2.6 %
        assert drawn.mean().abs().item() < 0.15 * base**epoch


def test_noise_keeps_torchs_global_random_state() -> None:
    _, filters = with_invalid()
    before = torch.get_rng_state()
    noise(filters).before_epoch(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_weakest_filters_become_the_strongest_with_their_batchnorm_entries() -> None:
    learner, filters = with_invalid(trained=2)
    expected = entries(learner)
    for site, num_invalid in enumerate((2, 5, 3)):
        norms = [row.abs().double().sum().item() for row in expected[f"network/{CONVS[site]}.weight"]]
        ranked = sorted(range(WIDTHS[site]), key=norms.__getitem__)
        assert [norms[index] < THRESHOLD for index in ranked] == [True] * num_invalid + [False] * (
            WIDTHS[site] - num_invalid
        )
        for place in range(num_invalid):
            for module in (CONVS[site], NORMS[site]):
                for key in ("weight", "bias", "running_mean", "running_var"):
                    if (tensor := expected.get(f"network/{module}.{key}")) is not None:
                        tensor[ranked[place]] = tensor[ranked[-1 - place]]
    InternalScions(filters, threshold=THRESHOLD).before_epoch(2)
    assert same_bits(entries(learner), expected)  # the momentum is unchanged


def test_invalid_filter_without_a_valid_donor_is_unchanged() -> None:
    learner, filters = with_invalid((8, 11, 6))
    before = [site.weight.clone() for site in filters]
    InternalScions(filters, threshold=THRESHOLD).before_epoch(1)
    changed = [
        [index for index, row in enumerate(site.weight) if not torch.equal(row, old[index])]
        for site, old in zip(filters, before, strict=True)
    ]
    assert changed == [[], [0], [0, 1, 2, 3]]
    assert torch.equal(learner.state["3.weight"][0], before[1][11])


def test_copied_filters_diverge_in_training() -> None:
    """A donor and its copy have different momenta and different weights in the next layer."""
    learner, filters = with_invalid((1, 0, 0))
    donor = int(filters[0].weight.abs().sum((1, 2, 3)).argmax())
    InternalScions(filters, threshold=THRESHOLD).before_epoch(1)
    assert torch.equal(filters[0].weight[0], filters[0].weight[donor])
    learner.train_epoch()
    assert not torch.allclose(filters[0].weight[0], filters[0].weight[donor], atol=1e-4)


def test_scion_hooks_have_no_state() -> None:
    learner, filters = with_invalid()
    hooks = [noise(filters), InternalScions(filters, threshold=THRESHOLD)]
    for hook in hooks:
        hook.before_epoch(1)
    before = entries(learner)
    for hook in hooks:
        assert hook.state_dict() == {}
        hook.load_state_dict({})
        hook.finish()
    assert same_bits(entries(learner), before)
