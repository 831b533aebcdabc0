"""Criteria of training data, against gates and loops."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hook_makers import NORMS, WIDTHS, entries, three_site_learner
from network_makers import make_learner, same_bits
from site_networks import site_network
from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.hooks.data_criteria import DATA_CRITERIA, NUM_BATCHES
from graftpop.hooks.interaction import utilization
from graftpop.hooks.ranking import check_criterion, scores
from graftpop.hooks.unit_outputs import per_unit, unit_outputs
from graftpop.models.flops import flops_by_weight
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


class Permuted(nn.Module):
    """A layer whose normalization sees its output with another order of axes, as in ConvNeXt."""

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.layer, self.norm, self.head = layer, norm, nn.Linear(12, 10)

    def forward(self, images: Tensor) -> Tensor:
        if isinstance(self.layer, nn.Linear):  # (B, 24, 8) to (B, 12, 24)
            features = self.norm(self.layer(images.flatten(1, 2)).transpose(1, 2)).mean(2)
        else:
            features = self.norm(self.layer(images).permute(0, 2, 3, 1)).mean((1, 2))
        logits: Tensor = self.head(features)
        return logits


@pytest.mark.parametrize(
    ("layer", "norm", "axis"),
    [
        (nn.Linear(8, 12), nn.BatchNorm1d(12), 1),
        (nn.Conv2d(3, 12, 3), nn.LayerNorm(12), -1),
        (nn.Conv2d(3, 12, 3), type("OwnLayerNorm", (nn.LayerNorm,), {})(12), -1),
    ],
    ids=["linear", "convolution", "subclass"],
)
def test_units_are_on_the_axis_of_their_normalization(layer: nn.Module, norm: nn.Module, axis: int) -> None:
    learner = make_learner(Permuted(layer, norm), batch_size=60)
    sites = [site for site in find_sites(learner.network, (3, 8, 8), "permuted", "all") if not site.is_output]
    filters, seen = site_filters(learner, sites), list[Tensor]()

    def note(_: int, output: Tensor) -> Tensor:
        seen.append(output.detach().relu().movedim(axis, -1).flatten(0, -2))
        return output

    losses_with(learner, ["norm"], note, seed=3)
    (found,) = scores(learner, filters, "activation", 3)
    assert torch.allclose(found, torch.cat(seen).mean(0), atol=1e-6)
    (gates,) = scores(learner, filters, "dagger", 3)
    assert gates.shape == (12,)


@pytest.mark.parametrize("criterion", ["taylor", "torch_pruning:TaylorImportance"])
def test_frozen_parameters_change_no_score_of_gradients(criterion: str) -> None:
    if criterion != "taylor":
        pytest.importorskip("torch_pruning", reason="needs torch-pruning, whose importance this is")
    learner, filters = trained_learner()
    expected = scores(learner, filters, criterion, 3)
    learner.network.get_submodule("1").requires_grad_(False)
    found = scores(learner, filters, criterion, 3)
    assert all(map(torch.equal, found, expected))
    assert not any(parameter.requires_grad for parameter in learner.network.get_submodule("1").parameters())


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


def log_likelihood(learner: Learner, inputs: Tensor, targets: Tensor) -> float:
    learner.network.eval()
    with torch.no_grad():
        return -float(F.cross_entropy(learner.network(inputs), targets))


def test_values_of_a_layers_units_sum_to_that_of_the_layer() -> None:
    learner, filters = trained_learner()
    inputs, targets = learner.sample(16, 4)
    assert len(inputs) == 16
    whole = log_likelihood(learner, inputs, targets)
    for norm, found in zip(NORMS, scores(learner, filters, "interaction", 4), strict=True):
        module = learner.network.get_submodule(norm)
        handle = module.register_forward_hook(lambda _, __, output: torch.zeros_like(output))
        without = log_likelihood(learner, inputs, targets)
        handle.remove()
        assert float(found.sum()) == pytest.approx(whole - without, rel=1e-4, abs=1e-5)


def test_values_of_few_units_are_their_mean_contributions_over_all_orders() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3), nn.ReLU(), nn.Linear(3, 10))
    learner = make_learner(network, batch_size=60)
    for _ in range(3):
        learner.train_epoch()
    (site,) = (site for site in find_sites(network, (3, 8, 8), "linear", "all") if not site.is_output)
    inputs, targets = learner.sample(3 * learner.num_images // (2 + 4 * 2), 2)  # as many as an epoch pays for
    parameters = (network.get_parameter("1.weight"), network.get_parameter("1.bias"))

    @torch.no_grad()
    def value(members: frozenset[int]) -> float:
        before = [parameter.clone() for parameter in parameters]
        for parameter in parameters:
            parameter[sorted({0, 1, 2} - members)] = 0.0
        found = log_likelihood(learner, inputs, targets)
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(old)
        return found

    expected = [0.0] * 3
    for order in permutations(range(3)):
        for place, unit in enumerate(order):
            earlier = frozenset(order[:place])
            expected[unit] += (value(earlier | {unit}) - value(earlier)) / 6
    (found,) = scores(learner, site_filters(learner, [site]), "interaction", 2)
    assert found.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_values_cost_no_more_than_an_epoch() -> None:
    learner, filters = linear_learner()
    images = 0

    def count(_: nn.Module, arguments: tuple[Tensor]) -> None:
        nonlocal images
        images += len(arguments[0])

    handle = learner.network.register_forward_pre_hook(count)
    scores(learner, filters, "interaction", 0)
    handle.remove()
    assert 0 < images <= max(3 * learner.num_images, 16 * (2 + 4 * 8 + 2 + 4 * 6))


def test_layer_of_silent_units_needs_none_of_them_together() -> None:
    learner, filters = trained_learner()
    learner.state["4.weight"].zero_()
    learner.state["4.bias"].zero_()
    first, silent, third = utilization(learner, filters, 0)
    assert silent == 0.0
    assert third > 0.0 == first  # nothing passes the silent layer
    assert not scores(learner, filters, "interaction", 0)[1].any()


def test_gates_lower_the_objective_and_close_silent_layers() -> None:
    learner, filters = trained_learner()
    learner.state["4.weight"].zero_()
    learner.state["4.bias"].zero_()
    gates = scores(learner, filters, "dagger", 0)
    assert all(0 < gate < 1 for of_site in gates for gate in of_site.tolist())
    assert gates[1].mean() < torch.tensor(2.0).sigmoid()
    flops = flops_by_weight(learner.network, (3, 8, 8))
    costs = [flops[site.site.weight.tensor] for site in filters]

    def objective(of_sites: list[Tensor]) -> float:
        with unit_outputs(learner, filters, lambda index, output: output * per_unit(of_sites[index], output)):
            loss = sum(float(one.detach()) for one in learner.losses(NUM_BATCHES, 7)) / learner.num_batches
        means = [float(of_site.mean()) for of_site in of_sites]
        return loss + sum(cost * mean for cost, mean in zip(costs, means, strict=True)) / sum(costs)

    assert objective(gates) < objective([torch.full_like(of_site, 0.88) for of_site in gates])


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
            check_criterion(criterion, sites, "Vit", "repr.criterion")
    check_criterion("taylor", sites, "Vit", "repr.criterion")
    for criterion in ("bn_scale", "bn_activation"):
        with pytest.raises(ModelError, match=rf"^repr\.criterion: {criterion} cannot score .* of 'Vit'.*normalization"):
            check_criterion(criterion, sites, "Vit", "repr.criterion")
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(144, 10))
    with pytest.raises(ModelError, match=r"^pruning\.criterion: taylor cannot score '0' of 'plain'.*scale"):
        check_criterion("taylor", find_sites(plain, (3, 8, 8), "plain", "all"), "plain", "pruning.criterion")


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
