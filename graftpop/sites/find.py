"""The sites of a network, found by running it, and the choice among them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.models.forward_check import eval_copy
from graftpop.models.layers import BATCHNORMS, CONVOLUTIONS, NORMALIZATIONS
from graftpop.models.module_check import check_modules, distinct_state
from graftpop.settings.section import SiteChoice
from graftpop.sites import attention, convolution, linear, table
from graftpop.sites.site import Entry, Part, Role, Site
from graftpop.sites.trace import Trace, trace_network
from graftpop.sites.units import Heads, Units, UnitsOf

__all__ = ["SiteChoice", "alpha_share", "find_sites"]

KINDS: Final[tuple[UnitsOf, ...]] = (attention.units_of, convolution.units_of, linear.units_of, table.units_of)
"""The kinds of sites; the first that accepts a tensor decides its units."""

ENOUGH: Final = 0.9
"""Share of the parameters that convolutions with BatchNorm must hold to be chosen by `auto`."""

ROLES: Final[dict[str, Role]] = {"weight": "scale", "bias": "shift", "running_mean": "mean", "running_var": "variance"}
PARAMETRIZATIONS: Final = ".parametrizations."


def find_sites(
    network: nn.Module,
    image_shape: tuple[int, ...],
    name: str,
    choice: SiteChoice = "auto",
    needed_by: str | None = "graft",
) -> list[Site]:
    """Return the sites of a network, in the order of its modules.

    Every weight tensor with at least two axes that training changes is a site; a query-key-value matrix is one per
    part. Bias and normalization belong to the site whose channels they have. If several normalizations consume the
    output of one layer, a BatchNorm goes first, then the first to run. A tied weight is one site, under the first of
    its names.

    Args:
        network: any module that maps images (B, C, H, W) to logits; it is not changed.
        image_shape: (C, H, W) of the images it will see.
        name: the user's name of the network, used in messages.
        choice: `conv_bn` returns only the convolutions with the BatchNorm that consumes their output; `all` returns
            every site; `auto` is `conv_bn` if those hold at least 90 % of the parameters, otherwise `all`.
        needed_by: the key of a method that acts on sites; None: any network will do.

    Raises:
        ModelError: the network cannot take such images, or a method needs sites and there is none.
    """
    where = f"model.name: '{name}'"
    check_modules(network, where)
    network_copy = eval_copy(network, where)
    trace = trace_network(network_copy, image_shape, where)
    sites = list(_every_site(network_copy, trace))
    conv_bn = [site for site in sites if site.is_conv_bn]
    if choice == "conv_bn" or (choice == "auto" and alpha_share(network_copy, conv_bn) >= ENOUGH):
        sites = conv_bn
    if needed_by is not None and not sites:
        kind, step = "a weight with two axes that training changes", f"remove {needed_by}"
        if choice == "conv_bn":
            kind = "a convolution whose output a BatchNorm consumes (graft.sites: conv_bn)"
            step = f"set graft.sites: all, or {step}"
        raise ModelError(f"{where} has no site, {kind}, but {needed_by} acts on sites; {step}")
    return sites


def alpha_share(network: nn.Module, sites: Sequence[Site]) -> float:
    """Return the share of a network's parameters that belong to a site, in [0, 1]; the others follow another site."""
    parameters = dict(network.named_parameters())
    total = sum(parameter.numel() for parameter in parameters.values())
    held = sum(
        parameters[part.tensor].numel() * part.length // parameters[part.tensor].shape[part.axis]
        for site in sites
        for part in site.parts
        if part.tensor in parameters
    )
    return held / total if total else 0.0


