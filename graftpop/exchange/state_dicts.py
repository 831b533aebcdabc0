"""`graftpop.graft`: grafting of two state dicts, without modules or a population.

The order of the entries shows which tensors belong together. A population runs the network instead
(`sites/find.py`), which a state dict does not permit.
"""

from collections.abc import Mapping

from torch import Tensor

from graftpop.errors import ModelError
from graftpop.ops.alpha import adaptive_alpha
from graftpop.ops.entropy import layer_entropies
from graftpop.ops.graft import blend
from graftpop.sites.by_name import FLOATS, convolutions_of, convolutions_suffice, weights_of

__all__ = ["graft_state_dicts"]


def graft_state_dicts(
    receiver: Mapping[str, Tensor], donor: Mapping[str, Tensor], *, A: float = 0.4, c: float = 500.0, base: float = 0.5
) -> dict[str, Tensor]:
    """Return the receiver's state dict grafted with the donor's state dict, layer by layer; neither is changed.

        alpha  = A / pi * atan(c * (H_receiver - H_donor)) + base,   in [0, 1], of each site
        result = alpha * receiver + (1 - alpha) * donor

    H is the entropy of a site's weights in 10 bins, in nats. Names and shapes give the sites. They are the
    convolutions, each a `weight` with four dimensions, if these hold at least 90 % of the parameters. Otherwise they
    are all floating-point tensors with at least two axes longer than one: Linear layers, embeddings, query, key and
    value as one matrix, convolutions of every kind. Floating-point tensors count as parameters, except the running
    statistics of normalization.

    The *order* of the entries shows which belong to a site: those after it, up to the next site, take its alpha, such
    as bias and normalization. Entries before the first site take the first alpha.

    Populations *run* the network instead. Both agree if each convolution precedes the BatchNorm that consumes its
    output, as in ResNet, MobileNetV2 and VGG in their CIFAR forms. They differ where

    - normalization precedes its layer (WideResNet, DenseNet), or a bias its weight (torch's parametrizations): here
      such an entry follows the site before it;
    - convolutions have no BatchNorm: here they are sites, and a classifier that holds less than 10 % of the parameters
      follows the last one. A population with `graft.sites: auto` leaves them out, or makes the classifier a site too;
    - one matrix holds query, key and value: here it has one alpha;
    - a floating-point buffer has two axes: here it is a site.

    Args:
        receiver: a network's `state_dict()`.
        donor: `state_dict()` of a network of the same architecture, with the same dtypes, on the same device.
        A: width of the interval of alpha around `base`, in [0, 1]; 0 averages the two.
        c: steepness, > 0, per nat.
        base: alpha of equal entropies, in [0, 1].

    Returns:
        A new dict of new tensors, in the receiver's order. Integer buffers are the receiver's.

    Raises:
        ModelError: the two differ in a name, shape, dtype or device; the entries are not in the network's order; a site
            has weights that are not finite; or there is no site.
        ValueError: A, c or base is outside its range.

    References:
        Meng et al., Filter Grafting for Deep Neural Networks, CVPR 2020, arXiv:2001.05868.
    """
    _check_alike(receiver, donor)
    _check_order(receiver)
    sites = convolutions_of(receiver) if convolutions_suffice(receiver) else weights_of(receiver)
    if not sites:
        raise ModelError(
            "graft: the state dicts must hold a weight, a floating-point tensor with two axes longer than one, got "
            "none; give network.state_dict() of a network with layers"
        )
    alphas = adaptive_alpha(
        _entropies("receiver", receiver, sites), _entropies("donor", donor, sites), A=A, c=c, base=base
    )
    alpha_of = dict(zip(sites, alphas, strict=True))
    grafted, alpha = {}, alphas[0]  # entries before the first site follow it
    for name, own in receiver.items():
        alpha = alpha_of.get(name, alpha)
        is_blended = own.dtype in FLOATS
        grafted[name] = blend(own.detach(), donor[name].detach(), alpha) if is_blended else own.detach().clone()
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
