"""Access to what the units of a network put out: to read it, or to change it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from graftpop.sites import Site
from graftpop.training.filters import SiteFilters
from graftpop.training.learner import Learner

__all__ = ["has_unit_outputs", "per_unit", "unit_outputs"]

OnOutput = Callable[[int, Tensor], Tensor | None]
"""From the index of a site and its output (B, U, ...), behind its normalization, to what replaces it; None: nothing."""


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

    def called(index: int, output: Tensor) -> Tensor | None:
        axis = 1 if filters[index].site.kind == "convolution" else -1
        changed = on_output(index, output.movedim(axis, 1))
        return None if changed is None else changed.movedim(1, axis)

    handles = [
        learner.network.get_submodule(site.site.norm or site.site.layer).register_forward_hook(
            lambda _, __, output, index=index: called(index, output)
        )
        for index, site in enumerate(filters)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def per_unit(values_U: Tensor, output_BU: Tensor) -> Tensor:
    """Return one value per unit (U,) in the shape that broadcasts over an output (B, U, ...)."""
    return values_U.view(-1, *[1] * (output_BU.dim() - 2))
