"""The importances of torch-pruning as criteria, against formulas and against torch-pruning's own groups."""

from typing import Any

import pytest
import torch
from hook_makers import CONVS, NORMS, WIDTHS, entries, three_site_learner, train
from network_makers import make_learner, same_bits
from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.hooks.data_criteria import NUM_BATCHES
from graftpop.hooks.pruning import Pruning
from graftpop.hooks.pruning_plan import plan_pruning
from graftpop.hooks.ranking import check_criterion, scores
from graftpop.hooks.torch_pruning_criteria import TORCH_PRUNING_CRITERIA
from graftpop.models.flops import count_flops
from graftpop.settings import PruningSettings
from graftpop.sites import find_sites
from graftpop.training.filters import SiteFilters, site_filters
from graftpop.training.learner import Learner
from graftpop.training.removal import remove_dropped

torch_pruning = pytest.importorskip("torch_pruning", reason="needs torch-pruning, whose importances these are")

SEED = 3


class Residual(nn.Module):
    """A block whose output two convolutions write."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.inner_norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.outer, self.outer_norm = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.side, self.side_norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.outer_norm(self.outer(self.inner_norm(self.inner(x)).relu()))
        result: Tensor = self.head((out + self.side_norm(self.side(x))).relu().mean((2, 3)))
        return result


def residual_learner() -> tuple[Learner, list[SiteFilters]]:
    torch.manual_seed(0)
    learner = make_learner(Residual(), batch_size=60)
    return learner, site_filters(learner, find_sites(learner.network, (3, 8, 8), "residual", "conv_bn"))


def gradients(learner: Learner) -> dict[str, Tensor]:
    """Return the mean gradient over the batches of the seed."""
    learner.network.zero_grad()
    losses = list(learner.losses(NUM_BATCHES, SEED))
    assert len(losses) == 3
    torch.stack(losses).mean().backward()
    found = {
        name: weight.grad.clone() for name, weight in learner.network.named_parameters() if weight.grad is not None
    }
    learner.network.zero_grad()
    return found


def rows(weight: Tensor, axis: int) -> Tensor:
    return weight.detach().transpose(0, axis).flatten(1)


def expected_between(name: str, learner: Learner, site: int) -> Tensor:
    """Return the scores of a convolution's filters: the mean over what writes, normalizes and reads them."""
    weights, slopes = dict(learner.network.named_parameters()), gradients(learner)
    writer, reader = f"{CONVS[site]}.weight", f"{CONVS[site + 1]}.weight"
    written, read = rows(weights[writer], 0), rows(weights[reader], 1)
    scale = weights[f"{NORMS[site]}.weight"].detach()
    of_layers = {
        "MagnitudeImportance": lambda: [written.square().sum(1), scale.square(), read.square().sum(1)],
        "BNScaleImportance": lambda: [scale.abs()],
        "TaylorImportance": lambda: [
            (written * rows(slopes[writer], 0)).abs().sum(1),
            (read * rows(slopes[reader], 1)).abs().sum(1),
        ],
        "FPGMImportance": lambda: [torch.cdist(one, one).sum(0) for one in (written.square(), read.square())],
    }
    total = torch.stack(of_layers[name]()).sum(0)
    return total / total.mean()


@pytest.mark.parametrize("site", [0, 1])
@pytest.mark.parametrize("name", ["MagnitudeImportance", "BNScaleImportance", "TaylorImportance", "FPGMImportance"])
def test_scores_follow_the_formula_and_change_nothing(name: str, site: int) -> None:
    learner, filters = three_site_learner()
    learner.train_epoch()
    for norm, width in zip(NORMS, WIDTHS, strict=True):
        learner.state[f"{norm}.weight"].copy_(torch.linspace(0.2, 1.5, width))
    before = entries(learner)
    found = scores(learner, filters, f"torch_pruning:{name}", SEED)
    assert same_bits(before, entries(learner))
    expected = expected_between(name, learner, site)
    assert torch.allclose(found[site], expected, rtol=1e-3)
    assert expected.max() > 1.02 * expected.min()


@pytest.mark.parametrize("criterion", TORCH_PRUNING_CRITERIA)
def test_scores_of_a_group_sum_to_those_of_torch_pruning(criterion: str) -> None:
    learner, filters = residual_learner()
    learner.train_epoch()
    found = scores(learner, filters, criterion, SEED)
    of_sites = {site.site.layer: scores_U for site, scores_U in zip(filters, found, strict=True)}
    for name, slope in gradients(learner).items():
        learner.network.get_parameter(name).grad = slope
    network = learner.network.eval()
    score = getattr(torch_pruning.importance, criterion.partition(":")[2])()
    graph = torch_pruning.DependencyGraph().build_dependency(network, torch.randn(1, 3, 8, 8), verbose=False)
    groups = {
        frozenset(names[item.dep.target.module] for item in group if item.dep.target.module in names): group
        for names in [{network.get_submodule(layer): layer for layer in of_sites}]
        for group in graph.get_all_groups(ignored_layers=[network.head], root_module_types=[nn.Conv2d])
    }
    assert set(groups) == {frozenset({"inner", "outer"}), frozenset({"outer", "side"})}  # outer reads the inner one
    for members, group in groups.items():
        writers = [layer for layer in members if layer == "inner" or "inner" not in members]
        total = torch.stack([of_sites[layer] for layer in writers]).sum(0)
        assert torch.allclose(total, score(group), rtol=1e-4)
        assert float(total.mean()) == pytest.approx(1.0, rel=1e-4)


def pruned(criterion: str, **settings: Any) -> float:
    learner, filters = residual_learner()
    pruning = PruningSettings.model_validate(
        {"criterion": criterion, "allocation": "global", "schedule": "hard", "coupled": "sum", "target": 0.5} | settings
    )
    sites = [site.site for site in filters]
    plan = plan_pruning(pruning, learner.network, sites, (3, 8, 8), "residual")
    hook = Pruning(learner, filters, pruning, plan, epochs=3, seed=0, peer=0)
    train(learner, hook, 2)
    hook.finish()
    small, _ = remove_dropped(learner.network, sites, (3, 8, 8), "residual")
    return count_flops(small, (3, 8, 8)) / count_flops(learner.network, (3, 8, 8))


@pytest.mark.parametrize("criterion", TORCH_PRUNING_CRITERIA)
def test_target_is_met(criterion: str) -> None:
    assert pruned(criterion) == pytest.approx(0.5, abs=1 / 12)  # half of the share of a unit of the narrowest layer


def test_bn_scale_needs_a_batchnorm() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    sites = [site for site in find_sites(network, (3, 8, 8), "plain", "all") if not site.is_output]
    check_criterion("torch_pruning:MagnitudeImportance", sites, "plain", "pruning.criterion")
    with pytest.raises(ModelError, match=r"^pruning\.criterion: torch_pruning:BNScaleImportance .*'0.*BatchNorm"):
        check_criterion("torch_pruning:BNScaleImportance", sites, "plain", "pruning.criterion")
