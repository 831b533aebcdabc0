"""RePr's two formulas: the overlap of a filter with the others of its layer, and new filters without overlap.

A filter is the flat row of its weights. All arithmetic is in float64: nothing is rounded to TF32 or bfloat16, and a
filter that decayed to 1e-30 still has a direction. Dimensions in names: O filters, D dropped and J kept ones, R rank of
the avoided rows, K weights per filter (fan_in).

References:
    Prakash, Storer, Florencio, Zhang, RePr: Improved Training of Convolutional Filters, CVPR 2019, arXiv:1811.07275.
"""

import torch
from torch import Tensor

__all__ = ["orthogonal_filters", "overlaps"]

ROUNDING = 1e-6
"""Singular values of unit rows up to this are float32 rounding; it ignores cosines below."""


def overlaps(weight: Tensor) -> Tensor:
    """Return the overlap of each filter with the others of its layer.

        O_f = (1 / O) * sum over g != f of |cos(F_f, F_g)|

    A filter of zeros has no direction and no overlap.

    Args:
        weight: (O, ...), one row per filter, finite.

    Returns:
        (O,) float32 on the device of `weight`, each in [0, 1 - 1 / O]; RePr drops the largest.

    References:
        RePr, the ranking by inter-filter orthogonality: P = |W W^T - I|, row sums over the number of filters. The
        text does not say how W is normalized; only unit rows make the diagonal of W W^T the identity. The released
        code normalizes the whole matrix and takes the absolute value of the mean, so overlaps of opposite sign
        cancel. Ours follows the text.
    """
    rows_OK = _unit_rows(weight)
    overlaps_OO = (rows_OK @ rows_OK.T).abs()
    overlaps_OO.fill_diagonal_(0.0)  # not minus I: the diagonal of a zero filter is 0 already
    return (overlaps_OO.sum(1) / len(weight)).float()


def orthogonal_filters(dropped: Tensor, kept: Tensor, generator: torch.Generator) -> Tensor:
    """Return new filters for dropped ones, orthogonal to the kept filters and to the old values.

    They are also orthogonal to each other, and random in the remaining space: each set of directions is equally likely.
    D orthogonal filters need D dimensions besides those of the avoided filters. A first convolution, a widening 1x1 or
    a depthwise convolution may lack them. So the new filters are

    1. orthogonal to kept and old filters and to each other, if fan_in - rank(kept and old) >= D;
    2. else orthogonal to the kept filters and to each other, if fan_in - rank(kept) >= D;
    3. else the first fan_in - rank(kept) of them are as in 2, the others random directions.

    Each has the mean L2 norm of the kept filters, or norm 1 without a nonzero kept filter. They are computed on the
    CPU, so a generator gives the same filters on every device.

    Args:
        dropped: (D, ...), the dropped filters as they were before, finite.
        kept: (J, ...), the others as they are now, finite, of the same shape except for the first dimension.
        generator: on the CPU; D * fan_in normal values are drawn from it in every case.

    Returns:
        (D, ...) new tensor of the dtype and on the device of `dropped`, without a graph.

    Raises:
        ValueError: the filters of `dropped` and `kept` differ in shape.

    References:
        RePr, the re-initialization of filters. The text does not mention the norm or too few dimensions; both are
        ours.
    """
    # The released code takes columns of Q from a QR of the present layer: orthogonal to filters of lower index only,
    # and close to the filter's old value, against the text. The null space here follows the text.
    if dropped.shape[1:] != kept.shape[1:]:
        raise ValueError(
            f"orthogonal_filters: filters must have one shape, got {tuple(dropped.shape[1:])} dropped and "
            f"{tuple(kept.shape[1:])} kept"
        )
    kept_on_cpu = kept.cpu()
    old_DK, kept_JK = _unit_rows(dropped.cpu()), _unit_rows(kept_on_cpu)
    num_dropped, fan_in = old_DK.shape
    avoided_RK = _basis(torch.cat([kept_JK, old_DK]))
    if fan_in - len(avoided_RK) < num_dropped:
        avoided_RK = _basis(kept_JK)
    drawn_DK = torch.randn(num_dropped, fan_in, generator=generator, dtype=torch.float64)
    free_DK, rest_DK = drawn_DK.tensor_split([fan_in - len(avoided_RK)])
    directions_DK = torch.cat([_orthonormal(free_DK, avoided_RK), _unit_rows(rest_DK)])
    return (directions_DK * _mean_norm(kept_on_cpu)).reshape(dropped.shape).to(dropped)


def _unit_rows(weight: Tensor) -> Tensor:
    """Return the flat filters in float64, each divided by its L2 norm; a zero filter stays zero."""
    norms_O = _norms(weight)
    return weight.detach().double().flatten(1) / norms_O.where(norms_O > 0, 1.0)[:, None]


def _norms(weight: Tensor) -> Tensor:
    norms_O: Tensor = torch.linalg.vector_norm(weight.detach().double().flatten(1), dim=1)
    return norms_O


def _mean_norm(kept: Tensor) -> float:
    norms_J = _norms(kept)
    return norms_J.mean().item() if norms_J.any() else 1.0


def _basis(rows_OK: Tensor) -> Tensor:
    """Return orthonormal rows with the same span as some unit rows."""
    columns, singular_values, _ = torch.linalg.svd(rows_OK.T, full_matrices=False)  # faster on its side
    basis_RK: Tensor = columns[:, singular_values > ROUNDING].T
    return basis_RK


def _orthonormal(drawn_DK: Tensor, avoided_RK: Tensor) -> Tensor:
    """Return drawn rows, made orthogonal to those of a basis and to each other, and of unit length."""
    columns, triangle = torch.linalg.qr((drawn_DK - (drawn_DK @ avoided_RK.T) @ avoided_RK).T)
    rows_DK: Tensor = (columns * triangle.diagonal().sign()).T  # QR's own choice of signs would not be uniform
    return rows_DK
