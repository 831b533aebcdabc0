"""The assignment of each tensor to the site whose alpha it takes: by sites, or by names as in the released code."""

from collections.abc import Mapping
from dataclasses import dataclass

from graftpop.errors import ModelError
from graftpop.training.sites import Site

__all__ = ["Assignment", "released_assignment", "site_assignment"]


@dataclass(frozen=True)
class Assignment:
    """The measured tensor of each site, and the site of each tensor.

    Attributes:
        site_names: (S) names of the sites in the records.
        measured: (S) names of the tensors whose entropy decides alpha.
        site_of: index of the site by name of tensor.
        modules_of: (S) modules whose tensors have one entry per filter of the site.
    """

    site_names: tuple[str, ...]
    measured: tuple[str, ...]
    site_of: Mapping[str, int]
    modules_of: tuple[tuple[str, ...], ...]


def site_assignment(names: list[str], sites: list[Site]) -> Assignment:
    """Assign each tensor to a site.

    Tensors of a site's convolution and BatchNorm belong to that site. Any other tensor belongs to the site before it in
    module order, or to the first site if there is none before it.

    Args:
        names: all tensors of the state, in module order.
        sites: sites of the network, in module order.
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
    """Assign as the released code does: a name with "conv" is a site, any other name follows the last site.

    Raises:
        ModelError: the first name has no "conv"; the released code ends in an UnboundLocalError there.
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