def _every_site(network: nn.Module, trace: Trace) -> Iterator[Site]:
    modules = dict(network.named_modules())
    names = {id(tensor): name for name, tensor in distinct_state(network)}
    owners: dict[str, str] = {}  # a tensor belongs to one layer
    for tensor, weight in network.named_parameters():
        if not (weight.requires_grad and weight.numel()):
            continue
        layer, key, is_plain = _place(tensor, weight, modules)
        consumers = _consumers(trace.norms_of.get(layer, ()), modules)
        norm = consumers[0] if consumers and isinstance(modules[consumers[0]], NORMALIZATIONS) else None
        has_batchnorm = norm is not None and isinstance(modules[norm], BATCHNORMS)
        is_conv_bn = has_batchnorm and isinstance(modules[layer], CONVOLUTIONS)  # the papers' filters, never heads
        every = _units_of(modules[layer], key, weight, None if is_conv_bn else trace.heads_of.get(layer))
        if not every:
            continue
        num_channels = every[-1].first_channel + every[-1].num_channels
        entries = [
            (role, name, entry)
            for role, name, entry in _entries(modules, layer, key, consumers[:1], names)
            if entry.numel() == num_channels
            and (every[0].kind != "table" or role == "bias")
            and owners.setdefault(name, tensor) == tensor
        ]
        for units in every:
            site_name = layer if layer and key == "weight" else tensor
            yield Site(
                name=f"{site_name}.{units.suffix}" if units.suffix else site_name,
                kind=units.kind,
                weight=Part(tensor, units.axis, units.start, units.length),
                num_units=units.num_units,
                entries=tuple(
                    Entry(role, Part(name, _long_axis(entry), units.first_channel, units.num_channels))
                    for role, name, entry in entries
                ),
                layer=layer,
                norm=norm,
                has_batchnorm=has_batchnorm,
                is_plain=is_plain,
                is_output=layer in trace.output_layers,
            )


def _place(tensor: str, weight: Tensor, modules: Mapping[str, nn.Module]) -> tuple[str, str, bool]:
    """Return the layer of a parameter, its name there, and whether the layer uses it as it is stored.

    A parametrization stores tensors below its layer. One of the weight's own shape counts as that weight, any other
    has the name "".
    """
    layer, is_parametrized, rest = f".{tensor}".partition(PARAMETRIZATIONS)
    if not is_parametrized:
        layer, _, key = tensor.rpartition(".")
        return layer, key, True
    layer, key = layer.removeprefix("."), rest.partition(".")[0]
    return layer, key if getattr(modules[layer], key).shape == weight.shape else "", False


def _units_of(layer: nn.Module, key: str, weight: Tensor, heads: Heads | None) -> list[Units]:
    found = (units_of(layer, key, weight, heads) for units_of in KINDS)
    return next(filter(None, found), [])


def _consumers(names: Sequence[str], modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the consumers of a layer's output by rank: BatchNorm, other normalizations, others; then as they ran."""
    return sorted(
        names,
        key=lambda name: (not isinstance(modules[name], BATCHNORMS), not isinstance(modules[name], NORMALIZATIONS)),
    )


def _entries(
    modules: Mapping[str, nn.Module], layer: str, key: str, consumers: Sequence[str], names: Mapping[int, str]
) -> Iterator[tuple[Role, str, Tensor]]:
    """Yield role, name and tensor of each floating-point vector of a layer and of the consumer of its output."""
    bias = key.replace("weight", "bias")
    for owner in (layer, *consumers):
        module = modules[owner]
        own = {**module._parameters, **module._buffers}
        if owner == layer and hasattr(module, "parametrizations"):
            own |= dict(module.get_submodule("parametrizations").named_parameters())
        for name, tensor in own.items():
            if tensor is None or not tensor.is_floating_point() or id(tensor) not in names:
                continue
            if tensor.dim() and tensor.numel() == max(tensor.shape):
                role: Role = "other"
                if owner == layer and name == bias:
                    role = "bias"
                elif owner != layer and isinstance(module, NORMALIZATIONS):
                    role = ROLES.get(name, "other")
                yield role, names[id(tensor)], tensor


def _long_axis(vector: Tensor) -> int:
    return max(range(vector.dim()), key=lambda axis: vector.shape[axis])
