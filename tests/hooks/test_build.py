"""The hooks that settings ask for."""

import pytest
import torch
from hook_makers import three_site_learner
from network_makers import make_learner
from safetensors.torch import load as tensors_from_bytes
from site_networks import site_network
from space_makers import make_settings

from graftpop.hooks.build import make_hooks
from graftpop.hooks.ranking import scores
from graftpop.ops.criteria import Filters, bn_activation
from graftpop.peer.peer import Peer
from graftpop.peer.sites import pruning_plan_of
from graftpop.sites import find_sites
from graftpop.training.filters import site_filters


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ({"graft": {}}, []),
        ({"graft": {"source": "noise"}}, ["NoiseScions"]),
        ({"graft": {"source": "internal"}}, ["InternalScions"]),
        ({"repr": {"S1": 1, "S2": 1, "N": 1}, "pruning": None}, ["RePr"]),
        ({"swa": {}, "pruning": {}}, ["Pruning", "StochasticWeightAveraging"]),
    ],
)
def test_hooks_follow_the_sections(section: dict[str, object], names: list[str]) -> None:
    learner, filters = three_site_learner()
    settings = make_settings(training={"epochs": 4}, **section)
    plan = pruning_plan_of(settings, learner.network, [site.site for site in filters], (3, 8, 8))
    assert [type(hook).__name__ for hook in make_hooks(settings, learner, filters, 0, plan)] == names


def test_weight_averaging_of_the_last_epoch_alone_keeps_its_weights() -> None:
    averaged = Peer(make_settings(training={"epochs": 4}, swa={"start": 0.75}), 0)
    plain = Peer(make_settings(training={"epochs": 4}), 0)
    for peer in (averaged, plain):
        peer.train(4)
    one, other = (tensors_from_bytes(peer.save()) for peer in (averaged, plain))
    for name in ("conv1.weight", "bn2.bias", "classifier.weight"):
        assert torch.equal(one[f"network/{name}"], other[f"network/{name}"])


def test_scores_use_the_batchnorms_shift() -> None:
    learner, filters = three_site_learner()
    for site, found in zip(filters, scores(learner, filters, "bn_activation", 0), strict=True):
        scale, shift = site.entry("scale"), site.entry("shift")
        assert shift is not None
        shift.copy_(torch.linspace(-2.0, 2.0, len(shift)))
        (score,) = scores(learner, [site], "bn_activation", 0)
        assert torch.equal(score, bn_activation(Filters(site.weight, scale, shift), torch.Generator()))
        assert not torch.equal(score, found)


def test_score_of_a_unit_with_several_channels_uses_their_mean_scale() -> None:
    learner = make_learner(site_network("Transposed"))
    sites = find_sites(learner.network, (3, 8, 8), "Transposed", "all")
    (group,) = (units for units in site_filters(learner, sites) if units.site.name == "grouped")
    learner.state["group_norm.weight"].copy_(torch.tensor([0.5, 1.5, 3.0, 1.0]))
    (found,) = scores(learner, [group], "bn_scale", 0)
    assert found.tolist() == [1.0, 2.0]
