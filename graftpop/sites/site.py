"""A site: a weight tensor with a unit axis, and the tensors that belong to it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["Entry", "Part", "Role", "Site", "SiteKind"]

SiteKind = Literal["convolution", "linear", "attention", "table"]
"""convolution, linear: the weight of such a layer. attention: a query, key or value matrix, split by head. table: any
other tensor with at least two axes, such as an embedding."""

Role = Literal["bias", "scale", "shift", "mean", "variance", "other"]
"""Meaning of a tensor that belongs to a site; scale to variance are those of the normalization."""


class Part(NamedTuple):
    """A stretch of a tensor along one axis.

    Attributes:
        tensor: name of the tensor in the network's state.
        axis: the axis.
        start: first index on it.
        length: number of indices.
    """

    tensor: str
    axis: int
    start: int
    length: int


class Entry(NamedTuple):
    """A tensor, or a part of one, with entries for each unit of a site."""

    role: Role
    part: Part


@dataclass(frozen=True)
class Site:
    """One weight tensor, or a part of one, whose units are grafted, ranked or dropped.

    A unit is one of `num_units` equal blocks along the unit axis: a filter of a convolution, a row of a Linear layer or
    an embedding, a head of attention. Every entry is divided into equally many blocks.

    Attributes:
        name: name in the records, that of its layer: `layer1.0.conv1`, or `blocks.0.attn.qkv.k` for a part.
        kind: see `SiteKind`.
        weight: the weight.
        num_units: number of units.
        entries: the tensors that belong to it: bias and normalization.
        layer: name of the module with the weight.
        norm: name of the normalization that consumes the layer's output; None if there is none.
        has_batchnorm: whether `norm` is a BatchNorm.
        is_plain: whether the layer uses the weight as it is stored; false for `torch.nn.utils.parametrizations`.
        is_output: whether the layer computes the network's output, so that its units are the classes.
    """

    name: str
    kind: SiteKind
    weight: Part
    num_units: int
    entries: tuple[Entry, ...]
    layer: str
    norm: str | None = None
    has_batchnorm: bool = False
    is_plain: bool = True
    is_output: bool = False

    @property
    def is_conv_bn(self) -> bool:
        """Whether it is a site of the papers: a convolution with the BatchNorm that consumes its output."""
        return self.kind == "convolution" and self.has_batchnorm

    @property
    def parts(self) -> tuple[Part, ...]:
        """The weight and all entries."""
        return (self.weight, *(entry.part for entry in self.entries))

    def entry(self, role: Role) -> Part | None:
        """Return the entry with a role; None if there is none."""
        return next((entry.part for entry in self.entries if entry.role == role), None)
