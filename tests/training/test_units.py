"""Units of every kind are dropped, revived, copied and masked with all that belongs to them, and nothing else."""

from collections.abc import Iterator

import pytest
import torch
from network_makers import make_learner
from site_networks import NETWORKS, FusedAttention, site_network
from torch import Tensor

from graftpop.sites import Part, Site, find_sites
from graftpop.training.filters import SiteFilters, filters_of_units, mask_dropped, site_filters
from graftpop.training.learner import Learner

State = dict[str, Tensor]
ZEROED = ("bias", "scale", "shift")
RESET = {"bias": 0.0, "scale": 1.0, "shift": 0.0, "mean": 0.0, "variance": 1.0}
TRAINED = ("Fused", "HeadFirst", "TorchAttention", "Transposed", "ConvNext", "Perceptron", "Recurrent")


def trained(name: str, num_epochs: int = 1) -> tuple[Learner, list[SiteFilters]]:
    learner = make_learner(site_network(name), batch_size=90)
    for _ in range(num_epochs):
        learner.train_epoch()
    return learner, site_filters(learner, find_sites(learner.network, (3, 8, 8), name, "all"))


def state_of(learner: Learner) -> State:
    tied = {f"network/{name}" for name in learner.network.state_dict()}
    tied -= {f"network/{name}" for name in (*learner.state.integers, *(entry.name for entry in learner.state.entries))}
    return {name: tensor.clone() for name, tensor in learner.state_dict().items() if name not in tied}


def block(tensor: Tensor, part: Part, num_units: int, unit: int) -> Tensor:
    """Return the entries of one unit, by the definition of a part."""
    size = part.length // num_units
    return tensor.narrow(part.axis, part.start + unit * size, size)


def parts_of(site: Site) -> Iterator[tuple[str, Part]]:
    yield "weight", site.weight
    yield from ((entry.role, entry.part) for entry in site.entries)


def clear_momentum(state: State, site: Site, unit: int) -> None:
    """Zero the momentum of everything that is zero in a dropped unit."""
    for role, part in parts_of(site):
        if role in ("weight", *ZEROED) and f"momentum/{part.tensor}" in state:
            block(state[f"momentum/{part.tensor}"], part, site.num_units, unit).zero_()


def differing(found: State, expected: State) -> list[str]:
    assert found.keys() == expected.keys()
    return [name for name in found if not torch.equal(found[name], expected[name])]


@pytest.mark.parametrize("name", NETWORKS)
def test_drop_revive_and_copy_change_the_entries_of_their_units_only(name: str) -> None:
    learner, filters = trained(name)
    for units in filters:
        site, last = units.site, units.num_filters - 1
        expected = state_of(learner)
        if last > 0:
            units.copy_(torch.tensor([last]), torch.tensor([0]))
            for _, part in parts_of(site):
                tensor = expected[f"network/{part.tensor}"]
                block(tensor, part, site.num_units, last).copy_(block(tensor, part, site.num_units, 0))
            assert differing(state_of(learner), expected) == [], site.name
        units.drop_(torch.tensor([last]))
        for role, part in parts_of(site):
            if role in ("weight", *ZEROED):
                block(expected[f"network/{part.tensor}"], part, site.num_units, last).zero_()
        clear_momentum(expected, site, last)
        assert differing(state_of(learner), expected) == [], site.name
        new = torch.randn(1, *units.weight.shape[1:], generator=torch.Generator().manual_seed(0))
        units.revive_(torch.tensor([last]), new)
        for role, part in parts_of(site):
            if role in RESET:
                block(expected[f"network/{part.tensor}"], part, site.num_units, last).fill_(RESET[role])
        revived = block(expected[f"network/{site.weight.tensor}"], site.weight, site.num_units, last)
        revived.copy_(block(learner.state[site.weight.tensor], site.weight, site.num_units, last))
        assert torch.equal(revived.flatten().sort().values, new.flatten().sort().values)
        assert torch.equal(units.weight[last], new[0])
        assert differing(state_of(learner), expected) == [], site.name


