"""Grafts of networks of every kind equal a slow reference: loops over sites, their units and named tensors."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import pytest
import references
import torch
from graft_makers import graft_, make_grafting, published
from network_makers import copied, same_bits
from site_networks import NETWORKS, site_network
from torch import Tensor, nn

from graftpop.sites import Part, Site, find_sites
from graftpop.sites.find import SiteChoice
from graftpop.training.flat_state import FlatState

A = 0.8
STEEPNESS = {"entropy": 5.0, "l1": 0.1}
State = dict[str, Tensor]


def state_of(network: nn.Module) -> State:
    """Return a copy of a network's state, a tied weight under its first name."""
    names = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
    return {name: tensor for name, tensor in copied(network.state_dict()).items() if name in names}


def slices(part: Part, num_units: int) -> Iterator[tuple[slice, ...]]:
    """Yield the index of each unit in the tensor of a part."""
    size = part.length // num_units
    for unit in range(num_units):
        start = part.start + unit * size
        yield (*[slice(None)] * part.axis, slice(start, start + size))


def slow_alphas(
    ours: State, theirs: State, sites: Sequence[Site], level: str, criterion: str
) -> tuple[list[float], list[list[float]]]:
    """Return the alpha of each site, and that of each of its units."""
    score: Callable[[Tensor], float] = {
        "entropy": lambda values: references.entropy(values.flatten()),
        "l1": lambda values: float(values.double().abs().sum()),
    }[criterion]

    def alpha(index: tuple[slice, ...], name: str) -> float:
        own, given = (score(state[name][index]) for state in (ours, theirs))
        return references.adaptive_alpha(own, given, A=A, c=STEEPNESS[criterion])

    of_sites, of_units = [], []
    for site in sites:
        if level == "filter":
            units = [alpha(index, site.weight.tensor) for index in slices(site.weight, site.num_units)]
            of_sites.append(sum(units) / len(units))
        else:
            (index,) = slices(site.weight, 1)
            of_sites.append(alpha(index, site.weight.tensor))
            units = [of_sites[-1]] * site.num_units
        of_units.append(units)
    return of_sites, of_units


def slow_graft(
    ours: State, theirs: State, sites: Sequence[Site], of_sites: Sequence[float], of_units: Sequence[Sequence[float]]
) -> State:
    """Return the receiver's floats after a graft, float64; tensors of no site follow the last site before them."""
    last, alpha_of = 0, {}
    for name, tensor in ours.items():
        owners = [place for place, site in enumerate(sites) if name in (part.tensor for part in site.parts)]
        last = max([last, *owners])
        alpha_of[name] = torch.full(tensor.shape, of_sites[last], dtype=torch.float64)
    for site, alphas in zip(sites, of_units, strict=True):
        for part in site.parts:
            for index, alpha in zip(slices(part, site.num_units), alphas, strict=True):
                alpha_of[part.tensor][index] = alpha
    return {
        name: alpha_of[name] * tensor.double() + (1 - alpha_of[name]) * theirs[name].double()
        for name, tensor in ours.items()
        if tensor.is_floating_point()
    }


@pytest.mark.parametrize(
    ("level", "criterion", "choice"),
    [("layer", "entropy", "all"), ("layer", "l1", "all"), ("filter", "entropy", "all"), ("filter", "l1", "auto")],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_graft_equals_the_slow_reference(name: str, level: str, criterion: str, choice: SiteChoice) -> None:
    receiver, donor = site_network(name, 1), site_network(name, 2)
    ours, theirs = state_of(receiver), state_of(donor)
    sites = find_sites(receiver, (3, 8, 8), name, choice)
    grafting = {"level": level, "criterion": criterion, "A": A, "c": STEEPNESS[criterion]}
    of_donor = make_grafting(FlatState(donor), sites, **grafting)
    alpha = graft_(make_grafting(FlatState(receiver), sites, **grafting), published(of_donor))
    of_sites, of_units = slow_alphas(ours, theirs, sites, level, criterion)
    found = alpha.tolist()
    assert found == pytest.approx([*of_sites, *(chain(*of_units) if level == "filter" else ())], abs=1e-5)
    assert max(found) - min(found) > 1e-3
    grafted = state_of(receiver)
    for key, expected in slow_graft(ours, theirs, sites, of_sites, of_units).items():
        assert torch.allclose(grafted[key].double(), expected, rtol=1e-5, atol=1e-5), key
    integers = {key: tensor for key, tensor in ours.items() if not tensor.is_floating_point()}
    assert same_bits({key: grafted[key] for key in integers}, integers)
    assert same_bits(state_of(donor), theirs)


@pytest.mark.parametrize("level", ["layer", "filter"])
@pytest.mark.parametrize("name", ["Vit", "Transposed", "Parametrized", "Tied", "TorchAttention"])
def test_alpha_of_0_and_1_copies_and_keeps_every_float(name: str, level: str) -> None:
    for share, expected in ((0.0, 2), (1.0, 1)):
        receiver, donor = site_network(name, 1), site_network(name, 2)
        sites = find_sites(receiver, (3, 8, 8), name, "all")
        of_donor = make_grafting(FlatState(donor), sites)
        make_grafting(FlatState(receiver), sites, alpha=share, level=level).receive([published(of_donor)])
        assert torch.equal(FlatState(receiver).buffer, FlatState(site_network(name, expected)).buffer)
