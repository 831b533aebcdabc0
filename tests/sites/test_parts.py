"""The parts of all sites and the other tensors cover a network's state once; views of units agree with its memory."""

import pytest
import torch
from site_networks import NETWORKS, site_network
from torch import Tensor

from graftpop.exchange.assignment import Assignment, site_assignment
from graftpop.sites import find_sites
from graftpop.sites.find import SiteChoice
from graftpop.training.filters import unit_view
from graftpop.training.flat_state import FlatState

CHOICES: tuple[SiteChoice, ...] = ("conv_bn", "all")


def assigned(name: str, choice: SiteChoice) -> tuple[FlatState, Assignment]:
    network = site_network(name)
    state = FlatState(network)
    return state, site_assignment(state, find_sites(network, (3, 8, 8), name, choice, None))


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", NETWORKS)
def test_parts_cover_every_float_once(name: str, choice: SiteChoice) -> None:
    state, assignment = assigned(name, choice)
    times = {entry.name: torch.zeros(state[entry.name].shape) for entry in state.entries}
    times_in_memory = torch.zeros_like(state.buffer)
    for each in assignment.parts:
        times[each.part.tensor].narrow(each.part.axis, each.part.start, each.part.length).add_(1)
        state.memory_of(times_in_memory, state.stretch(each.part, each.num_units)).add_(1)
    assert [name for name, tensor in times.items() if not (tensor == 1).all()] == []
    assert (times_in_memory == 1).all()
    offsets = [state.stretch(each.part, each.num_units).offset for each in assignment.parts]
    assert offsets == sorted(offsets)  # in the order of the buffer


def values(units: Tensor) -> Tensor:
    """Return the values of each unit (U, ...) in ascending order, (U, K)."""
    return units.reshape(len(units), -1).sort(1).values


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", NETWORKS)
def test_views_of_units_show_the_memory_of_each_unit(name: str, choice: SiteChoice) -> None:
    state, assignment = assigned(name, choice)
    state.buffer.copy_(torch.arange(len(state.buffer)))  # every value is unique
    for each in assignment.parts:
        if each.num_units > 1:
            view = unit_view(state[each.part.tensor], each.part, each.num_units)
            memory = state.memory_of(state.buffer, state.stretch(each.part, each.num_units)).movedim(1, 0)
            assert len(view) == each.num_units
            assert torch.equal(values(view), values(memory)), each
            view[0] = -1.0  # a view, not a copy
            assert (memory[0] == -1).all()
            assert (memory[1:] >= 0).all()