@pytest.mark.parametrize("name", TRAINED)
def test_masked_units_stay_zero_and_every_other_unit_trains(name: str) -> None:
    """Unit 0 of the first site is dropped, unit 1 of the second, and so on: parts of one tensor differ."""
    learner, filters = trained(name)
    dropped = [torch.tensor([place % units.num_filters]) for place, units in enumerate(filters)]
    dropped[-1] = dropped[-1][:0]  # of the output layer
    for units, indices in zip(filters, dropped, strict=True):
        units.drop_(indices)
    mask_dropped(learner, filters, dropped)
    before = state_of(learner)
    learner.train_epoch()
    after = state_of(learner)
    for units, indices in zip(filters, dropped, strict=True):
        for role, part in parts_of(units.site):
            if role not in ("weight", *ZEROED):
                continue
            for unit in range(units.num_filters):
                now, then = (
                    block(state[f"network/{part.tensor}"], part, units.num_filters, unit) for state in (after, before)
                )
                if unit in indices:
                    assert not now.any(), (part, unit)
                    momentum = after[f"momentum/{part.tensor}"]
                    assert not block(momentum, part, units.num_filters, unit).any(), (part, unit)
                else:
                    assert now.any(), (part, unit)
                    assert not torch.equal(now, then) or len(indices) == units.num_filters, (part, unit)
    mask_dropped(learner, filters, [indices[:0] for indices in dropped])
    learner.train_epoch()
    first = [block(learner.state[part.tensor], part, filters[0].num_filters, 0) for part in filters[0].dropped_parts]
    assert any(bool(tensor.any()) for tensor in first)  # no longer masked


def test_heads_of_two_matrices_in_one_tensor_share_its_mask() -> None:
    learner, filters = trained("Fused")
    of = {units.site.name: units for units in filters}
    query, value = of["attn.qkv.q"], of["attn.qkv.v"]
    for units, head in ((query, 0), (value, 1)):
        units.drop_(torch.tensor([head]))
    mask_dropped(learner, [query, value], [torch.tensor([0]), torch.tensor([1])])
    learner.train_epoch()
    rows = learner.state["attn.qkv.weight"].any(1).tolist()
    assert rows == [False] * 4 + [True] * 4 + [True] * 8 + [True] * 4 + [False] * 4
    assert learner.state["attn.qkv.bias"].ne(0).tolist() == rows


@pytest.mark.parametrize("is_training", [True, False])
def test_dropped_value_head_gives_zeros_to_the_projection(is_training: bool) -> None:
    learner, filters = trained("Fused")
    attention = learner.network.get_submodule("attn")
    assert isinstance(attention, FusedAttention)
    entered: list[Tensor] = []
    attention.proj.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    (value,) = (units for units in filters if units.site.name == "attn.qkv.v")
    value.drop_(torch.tensor([1]))
    with torch.no_grad():
        learner.network.train(is_training)(torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert entered[0][..., :4].abs().sum(-1).all()
    assert not entered[0][..., 4:].any()


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize(
    ("name", "layer", "norm", "unit", "channels"),
    [
        ("Transposed", "up", "bn", 2, [2]),
        ("Transposed", "grouped", "group_norm", 1, [2, 3]),
        ("ConvNext", "stem", "stem_norm", 3, [3]),
        ("ConvNext", "conv_dw", "norm", 5, [5]),
        ("Perceptron", "first", "layer_norm", 4, [4]),
        ("TwoDimensions", "depthwise", "group_norm", 7, [7]),
        ("TwoDimensions", "grouped", "prelu", 0, [0]),
    ],
)
def test_dropped_unit_leaves_its_normalization_as_zeros(
    name: str, layer: str, norm: str, unit: int, channels: list[int], is_training: bool
) -> None:
    learner, filters = trained(name)
    outputs: list[Tensor] = []
    learner.network.get_submodule(norm).register_forward_hook(lambda _, __, output: outputs.append(output))
    (units,) = (units for units in filters if units.site.name == layer)
    units.drop_(torch.tensor([unit]))
    with torch.no_grad():
        learner.network.train(is_training)(torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    (output,) = outputs
    by_channel = output.movedim(-1 if norm == "norm" else 1, 0).flatten(1)
    assert torch.nonzero(~by_channel.any(1)).flatten().tolist() == channels


def test_unit_of_several_channels_has_the_mean_of_absolute_scales_and_of_shifts() -> None:
    scale, shift = torch.tensor([[0.5, -0.5], [1.0, 3.0]]), torch.tensor([[0.5, -0.5], [1.0, 3.0]])
    filters = filters_of_units(torch.zeros(2, 2, 3), scale, shift)
    assert filters.scale is not None
    assert filters.shift is not None
    assert (filters.scale.tolist(), filters.shift.tolist()) == ([0.5, 2.0], [0.0, 2.0])
    single = filters_of_units(torch.zeros(2, 3), torch.tensor([-1.0, 2.0]), None)
    assert single.scale is not None
    assert (single.scale.tolist(), single.shift) == ([-1.0, 2.0], None)
