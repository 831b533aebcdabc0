"""Removal of dropped filters from a network, which becomes smaller and keeps its outputs.

torch-pruning (Fang et al., DepGraph, CVPR 2023, arXiv:2301.12900) finds the channels that can only be removed
together. This module decides which of them may go: those that enter every channel-mixing layer as zeros, for every
image. All decisions are made on the whole network; then each module is cut once, and the outputs are compared.
"""

import copy
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.models.layers import BATCHNORMS, CONVOLUTIONS, NORMALIZATIONS, is_depthwise
from graftpop.sites import Site
from graftpop.training.filters import DROPPED

__all__ = ["check_removable", "dependency_graph", "dropped_filters", "pruning_group", "remove_dropped", "zero_units_"]

Cut = Callable[[nn.Module, list[int]], object]  # function of torch-pruning that removes channels from a module
TOLERANCE: Final = 1e-5  # relative, in double precision: only the order of sums differs
MOST_VISITS: Final = 20  # of a dependency between two modules, for one group of channels
UNTRACEABLE: Final = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError)


def dropped_filters(network: nn.Module, sites: list[Site]) -> dict[str, list[int]]:
    """Return the indices of each site's dropped filters, by the name of its layer.

    A filter is dropped if its weights, its bias and its BatchNorm's scale and shift are all zero. Its channel is then
    zero for every image, in training and in evaluation mode. Only filters that can be cut are listed: those of
    convolutions and Linear layers, followed by a BatchNorm or by no normalization.
    """
    dropped = {}
    for site in filter(_is_removable, sites):
        norm = network.get_submodule(site.norm) if site.norm is not None else None
        kept = torch.stack([tensor.ne(0).reshape(len(tensor), -1).any(1) for tensor in _zeroed(network, site)]).any(0)
        dropped[site.layer] = torch.nonzero(~kept).flatten().tolist() if norm is None or norm.affine else []
    return dropped


def _is_removable(site: Site) -> bool:
    is_layer = site.kind in ("convolution", "linear") and site.weight.axis == 0
    is_by_row = site.num_units == site.weight.length
    has_other_norm = site.norm is not None and not site.has_batchnorm
    return is_layer and is_by_row and site.is_plain and not has_other_norm and not site.is_output


def _zeroed(network: nn.Module, site: Site) -> list[Tensor]:
    """Return the parameters of a site that are zero in a dropped filter, each (O, ...), detached, writable in place."""
    parts = (site.weight, *(entry.part for entry in site.entries if entry.role in DROPPED))
    return [network.get_parameter(part.tensor).detach() for part in parts]


def remove_dropped(
    network: nn.Module, sites: list[Site], image_shape: tuple[int, ...], name: str
) -> tuple[nn.Module, int]:
    """Return a smaller network with the same outputs in evaluation mode, and the number of filters removed.

    A dropped filter stays if

    - its channel is added to one that is not zero,
    - another BatchNorm turns its channel into a constant (in a DenseNet, or after a depthwise convolution),
    - a grouped convolution reads or writes its channel,
    - its layer is not called, but gives its weight to a function,
    - the code of the network contains the number of channels (the padded shortcut of a ResNet, attention heads),
    - a normalization over several channels (LayerNorm, GroupNorm) or the output of the network depends on it, or
    - it is the last filter of its layer.

    A filter that is not dropped is removed too if its channel is only multiplied by zeros (those of a dropped
    depthwise filter).

    Args:
        network: a network with dropped filters; it is not changed.
        sites: the network's sites.
        image_shape: (C, H, W) of the images it sees.
        name: the user's name of the network, used in messages.

    Returns:
        The smaller network, in evaluation mode on the device of `network`, and the number of filters removed.

    Raises:
        ModelError: torch-pruning is not installed, or cannot follow this network.
    """
    dropped = dropped_filters(network, sites)
    small = copy.deepcopy(network).cpu().eval()
    try:
        cuts = _cuts(small, dropped, image_shape)
        num_removed = _num_filters(small)
        for (cut, module), indices in cuts.items():
            cut(module, sorted(indices))
        num_removed -= _num_filters(small)
        is_same = _outputs_agree(network, small, image_shape)
    except UNTRACEABLE as error:
        raise _cannot_follow(name, str(error) or type(error).__name__) from error
    if not is_same:
        raise _cannot_follow(name, "its outputs differ without its dropped filters")
    return small.to(next(network.parameters()).device), num_removed


