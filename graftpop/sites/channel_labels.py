"""A run of a network on labels, which shows the channels that can only be permuted together.

Every number in an activation carries a label: the channel whose permutation would move it. Operations that move numbers
(view, cat, pad) move labels; those that combine them (a residual sum) tie the labels; layers begin new ones and tie
their weights' input axis to the labels that enter. An operation that is not known fixes its channels in their places.

torch-pruning's dependency graph was tried instead. It cannot follow a residual stream through a padded shortcut, nor
that of a ViT.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from graftpop.models.forward_check import blank_images
from graftpop.models.layers import BATCHNORMS
from graftpop.models.module_check import distinct_state
from graftpop.seeds import seeded

__all__ = ["Channel", "coupled_channels"]

FIXED: Final = 0  # label of numbers that no permutation moves: images, classes
ANY: Final = -1  # label of constants and of sums over all channels, which are the same for every channel

MOVES: Final = frozenset(
    "view _unsafe_view _reshape_alias permute transpose t expand slice select cat stack split unbind "  # noqa: SIM905
    "split_with_sizes constant_pad_nd unsqueeze squeeze clone flip roll repeat alias detach copy_ index index_select "
    "gather embedding pixel_shuffle pixel_unshuffle channel_shuffle slice_scatter select_scatter".split()
)
"""Operations whose output has the numbers of their inputs, in other places."""

REDUCTIONS: Final = frozenset("mean sum amax amin max min var std prod logsumexp linalg_vector_norm".split())  # noqa: SIM905
PRODUCTS: Final = frozenset({"mm", "bmm", "addmm", "baddbmm"})
"""Products of two matrices; the last two add a third."""


class Channel(NamedTuple):
    """Indices along an axis of a tensor of the state that move together, in ascending order."""

    tensor: str
    axis: int
    positions: tuple[int, ...]


def coupled_channels(network_copy: nn.Module, image_shape: tuple[int, ...]) -> list[tuple[Channel, ...]]:
    """Return the units of a network that permutations can move, each with its places in the state, in module order.

    A network with parameters that evaluation does not use, such as those of an auxiliary classifier, runs once more in
    training mode, which ties their channels too.

    Args:
        network_copy: copy of a network in evaluation mode, on the CPU; its tensors get a memory of their own.
        image_shape: (C, H, W) of its images.
    """
    for tensor in network_copy.state_dict(keep_vars=True).values():
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)  # views of one buffer have one storage
        tensor.requires_grad_(isinstance(tensor, nn.Parameter))  # without, torch fuses the layers of transformers
    labels = _Labels(network_copy)
    images = blank_images(network_copy, 1, image_shape)
    labels.of[id(images)] = images, torch.full(images.shape, FIXED)

    def run() -> None:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), labels:
            output = network_copy(images)
        labels.fix([tensor for tensor in tree_flatten(output)[0] if isinstance(tensor, Tensor)])

    run()
    if any(name not in labels.used for name, _ in network_copy.named_parameters()):  # such as an auxiliary classifier
        for module in network_copy.train().modules():
            if isinstance(module, BATCHNORMS):
                module.eval()  # one image may have no variance
        with seeded(0, images.device):  # for dropout
            run()
    return labels.units()


class _Labels(TorchDispatchMode):
    """Follows labels through every operation of a run.

    Each tensor of the state has one label per element, for use number by number, and one per index of each axis, for
    use as a matrix.

    Attributes:
        of: label tensors by ID of the tensor, which is kept alive.
        used: names of the tensors of the state that operations took.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.of: dict[int, tuple[Tensor, Tensor]] = {}
        self.used: set[str] = set()
        self._ties: list[Tensor] = []  # pairs of labels, each as one number
        self._state = {name: tensor for name, tensor in distinct_state(network) if tensor.is_floating_point()}
        self._names = {tensor.untyped_storage().data_ptr(): name for name, tensor in self._state.items()}
        self._first: dict[str, int] = {}  # label of each tensor's first element; those of its axes follow
        num_labels = FIXED + 1
        for name, tensor in self._state.items():
            self._first[name] = num_labels
            num_labels += tensor.numel() + sum(tensor.shape)
        self._num_labels = num_labels

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise the first operation imports torch's compiler, for two seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        given = [arg for arg in tree_flatten((args, kwargs))[0] if _is_float(arg)]
        self.used.update(filter(None, map(self._name, given)))
        out = next((one for one in tree_flatten(outputs)[0] if _is_float(one)), None)
        if out is None or not (name in MOVES or any(map(self._is_known, given))):
            return outputs
        if name in MOVES:  # constants too, which may get labels in place later
            self._move(func, args, kwargs, outputs)
        elif name == "convolution":
            self._convolve(out, *args[:-1], groups=args[-1])
        elif name in PRODUCTS:
            *addend, left, right = args
            self._multiply(out, left, right, *addend)
        elif name in REDUCTIONS:
            place = 2 if name == "linalg_vector_norm" else 1
            self._reduce(out, args[0], args[place] if len(args) > place else kwargs.get("dim"))
        elif "batch_norm" in name or "group_norm" in name:
            self._normalize(out, given[0], given[1:], args[6] if "group" in name else 0)
        elif _broadcast_shape(given) == out.shape:
            self._set(out, self._tied([self._labels(tensor) for tensor in given]))
        elif len(given) == 1 and out.dim() == given[0].dim() > 2 and out.shape[:2] == given[0].shape[:2]:  # pooling
            labels = self._along(self._labels(given[0]).flatten(2), -1)
            self._set(out, labels.view(*out.shape[:2], *[1] * (out.dim() - 2)))
        else:
            self.fix(given, [one for one in tree_flatten(outputs)[0] if _is_float(one)])
        return outputs

    def fix(self, tensors: Iterable[Tensor], outputs: Iterable[Tensor] = ()) -> None:
        """Tie all labels of some tensors, and of the outputs computed from them, to their places."""
        for tensor in tensors:
            self._tie(self._labels(tensor), torch.tensor(FIXED))
        for output in outputs:
            self._set(output, torch.tensor(FIXED))

    # --- labels of tensors ---

    def _is_known(self, tensor: Tensor) -> bool:
        return id(tensor) in self.of or self._name(tensor) is not None

    def _name(self, tensor: Tensor) -> str | None:
        """Return the name of the tensor of the state that a tensor is a view of; None if it is none."""
        return self._names.get(tensor.untyped_storage().data_ptr()) if id(tensor) not in self.of else None

    def _labels(self, tensor: Tensor) -> Tensor:
        """Return the labels of a tensor, of its shape; a constant has ANY."""
        if id(tensor) not in self.of:
            name = self._name(tensor)
            if name is not None:
                every = torch.arange(self._first[name], self._first[name] + self._state[name].numel())
                return every.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
            self._set(tensor, torch.full(tensor.shape, ANY))
        return self.of[id(tensor)][1]

    def _set(self, tensor: Tensor, labels: Tensor) -> None:
        if labels.shape != tensor.shape:
            labels = labels.expand(tensor.shape).contiguous()
        self.of[id(tensor)] = tensor, labels

    def _axis_labels(self, weight: Tensor, dim: int) -> Tensor | None:
        """Return the labels of a weight's indices along one axis; None if the weight is not one of the state's."""
        name = self._name(weight)
        if name is None:
            return None
        places = int(weight.storage_offset()) + np.arange(weight.shape[dim]) * int(weight.stride(dim))
        indices = np.unravel_index(places, tuple(self._state[name].shape))
        moving = [axis for axis, index in enumerate(indices) if (index != index[0]).any()]
        if len(moving) != 1:
            return torch.full((len(places),), FIXED) if not moving else None
        return self._axis(name, moving[0])[torch.from_numpy(indices[moving[0]])]

    def _axis(self, name: str, axis: int) -> Tensor:
        """Return the labels of a tensor of the state along one axis."""
        shape = self._state[name].shape
        first = self._first[name] + shape.numel() + sum(shape[:axis])
        return torch.arange(first, first + shape[axis])

    # --- ties ---

    def _tie(self, one: Tensor, other: Tensor) -> None:
        differs = one.ne(other)
        if differs.any():
            differs &= one.ne(ANY) & other.ne(ANY)
            pairs = (one * self._num_labels + other)[differs]
            self._ties.append(pairs.unique_consecutive().unique())

    def _tied(self, every: Sequence[Tensor]) -> Tensor:
        """Tie labels that meet in one number; return the first that is not ANY, broadcast."""
        labels = every[0]
        for other in every[1:]:
            self._tie(labels, other)
            labels = torch.where(labels.eq(ANY), other, labels)
        return labels

    def _along(self, labels: Tensor, dim: int) -> Tensor:
        """Tie all labels along an axis, and return them without it."""
        one = labels.amax(dim, keepdim=True)
        self._tie(labels, one)
        return one.squeeze(dim)

    # --- operations ---

    def _move(self, func: Any, args: Any, kwargs: Any, outputs: Any) -> None:
        flat = tree_flatten(outputs)[0]
        if any(_is_float(one) and self._name(one) is not None for one in flat):
            return  # a view of the state, whose labels are computed when they are used

        def label(arg: Any) -> Any:
            return self._labels(arg) if _is_float(arg) else arg

        if func.overloadpacket.__name__ == "constant_pad_nd":
            args, kwargs = (*args[:2], ANY), {}
        moved = func(*tree_map(label, args), **tree_map(label, kwargs))
        for tensor, labels in zip(flat, tree_flatten(moved)[0], strict=True):
            self._set(tensor, labels)

    def _convolve(
        self, out: Tensor, images: Tensor, weight: Tensor, bias: Tensor | None, *others: Any, groups: int
    ) -> None:
        transposed = others[3]
        ins, outs = (self._axis_labels(weight, axis) for axis in ((0, 1) if transposed else (1, 0)))
        if ins is None or outs is None or (transposed and groups > 1):
            self.fix([images], [out])
            return
        entering = self._along(self._labels(images).movedim(1, 0).flatten(1), 1)
        if groups == 1:
            self._tie(entering, ins)
        else:  # blocks of channels that are read, and written, together
            blocks = self._along(entering.view(groups, -1), 1)
            self._tie(outs.view(groups, -1), blocks[:, None])
        if bias is not None:
            self._tie(outs, self._labels(bias))
        self._set(out, outs.view(-1, *[1] * (out.dim() - 2)))

    def _multiply(self, out: Tensor, left: Tensor, right: Tensor, addend: Tensor | None = None) -> None:
        ins, outs = (self._axis_labels(right, dim) for dim in (-2, -1))
        if ins is not None and outs is not None and right.dim() == 2:
            self._tie(self._along(self._labels(left), 0), ins)
            labels = outs.expand(out.shape)
        else:  # of two activations: what is summed over moves as one block
            rows, columns = self._along(self._labels(left), -1), self._along(self._labels(right), -2)
            labels = self._tied([columns[..., None, :], rows[..., :, None]])
        if addend is not None:
            self._tie(labels, self._labels(addend))
        self._set(out, labels)

    def _reduce(self, out: Tensor, tensor: Tensor, dims: Any) -> None:
        """Keep labels that are the same along the reduced axes; a sum over channels is the same in any order."""
        labels = self._labels(tensor)
        dims = list(range(labels.dim())) if dims is None or dims == [] else dims
        most = labels.amax(dims)
        least = torch.where(labels.eq(ANY), labels.amax(), labels).amin(dims)
        self._set(out, torch.where(least.eq(most), most, ANY).view(out.shape))

    def _normalize(self, out: Tensor, images: Tensor, vectors: Sequence[Tensor], groups: int) -> None:
        entering = self._along(self._labels(images).movedim(1, 0).flatten(1), 1)
        for vector in vectors:
            self._tie(entering, self._labels(vector))
        if 1 < groups < images.shape[1]:
            self._along(entering.view(groups, -1), 1)
        self._set(out, entering.view(-1, *[1] * (images.dim() - 2)))

    # --- the result ---

    def units(self) -> list[tuple[Channel, ...]]:
        """Return the units that no tie fixes, with their places."""
        from scipy.sparse import coo_array  # half a second, which every peer would pay
        from scipy.sparse.csgraph import connected_components

        ties = torch.cat([torch.tensor([FIXED]), *self._ties]).unique()
        used, ends = torch.stack([ties // self._num_labels, ties % self._num_labels]).unique(return_inverse=True)
        graph = coo_array((torch.ones(ends.shape[1]).numpy(), tuple(ends.numpy())), shape=(len(used),) * 2)
        component = torch.from_numpy(connected_components(graph, directed=False)[1]).long()
        fixed, places = {int(component[0])}, dict[int, dict[tuple[str, int], set[int]]]()

        def components(labels: Tensor) -> Tensor:
            index = torch.searchsorted(used, labels).clamp(max=len(used) - 1)
            return torch.where(used[index].eq(labels), component[index], ANY)

        for name, tensor in self._state.items():
            first, shape = self._first[name], tensor.shape
            found = [(axis, components(self._axis(name, axis))) for axis in range(len(shape))]
            if shape and bool((used.ge(first) & used.lt(first + tensor.numel())).any()):  # used number by number
                every = components(torch.arange(first, first + tensor.numel()).view(shape))
                rows = [every.movedim(axis, 0).reshape(length, -1) for axis, length in enumerate(shape)]
                alike = [axis for axis, row in enumerate(rows) if bool(row.eq(row[:, :1]).all())]
                found += [(axis, rows[axis][:, 0]) for axis in alike[:1]]  # the axis along which it moves
                fixed.update(every.unique().tolist() if not alike else ())
            for axis, of_indices in found:
                for position, unit in enumerate(of_indices.tolist()):
                    places.setdefault(unit, {}).setdefault((name, axis), set()).add(position)
        return [
            tuple(Channel(name, axis, tuple(sorted(at))) for (name, axis), at in where.items())
            for unit, where in places.items()
            if unit not in fixed and unit != ANY
        ]


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _broadcast_shape(tensors: Sequence[Tensor]) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(*(tensor.shape for tensor in tensors))
    except ValueError:
        return None
