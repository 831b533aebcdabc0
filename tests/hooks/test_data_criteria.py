"""Criteria of training data, against gates and loops."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hook_makers import NORMS, WIDTHS, entries, three_site_learner
from network_makers import make_learner, same_bits
from site_networks import site_network
from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.hooks.data_criteria import DATA_CRITERIA, NUM_BATCHES, check_data_criterion
from graftpop.hooks.ranking import scores
from graftpop.sites import find_sites
from graftpop.training.filters import SiteFilters, site_filters
from graftpop.training.learner import Learner


def trained_learner() -> tuple[Learner, list[SiteFilters]]:
    learner, filters = three_site_learner()
    learner.train_epoch()
    for norm in NORMS:  # some units pass little, and some nothing
        learner.state[f"{norm}.bias"].copy_(torch.linspace(-1.5, 1.0, len(learner.state[f"{norm}.bias"])))
    return learner, filters


def linear_learner() -> tuple[Learner, list[SiteFilters]]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 10))
    learner = make_learner(network, batch_size=60)
    sites = [site for site in find_sites(network, (3, 8, 8), "linear", "all") if not site.is_output]
    return learner, site_filters(learner, sites)


Change = Callable[[int, Tensor], Tensor]


def losses_with(learner: Learner, modules: list[str], change: Change, seed: int) -> list[Tensor]:
    """Run the batches of a seed with a change of each module's output; return the losses."""
    handles = [
        learner.network.get_submodule(name).register_forward_hook(
            lambda _, __, output, index=index: change(index, output)
        )
        for index, name in enumerate(modules)
    ]
    losses = list(learner.losses(NUM_BATCHES, seed))
    for handle in handles:
        handle.remove()
    return losses


@pytest.mark.parametrize(
    ("made", "modules"), [(trained_learner, [*NORMS]), (linear_learner, ["1", "3"])], ids=["normalized", "linear"]
)
def test_taylor_is_the_size_of_the_gradient_of_a_gate(made: Any, modules: list[str]) -> None:
    learner, filters = made()
    gates = [torch.ones(site.num_filters, requires_grad=True) for site in filters]

    def gated(index: int, output: Tensor) -> Tensor:
        return output * gates[index].view(-1, *[1] * (output.dim() - 2))

    expected = [torch.zeros(site.num_filters) for site in filters]
    for loss in losses_with(learner, modules, gated, seed=3):
        for total, gradient in zip(expected, torch.autograd.grad(loss, gates), strict=True):
            total += gradient.abs()
    for found, wanted in zip(scores(learner, filters, "taylor", 3), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6 * float(wanted.max()))
        assert wanted.max() > 2 * wanted.min()


@pytest.mark.parametrize(
    ("criterion", "function"),
    [("activation", lambda output: output.clamp(min=0)), ("apoz", lambda output: (output > 0).double())],
)
def test_means_of_outputs_equal_a_loop(criterion: str, function: Callable[[Tensor], Tensor]) -> None:
    learner, filters = trained_learner()
    seen: list[list[Tensor]] = [[] for _ in filters]

    def recorded(index: int, output: Tensor) -> Tensor:
        seen[index].append(output.detach())
        return output

    losses_with(learner, [*NORMS], recorded, seed=5)
    for found, outputs in zip(scores(learner, filters, criterion, 5), seen, strict=True):
        rows = torch.cat([output.movedim(1, 0).flatten(1) for output in outputs], 1).double()
        expected = [float(function(row).mean()) for row in rows]
        assert found.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)
        assert len(set(expected)) > 3


@pytest.mark.parametrize("criterion", DATA_CRITERIA)
def test_scores_follow_the_seed_and_leave_the_network_as_it_is(criterion: str) -> None:
    learner, filters = trained_learner()
    before = entries(learner)
    one, same, other = (scores(learner, filters, criterion, seed) for seed in (1, 1, 2))
    assert same_bits(entries(learner), before)
    assert [of_site.shape for of_site in one] == [(width,) for width in WIDTHS]
    assert all(of_site.dtype == torch.float32 and not of_site.requires_grad for of_site in one)
    assert all(map(torch.equal, one, same))
    assert not all(map(torch.equal, one, other))
    learner.train_epoch()  # no hook is left behind


def test_an_epoch_of_many_batches_is_sampled() -> None:
    learner = make_learner(three_site_learner()[0].network, batch_size=4)
    assert learner.num_batches > 3
    assert len(list(learner.losses(3, 0))) == 3
    assert len(list(learner.losses(10**6, 0))) == learner.num_batches


def test_units_that_a_criterion_cannot_score_are_refused() -> None:
    vit = site_network("Vit")
    sites = [site for site in find_sites(vit, (3, 8, 8), "Vit", "all") if site.kind != "table"]
    for criterion in ("activation", "apoz"):
        with pytest.raises(ModelError, match=rf"^repr\.criterion: {criterion} cannot score 'attn\.qkv\.q' of 'Vit'"):
            check_data_criterion(criterion, sites, "Vit", "repr.criterion")
    check_data_criterion("taylor", sites, "Vit", "repr.criterion")
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(144, 10))
    with pytest.raises(ModelError, match=r"^pruning\.criterion: taylor cannot score '0' of 'plain'.*scale"):
        check_data_criterion("taylor", find_sites(plain, (3, 8, 8), "plain", "all"), "plain", "pruning.criterion")


def test_attention_heads_are_scored_by_their_own_gradients() -> None:
    learner = make_learner(site_network("Vit"))
    sites = [site for site in find_sites(learner.network, (3, 8, 8), "Vit", "all") if site.kind == "attention"]
    found = scores(learner, site_filters(learner, sites), "taylor", 0)
    expected = [torch.zeros(site.num_units) for site in sites]
    weight = learner.network.get_parameter("attn.qkv.weight")
    bias = learner.network.get_parameter("attn.qkv.bias")
    for loss in learner.losses(NUM_BATCHES, 0):
        of_weight, of_bias = torch.autograd.grad(loss, [weight, bias])
        products = (weight * of_weight).sum(1) + bias * of_bias
        for total, part in zip(expected, products.detach().chunk(3), strict=True):
            total += part.view(len(total), -1).sum(1).abs()
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-7)
