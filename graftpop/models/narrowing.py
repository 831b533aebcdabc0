"""Narrowing of a new network to the widths of a checkpoint with removed filters."""

from collections.abc import Mapping

from torch import Tensor, nn

from graftpop.models.layers import BATCHNORMS, CONVOLUTIONS, is_depthwise

__all__ = ["narrow_"]


def narrow_(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Shrink the layers of a new network to the widths of a smaller one, without torch-pruning.

    Its weights are undefined until `network.load_state_dict(tensors)`, which also refuses the tensors that do not fit
    into the full network.

    Args:
        network: network of the full architecture, changed in place.
        tensors: `state_dict` of the same architecture with filters removed.
    """
    for name, module in network.named_modules():
        if not isinstance(module, (*CONVOLUTIONS, *BATCHNORMS, nn.Linear)):
            continue
        depthwise = isinstance(module, CONVOLUTIONS) and is_depthwise(module)
        for key, own in module.state_dict(keep_vars=True).items():
            stored = tensors.get(f"{name}.{key}" if name else key)
            if stored is not None and stored.shape != own.shape and _fits_into(stored, own):
                own.data = own.data.new_empty(stored.shape)
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, CONVOLUTIONS):
            module.groups = len(module.weight) if depthwise else module.groups
            module.out_channels, module.in_channels = len(module.weight), module.weight.shape[1] * module.groups
        elif module.weight is not None:
            module.num_features = len(module.weight)


def _fits_into(stored: Tensor, own: Tensor) -> bool:
    return stored.dim() == own.dim() and all(size <= whole for size, whole in zip(stored.shape, own.shape, strict=True))
