"""The hooks that settings ask for."""

import pytest
import torch
from hook_makers import three_site_learner
from safetensors.torch import load as tensors_from_bytes
from space_makers import make_settings

from graftpop.hooks.build import make_hooks
from graftpop.hooks.ranking import scores
from graftpop.ops.criteria import Filters, bn_activation
from graftpop.peer.peer import Peer


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ({"graft": {}}, []),
        ({"graft": {"source": "noise"}}, ["NoiseScions"]),
        ({"graft": {"source": "internal"}}, ["InternalScions"]),
        ({"repr": {"S1": 1, "S2": 1, "N": 1}, "attenuation": None}, ["RePr"]),
        ({"swa": {}, "attenuation": {}}, ["Attenuation", "StochasticWeightAveraging"]),
    ],
)
def test_hooks_follow_the_sections(section: dict[str, object], names: list[str]) -> None:
    learner, filters = three_site_learner()
    settings = make_settings(training={"epochs": 4}, **section)
    assert [type(hook).__name__ for hook in make_hooks(settings, learner, filters, 0)] == names


def test_weight_averaging_of_the_last_epoch_alone_keeps_its_weights() -> None:
    averaged = Peer(make_settings(training={"epochs": 4}, swa={"start": 0.75}), 0)
    plain = Peer(make_settings(training={"epochs": 4}), 0)
    for peer in (averaged, plain):
        peer.train(4)
    one, other = (tensors_from_bytes(peer.save()) for peer in (averaged, plain))
    for name in ("conv1.weight", "bn2.bias", "classifier.weight"):
        assert torch.equal(one[f"network/{name}"], other[f"network/{name}"])


def test_scores_use_the_batchnorms_shift() -> None:
    _, filters = three_site_learner()
    generator = torch.Generator()
    for site, found in zip(filters, scores(filters, "bn_activation", generator), strict=True):
        assert site.shift is not None
        site.shift.copy_(torch.linspace(-2.0, 2.0, len(site.shift)))
        (score,) = scores([site], "bn_activation", generator)
        assert torch.equal(score, bn_activation(Filters(site.weight, site.scale, site.shift), generator))
        assert not torch.equal(score, found)
