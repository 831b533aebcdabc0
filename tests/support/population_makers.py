"""Populations of peers in this process, and their states."""

from functools import partial

from network_makers import same_bits
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor

from graftpop.peer.peer import Peer
from graftpop.population import LocalGroup, Population, Round
from graftpop.settings import Settings

States = dict[int, dict[str, Tensor]]


def local_population(settings: Settings) -> Population:
    return Population(LocalGroup(partial(Peer, settings), settings.population.num_peers), settings)


def run(settings: Settings) -> tuple[Population, list[Round]]:
    """Return a population after its last round, and all its rounds."""
    population = local_population(settings)
    return population, [population.step() for _ in range(settings.num_rounds)]


def states(population: Population) -> States:
    """Return the tensors of every peer's state, by peer and name."""
    return {peer: tensors_from_bytes(content) for peer, content in population.save()}


def networks(population: Population) -> States:
    """Return the tensors of every peer's network."""
    return {
        peer: {name: tensor for name, tensor in state.items() if name.startswith("network/")}
        for peer, state in states(population).items()
    }


def same(one: States, other: States) -> bool:
    """Return whether two populations have the same peers with the same bits."""
    return one.keys() == other.keys() and all(same_bits(one[peer], other[peer]) for peer in one)