def check_removable(network: nn.Module, sites: list[Site], image_shape: tuple[int, ...], name: str) -> None:
    """Check, before any training, that filters can be removed from a network.

    A third of the filters is dropped in a copy and removed. Layers of equal width drop the same third, so that channels
    that are added to each other can be removed too. Arguments and errors are those of `remove_dropped`.
    """
    trial = copy.deepcopy(network)
    for site in filter(_is_removable, sites):
        width = site.num_units
        third = torch.randperm(width, generator=torch.Generator().manual_seed(width))[: width // 3]
        zero_units_(trial, site, third)
    remove_dropped(trial, sites, image_shape, name)


def zero_units_(network: nn.Module, site: Site, units: Tensor) -> None:
    """Drop some units of a network that does not train: zero them with their bias, scale and shift.

    Args:
        network: changed in place.
        site: a site whose units are the rows of its weight.
        units: their indices, int64 (D).
    """
    for tensor in _zeroed(network, site):
        tensor[units.to(tensor.device)] = 0.0


def _cuts(
    network: nn.Module, dropped: Mapping[str, list[int]], image_shape: tuple[int, ...]
) -> dict[tuple[Cut, nn.Module], set[int]]:
    """Return the channels to cut from each module, numbered as in the whole network.

    torch-pruning's group of some filters lists every module that must lose channels with them. Filters that must stay
    are taken out and the group of the rest is computed again, until no filter of the group must stay.
    """
    graph = dependency_graph(network, torch.zeros(1, *image_shape))
    zeros = _zero_inputs(network, image_shape)
    modules = dict(network.named_modules())
    cuts: dict[tuple[Cut, nn.Module], set[int]] = defaultdict(set)
    for name, indices in dropped.items():
        if modules[name] not in graph.module2node:  # its weight is passed to a function, as in nn.MultiheadAttention
            continue
        cut = _cut_of(graph, modules[name])
        going = set(indices) - cuts[cut, modules[name]]
        while going:
            group = pruning_group(graph, modules[name], sorted(going))
            staying = set().union(*(_staying(graph, item, zeros, cuts) for item in group))
            if not staying:
                for item in group:
                    cuts[item.dep.handler, item.dep.target.module].update(item.idxs)
                break
            going -= staying
    return cuts


def _cut_of(graph: Any, module: nn.Module) -> Cut:
    cut: Cut = graph.get_pruner_of_module(module).prune_out_channels
    return cut


def pruning_group(graph: Any, module: nn.Module, filters: Iterable[int]) -> Any:
    """Return torch-pruning's group of some filters of a module: everything that must lose channels with them.

    Args:
        graph: see `dependency_graph`.
        module: a module of its network.
        filters: indices of filters.

    Raises:
        RuntimeError: the channels are connected in a circle.
    """
    _bound_visits(graph)
    return graph.get_pruning_group(module, _cut_of(graph, module), list(filters))


def _bound_visits(graph: Any) -> None:
    """Let the next group raise a RuntimeError if torch-pruning follows channels without end, as through some slices."""
    dependencies = [dependency for node in graph.module2node.values() for dependency in node.dependencies]
    steps = iter(range(MOST_VISITS * len(dependencies)))

    def visit(dependency: Any, fn: Cut) -> bool:
        if next(steps, None) is None:
            raise RuntimeError("its channels are connected in a circle")
        return bool(dependency.trigger == fn)

    for dependency in dependencies:
        dependency.is_triggered_by = partial(visit, dependency)


def _staying(
    graph: Any, item: Any, zeros: Mapping[nn.Module, set[int]], cuts: Mapping[tuple[Cut, nn.Module], set[int]]
) -> set[int]:
    """Return the filters of a group that must stay because of one of the group's modules."""
    node, module, cut = item.dep.target, item.dep.target.module, item.dep.handler
    is_reader = graph.is_in_channel_pruning_fn(cut) and not graph.is_out_channel_pruning_fn(cut)
    successors = [] if is_reader else node.outputs  # a slice that drops all these channels is missing in the group
    if not all(_can_be_cut(member) for member in (node, *successors)):
        return set(item.root_idxs)
    staying = {
        filter_
        for filter_, channel in zip(item.root_idxs, item.idxs, strict=True)
        if is_reader and channel not in zeros[module]
    }
    num_channels = graph.get_in_channels(module) if is_reader else graph.get_out_channels(module)
    if num_channels is not None and len(cuts.get((cut, module), set()).union(item.idxs)) >= num_channels:
        staying.add(max(item.root_idxs))  # a layer keeps at least one channel
    return staying


def _can_be_cut(node: Any) -> bool:
    """Whether a node of torch-pruning's graph works with fewer channels, because it treats all of them alike."""
    module, kind, function = node.module, node.type.name, node.grad_fn
    if isinstance(module, CONVOLUTIONS):
        return module.groups == 1 or is_depthwise(module)
    if kind == "ELEMENTWISE":  # unknown to torch-pruning; padding of the channel dimension shifts channels
        return len(getattr(function, "_saved_pad", ())) <= 4
    if kind == "RESHAPE":
        return (
            len(getattr(function, "_saved_self_sym_sizes", ())) == 4
        )  # flattening; other reshapes contain the number of channels
    if kind == "SLICE":
        return bool(function._saved_dim != 1)
    return kind in ("BN", "LINEAR", "CONCAT")


def dependency_graph(network: nn.Module, image: Tensor) -> Any:
    """Return torch-pruning's graph of the modules of a network.

    Args:
        network: the network.
        image: an image (1, C, H, W) for it.

    Raises:
        ModelError: torch-pruning is not installed.
    """
    try:
        from torch_pruning import DependencyGraph
    except ImportError as error:
        raise ModelError(
            "pruning: needs the package torch-pruning, which is not installed; install graftpop[pruning], or set "
            "pruning.coupled: apart and pruning.remove: false"
        ) from error
    image = image.detach().clone().requires_grad_(image.is_floating_point())
    with torch.enable_grad():
        return DependencyGraph().build_dependency(network, (image,), verbose=False)  # verbose: warnings


@torch.no_grad()
def _zero_inputs(network: nn.Module, image_shape: tuple[int, ...]) -> dict[nn.Module, set[int]]:
    """Return the input channels of each channel-mixing module that are zero for every image.

    A twin network runs on an image of ones. Its weights are 1 where the network's are nonzero, so that nothing cancels
    and no activation is cut off. Its BatchNorms add 1 to their input, and other normalizations see random numbers, so
    that a channel leaves them as zero only if scale and shift are zero. Channels that are zero in the twin are then
    zero in the network.

    A module that runs several times has the channels that are zero every time.
    """
    twin = copy.deepcopy(network)
    zeros: dict[nn.Module, set[int]] = {}
    generator = torch.Generator().manual_seed(0)

    def enters(module: nn.Module, images: Tensor) -> None:
        channels = images if isinstance(module, nn.Linear) else images.movedim(1, -1)
        seen = set(torch.nonzero(channels.flatten(0, -2).eq(0).all(0)).flatten().tolist())
        zeros[module] = zeros.get(module, seen) & seen

    for parameter in twin.parameters():
        parameter.data = parameter.ne(0).to(parameter.dtype)
    for original, module in zip(network.modules(), twin.modules(), strict=True):
        if isinstance(module, BATCHNORMS) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.fill_(-1.0)
            module.running_var.fill_(1.0)
        elif isinstance(module, NORMALIZATIONS):
            module.register_forward_pre_hook(lambda _, inputs: torch.rand(inputs[0].shape, generator=generator))
            module.register_forward_hook(lambda _, __, output: output.abs())
        elif isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            module.register_forward_pre_hook(lambda _, inputs, original=original: enters(original, inputs[0]))
            module.register_forward_hook(lambda _, __, output: output.clamp(max=1.0))  # keeps sums finite
    twin(torch.ones(1, *image_shape))
    return zeros


def _num_filters(network: nn.Module) -> int:
    convolutions = sum(module.out_channels for module in network.modules() if isinstance(module, CONVOLUTIONS))
    return convolutions + sum(module.out_features for module in network.modules() if isinstance(module, nn.Linear))


@torch.no_grad()
def _outputs_agree(network: nn.Module, small: nn.Module, image_shape: tuple[int, ...]) -> bool:
    images = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0)).double()
    expected, found = (copy.deepcopy(one).cpu().double().eval()(images) for one in (network, small))
    return torch.allclose(found, expected, rtol=TOLERANCE, equal_nan=True)


def _cannot_follow(name: str, reason: str) -> ModelError:
    reason = textwrap.shorten(reason, 200, placeholder=" ...")
    return ModelError(
        f"pruning.remove: torch-pruning cannot follow '{name}': {reason}; choose another network, or "
        f"set pruning.remove: false"
    )
