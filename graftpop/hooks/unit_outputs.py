"""Access to the outputs of a network's units, to read or to change them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from graftpop.models.layers import NORMALIZATIONS
from graftpop.sites import Site
from graftpop.training.filters import SiteFilters
from graftpop.training.learner import Learner

__all__ = ["has_unit_outputs", "per_unit", "unit_outputs"]

OnOutput = Callable[[int, Tensor], Tensor | None]
"""Gets the index of a site and its output (B, U, ...) after the normalization; returns a replacement, or None."""


def has_unit_outputs(site: Site) -> bool:
    """Return whether each unit of a site has a channel of the output of its layer."""
    is_layer = site.kind in ("convolution", "linear") and site.weight.axis == 0
    return is_layer and site.num_units == site.weight.length


@contextmanager
def unit_outputs(learner: Learner, filters: Sequence[SiteFilters], on_output: OnOutput) -> Iterator[None]:
    """Call a function with the output of each site whenever the network runs inside the block.

    Args:
        learner: the learner that trains the network.
        filters: units of the sites, each with an output of its own (`has_unit_outputs`).
        on_output: the function.
    """

    def called(index: int, module: nn.Module, output: Tensor) -> Tensor | None:
        axis = _unit_axis(filters[index], module, output)
        changed = on_output(index, output.movedim(axis, 1))
        return None if changed is None else changed.movedim(1, axis)

    handles = [
        learner.network.get_submodule(site.site.norm or site.site.layer).register_forward_hook(
            lambda module, _, output, index=index: called(index, module, output)
        )
        for index, site in enumerate(filters)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unit_axis(filters: SiteFilters, module: nn.Module, output: Tensor) -> int:
    """Return the axis of the units in the output of a layer or of its normalization, which may run on a permuted view.

    In torch's LayerNorm and RMSNorm the units are on the last axis, in its other normalizations on axis 1. In all other
    modules they are on axis 1 after a convolution and on the last axis after a Linear layer; if that axis has another
    length, they are on the other of the two.
    """
    if type(module) in (nn.LayerNorm, nn.RMSNorm):
        return -1
    if isinstance(module, NORMALIZATIONS) and not isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return 1
    expected, other = (1, -1) if filters.site.kind == "convolution" else (-1, 1)
    return expected if output.shape[expected] == filters.num_filters else other


def per_unit(values_U: Tensor, output_BU: Tensor) -> Tensor:
    """Return one value per unit (U,) in the shape that broadcasts over an output (B, U, ...)."""
    return values_U.view(-1, *[1] * (output_BU.dim() - 2))
