"""`graftpop.graft`: grafting of two state dicts, without modules or a population.

The order of the entries shows which tensors belong together. A population runs the network instead
(`training/sites.py`), which a state dict does not permit.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from graftpop.errors import ModelError
from graftpop.ops.alpha import adaptive_alpha
from graftpop.ops.entropy import layer_entropies
from graftpop.ops.graft import blend

__all__ = ["convolutions_of", "graft_state_dicts"]

FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def convolutions_of(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the weights of two-dimensional convolutions, in order.

    These are all floating-point entries `weight` with four dimensions. A state dict shows nothing more: the weight of a
    one-dimensional convolution looks like other tensors.

    Args:
        state: a state dict.
    """
    return [
        name
        for name, tensor in state.items()
        if name.rpartition(".")[2] == "weight" and tensor.dim() == 4 and tensor.dtype in FLOATS and tensor.numel()
    ]


def graft_state_dicts(
    receiver: Mapping[str, Tensor], donor: Mapping[str, Tensor], *, A: float = 0.4, c: float = 500.0
) -> dict[str, Tensor]:
    """Return the receiver's state dict grafted with the donor's state dict, layer by layer; neither is changed.

        alpha  = A / pi * atan(c * (H_receiver - H_donor)) + 1/2        of each convolution
        result = alpha * receiver + (1 - alpha) * donor

    H is the entropy of a convolution's weights in 10 bins, in nats. The *order* of the entries gives the sites. A
    convolution is a `weight` with four dimensions. The entries after it, up to the next convolution, take its alpha:
    bias, BatchNorm, and at the end the classifier. Populations find sites by *running* the network instead. Both agree
    if each convolution precedes the BatchNorm that consumes its output, as in ResNet, MobileNetV2 and VGG. They differ
    for BatchNorm before the convolution (WideResNet, DenseNet) and for convolutions without one: here each has its own
    alpha, while in a population it takes the alpha of the site before it.

    Args:
        receiver: a network's `state_dict()`.
        donor: `state_dict()` of a network of the same architecture, with the same dtypes, on the same device.
        A: width of the interval of alpha around 1/2, in [0, 1]; 0 averages the two.
        c: steepness, > 0, per nat.

    Returns:
        A new dict of new tensors, in the receiver's order. Integer buffers are the receiver's.

    Raises:
        ModelError: the two differ in a name, shape, dtype or device; the entries are not in the network's order; a
            convolution is not finite; or there is none.
        ValueError: A or c is outside its range.

    References:
        Meng et al., Filter Grafting for Deep Neural Networks, CVPR 2020, arXiv:2001.05868.
    """
    _check_alike(receiver, donor)
    _check_order(receiver)
    convolutions = convolutions_of(receiver)
    if not convolutions:
        raise ModelError(
            "graft: the state dicts must hold a convolution, a weight with four dimensions, got none; "
            "give network.state_dict() of a convolutional network"
        )
    alpha = adaptive_alpha(
        _entropies("receiver", receiver, convolutions), _entropies("donor", donor, convolutions), A=A, c=c
    )
    grafted, site = {}, 0  # entries before the first convolution follow it
    for name, own in receiver.items():
        site = convolutions.index(name) if name in convolutions else site
        is_blended = own.dtype in FLOATS
        grafted[name] = blend(own.detach(), donor[name].detach(), alpha[site]) if is_blended else own.detach().clone()
    return grafted


def _check_alike(receiver: Mapping[str, Tensor], donor: Mapping[str, Tensor]) -> None:
    for name in (*receiver, *donor):
        one, other = receiver.get(name), donor.get(name)
        if one is None or other is None:
            raise ModelError(
                f"graft: receiver and donor must have the same names, got '{name}' in the "
                f"{'donor' if one is None else 'receiver'} only; graft needs equal architectures"
            )
        if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
            raise ModelError(
                f"graft: '{name}' must be alike in both, got {_kind(one)} in the receiver and "
                f"{_kind(other)} in the donor; graft needs equal architectures"
            )


def _check_order(state: Mapping[str, Tensor]) -> None:
    """Check that the entries are in the network's order: torch modules have their weight before their bias."""
    seen: set[str] = set()
    for name in state:
        module, _, kind = name.rpartition(".")
        if kind == "bias" and f"{module}.weight" in state and f"{module}.weight" not in seen:
            raise ModelError(
                f"graft: entries must be in the order of the network, got '{name}' before its weight, as "
                f"a safetensors file has them; load them into the network and give network.state_dict()"
            )
        seen.add(name)


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"


def _entropies(whose: str, state: Mapping[str, Tensor], names: list[str]) -> Tensor:
    for name in names:
        if not state[name].isfinite().all():
            raise ModelError(
                f"graft: the {whose}'s '{name}' must be finite, got values that are not; give a network "
                f"whose training did not diverge"
            )
    return layer_entropies([state[name] for name in names])
