"""External grafting: at a round's end each site of a receiver is blended with the donor's.

A snapshot is a peer's weights with their entropies, in numpy arrays, which travel between processes without being
copied or pickled. `Grafting` knows which alpha each stretch of the flat buffer takes.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftpop.errors import ModelError
from graftpop.learner.flat import FlatState
from graftpop.learner.sites import Site
from graftpop.ops.alpha import adaptive_alpha, fixed_alpha
from graftpop.ops.entropy import layer_entropies
from graftpop.ops.graft import blend
from graftpop.ops.importance import num_invalid_filters
from graftpop.ops.released import (
    released_alpha,
    released_blend,
    released_entropies,
    released_integer_blend,
)
from graftpop.settings import GraftSettings

__all__ = ["Grafting", "Snapshot", "released_assignment", "site_assignment"]


@dataclass(frozen=True)
class Snapshot:
    """A peer's weights as published for one exchange.

    Attributes:
        peer: whose they are.
        weights: (N,) float32, the flat buffer.
        integers: (I,) int64, the integer buffers one after the other.
        entropies: (S,) float64, nats, one a site.
    """

    peer: int
    weights: NDArray[np.float32]
    integers: NDArray[np.int64]
    entropies: NDArray[np.float64]


@dataclass(frozen=True)
class Assignment:
    """Which tensors carry a site's information, and which site's alpha every tensor takes.

    Attributes:
        site_names: (S) as the records call them.
        measured: (S) the tensor whose entropy decides.
        site_of: for every tensor of the state, the index of its site.
    """

    site_names: tuple[str, ...]
    measured: tuple[str, ...]
    site_of: Mapping[str, int]


def site_assignment(names: list[str], sites: list[Site]) -> Assignment:
    """Assign each tensor to a site: what belongs to a site's convolution and BatchNorm to that site, the rest to
    the site before it in module order (before the first site: to the first).

    Args:
        names: all tensors of the state, in module order.
        sites: in module order.
    """
    owner = {module: index for index, site in enumerate(sites) for module in (site.conv, site.norm)}
    site_of, latest = {}, 0
    for name in names:
        module = name.rpartition(".")[0]
        if module in owner:
            site_of[name] = owner[module]
            latest = max(latest, owner[module])
        else:
            site_of[name] = latest
    conv_names = tuple(site.conv for site in sites)
    return Assignment(conv_names, tuple(f"{conv}.weight" for conv in conv_names), site_of)


def released_assignment(names: list[str]) -> Assignment:
    """Assign as the released code does: a name with "conv" in it is a site, every other follows the last such one.

    Raises:
        ModelError: the first name has no "conv" in it, where the released code ends in an UnboundLocalError.
    """
    if "conv" not in names[0]:
        raise ModelError(f"graft.compat: the released code needs a network whose first tensor has 'conv' in its name, "
                         f"got '{names[0]}'; choose compat: none")
    measured = tuple(name for name in names if "conv" in name)
    site_of, site = {}, -1
    for name in names:
        site += "conv" in name
        site_of[name] = site
    return Assignment(tuple(name.removesuffix(".weight") for name in measured), measured, site_of)


class Grafting:
    """What one peer does in an exchange: publish a snapshot, and blend a donor's into itself.

    Args:
        state: the peer's tensors.
        sites: the sites of its network.
        settings: how to graft; None measures and publishes only.
    """

    def __init__(self, state: FlatState, sites: list[Site], settings: GraftSettings | None) -> None:
        self._state = state
        self._settings = settings or GraftSettings()
        self._released = self._settings.compat == "released_code"
        names = [entry.name for entry in state.entries]
        self._plan = released_assignment(names) if self._released else site_assignment(names, sites)
        device = state.buffer.device
        self._site_of_entry = torch.tensor([self._plan.site_of[name] for name in names], device=device)
        self._numel_of_entry = torch.tensor([entry.numel for entry in state.entries], device=device)
        self._measured = [state[name] for name in self._plan.measured]

    @property
    def site_names(self) -> tuple[str, ...]:
        """The sites as the records call them."""
        return self._plan.site_names

    def entropies(self) -> Tensor:
        """Return the entropy of every site as it is now, (S,) float64, nats."""
        measure = released_entropies if self._released else layer_entropies
        return measure(self._measured, self._settings.num_bins)

    def num_invalid_filters(self) -> Tensor:
        """Return the number of invalid filters of every site as it is now, (S,) int64."""
        return torch.stack([num_invalid_filters(weight) for weight in self._measured])

    def publish(self, peer: int, entropies: Tensor) -> Snapshot:
        """Return a copy of the weights as they are now, with their entropies."""
        integers = [tensor.flatten() for tensor in self._state.integers.values()]
        return Snapshot(
            peer=peer,
            weights=self._state.buffer.detach().cpu().numpy().copy(),
            integers=torch.cat(integers).cpu().numpy() if integers else np.empty(0, np.int64),
            entropies=entropies.cpu().numpy(),
        )

    def alpha(self, own: Tensor, donor: Tensor) -> Tensor:
        """Return the share that each site keeps of itself, (S,) float64, from the entropies of both."""
        settings = self._settings
        if settings.alpha != "adaptive":
            return fixed_alpha(own, settings.alpha)
        rule = released_alpha if self._released else adaptive_alpha
        return rule(own, donor, A=settings.A, c=settings.c)

    def graft_(self, alpha: Tensor, donor: Snapshot) -> None:
        """Blend a donor's weights into this peer's. Momentum is not touched."""
        device = self._state.buffer.device
        per_entry = alpha[self._site_of_entry]
        per_weight = per_entry.repeat_interleave(self._numel_of_entry, output_size=len(self._state.buffer))
        weights = _tensor(donor.weights).to(device)
        mix = released_blend if self._released else blend
        self._state.buffer.copy_(mix(self._state.buffer, weights, per_weight))
        if self._released:
            self._graft_integers_(alpha, _tensor(donor.integers).to(device))

    def _graft_integers_(self, alpha: Tensor, theirs: Tensor) -> None:
        """Blend the integer buffers; one (`bn1.num_batches_tracked`) follows the site of the tensors beside it."""
        site_of_module = {name.rpartition(".")[0]: site for name, site in self._plan.site_of.items()}
        parts = theirs.split([tensor.numel() for tensor in self._state.integers.values()])
        for (name, tensor), part in zip(self._state.integers.items(), parts, strict=True):
            site = site_of_module[name.rpartition(".")[0]]
            tensor.copy_(released_integer_blend(tensor, part.view_as(tensor), alpha[site]))


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """Return a tensor over an array that is only read; torch warns that it could be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(array)
