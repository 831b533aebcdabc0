"""Which alpha each tensor of a network takes: by its site, or by name as in the released code."""

from collections.abc import Mapping
from dataclasses import dataclass

from graftpop.errors import ModelError
from graftpop.training.sites import Site

__all__ = ["Assignment", "released_assignment", "site_assignment"]


@dataclass(frozen=True)
class Assignment:
    """Which tensors carry a site's information, and which site's alpha every tensor takes.

    Attributes:
        site_names: (S) as the records call them.
        measured: (S) the tensor whose entropy decides.
        site_of: for every tensor of the state, the index of its site.
        modules_of: (S) the modules whose tensors have an entry a filter of the site.
    """

    site_names: tuple[str, ...]
    measured: tuple[str, ...]
    site_of: Mapping[str, int]
    modules_of: tuple[tuple[str, ...], ...]


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
    return Assignment(
        conv_names,
        tuple(f"{conv}.weight" for conv in conv_names),
        site_of,
        tuple((site.conv, site.norm) for site in sites),
    )


def released_assignment(names: list[str]) -> Assignment:
    """Assign as the released code does: a name with "conv" in it is a site, every other follows the last such one.

    Raises:
        ModelError: the first name has no "conv" in it, where the released code ends in an UnboundLocalError.
    """
    if "conv" not in names[0]:
        raise ModelError(
            f"graft.compat: the released code needs a network whose first tensor has 'conv' in its name, "
            f"got '{names[0]}'; choose compat: none"
        )
    measured = tuple(name for name in names if "conv" in name)
    site_of, site = {}, -1
    for name in names:
        site += "conv" in name
        site_of[name] = site
    site_names = tuple(name.removesuffix(".weight") for name in measured)
    return Assignment(site_names, measured, site_of, ((),) * len(measured))
