"""Diagnostics of networks: density of filters, distance and disagreement of two networks, information."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graftpop.ops.importance import filter_l1_norms

__all__ = ["density", "disagreement", "distance", "network_information"]


def density(weights: Sequence[Tensor], valid: Sequence[Tensor]) -> tuple[float, float]:
    """Return the mean L1 norms of valid and of invalid filters, over all layers together.

    A baseline decides once which filters are valid; other networks use the same masks.

    Args:
        weights: weights of one or more layers, each (O, ...).
        valid: masks of the layers, each (O,) bool, true for filters that are valid in the baseline.

    Returns:
        Two means over filters; nan for no filter.

    Raises:
        ValueError: a mask is missing, not bool, or of another length.

    References:
        Meng et al., Filter Grafting for DNNs: Reason, Method, and Cultivation, arXiv:2004.12311.
    """
    if len(weights) != len(valid):
        raise ValueError(f"density: every layer needs its mask, got {len(weights)} layers and {len(valid)} masks")
    for layer, (weight, mask) in enumerate(zip(weights, valid, strict=True)):
        if mask.shape != weight.shape[:1] or mask.dtype != torch.bool:
            raise ValueError(
                f"density: the mask of layer {layer} must be bool of shape ({len(weight)},), got "
                f"{mask.dtype} of shape {tuple(mask.shape)}"
            )
    norms_F = torch.cat([filter_l1_norms(weight) for weight in weights]).double()
    is_valid_F = torch.cat(list(valid)).to(norms_F.device)
    return norms_F[is_valid_F].mean().item(), norms_F[~is_valid_F].mean().item()


def distance(one: Tensor, other: Tensor) -> float:
    """Return the Euclidean distance of two networks' weights, summed in float64.

    Args:
        one: (N,), all weights of a network in one flat tensor.
        other: the same shape and device.

    Raises:
        ValueError: the shapes differ or are not flat.
    """
    _check_flat("distance", one, other)
    gap_N = one.detach().float() - other.detach().float()
    return float(torch.linalg.vector_norm(gap_N, dtype=torch.float64))


def disagreement(predicted: Tensor, other_predicted: Tensor) -> float:
    """Return the share of images on which two networks predict different classes, in [0, 1].

    Args:
        predicted: (N,) classes, at least one.
        other_predicted: the same shape and device, for the same images.

    Raises:
        ValueError: the shapes differ or are not flat.
    """
    _check_flat("disagreement", predicted, other_predicted)
    return (predicted != other_predicted).double().mean().item()


def network_information(entropies: Tensor) -> float:
    """Return the information of a network in nats: the sum of its layers' entropies (L,).

    References:
        Meng et al., arXiv:2004.12311, "network information".
    """
    return entropies.double().sum().item()


def _check_flat(where: str, one: Tensor, other: Tensor) -> None:
    if one.dim() != 1 or one.shape != other.shape:
        raise ValueError(
            f"{where}: both must be flat and of one shape, got {tuple(one.shape)} and {tuple(other.shape)}"
        )
