"""Loading of networks from disk: the best network of a run (`graftpop.load("RUN/best")`), or a peer's file.

Loading is safe for untrusted files. It executes nothing: safetensors holds no code. It downloads nothing: a card names
an architecture, never an address. It imports nothing: the module of a user-defined class must be imported before. Its
memory is bounded by the size of the file.
"""

import copy
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from graftpop.errors import CheckpointError, ModelError
from graftpop.models import PYTHON, build
from graftpop.models.card import MAX_CARD_BYTES, ModelCard, read_card
from graftpop.models.ensemble import Ensemble, FeatureEnsemble
from graftpop.models.features import without_classifier_
from graftpop.models.narrowing import narrow_

__all__ = [
    "card_in_header",
    "deployed",
    "ensemble_of",
    "load_network",
    "read_card_and_weights",
    "read_network",
    "rebuilt_network",
    "split_peer_file",
]

MAX_WHOLE_PARAMETERS: Final = 15 * 10**7  # of a full network whose filters were removed; VGG-16 has 1.4e8
MIN_TENSOR: Final = 2**22  # values that any tensor may have while a network with arguments is built


def split_peer_file(content: bytes) -> tuple[bytes, ModelCard]:
    """Return the weights of a peer's network, as a safetensors file, and its model card.

    If filters were removed, they are the weights of the smaller network.

    Args:
        content: bytes from `graftpop.peer.peer.Peer.save`.

    Raises:
        CheckpointError: it is not a peer's file.
    """
    try:
        tensors = load(content)
        header_length = int.from_bytes(content[:8], "little")
        card = read_card(json.loads(content[8 : 8 + header_length])["__metadata__"]["model_card"])
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise CheckpointError(f"checkpoint of a peer: not readable: {_reason(error)}") from error
    prefix = "network/" if card.removed_filters is None else "small/"
    weights = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return save(weights, {"format": "pt"}), card


def load_network(place: str | Path) -> nn.Module:
    """Return the trained network of a folder `RUN/best`, or of one peer, in evaluation mode.

    It maps images (B, 3, H, W) to logits (B, num_classes), or to features (B, F) for recognition. Images are floats in
    [0, 1], normalized by the values of `config.json`: `(x - mean) / std`. An exported ensemble returns the log of its
    members' mean probabilities, or their features side by side.

    Args:
        place: a folder with `config.json` and `model.safetensors`, or a peer's file of a checkpoint.

    Raises:
        CheckpointError: it holds no such network.
        ModelError: the architecture is unknown, needs a package that is not installed, or is a user-defined class whose
            module is not imported yet.
    """
    network, card = read_network(place)
    return deployed(network, card, str(place))


def read_network(place: str | Path) -> tuple[nn.Module, ModelCard]:
    """Return the whole network, for recognition with its classifier, and its card, as in `config.json`.

    Raises:
        CheckpointError: it holds no such network.
        ModelError: the architecture is unknown, needs a package that is not installed, or is a user-defined class whose
            module is not imported yet.
    """
    card, weights = read_card_and_weights(Path(place))
    return rebuilt_network(card, weights, str(place)), card


def read_card_and_weights(place: Path) -> tuple[ModelCard, dict[str, Tensor]]:
    """Return the card and the state_dict of a network, without building it.

    Raises:
        CheckpointError: the place holds no such network.
    """
    try:
        if place.is_file():
            content, card = split_peer_file(place.read_bytes())
            return card, load(content)
        return _card_and_weights(place)
    except Exception as error:  # as in `split_peer_file`
        raise _no_network(str(place), error) from error


def _card_and_weights(folder: Path) -> tuple[ModelCard, dict[str, Tensor]]:
    """Return card and weights from one opening of `model.safetensors`, which a running study may replace meanwhile.

    The card of best/ is in its header; an exported network has it in `config.json` alone.
    """
    content = (folder / "model.safetensors").read_bytes()  # `safe_open` opens the file twice
    weights = load(content)
    card = card_in_header(content)
    if card is None:
        with open(folder / "config.json", "rb") as stream:
            card = stream.read(MAX_CARD_BYTES + 1)
    return read_card(card), weights


def card_in_header(content: bytes) -> Any:
    """Return the model card in the header of a safetensors file, JSON to be read by `read_card`; None without one."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header.get("__metadata__", {}).get("model_card")


def rebuilt_network(card: ModelCard, weights: Mapping[str, Tensor], where: str) -> nn.Module:
    """Return the network that a card describes, with the given weights, in evaluation mode.

    Args:
        card: model card of the network.
        weights: state_dict of the network.
        where: file or folder of both, for messages.

    Raises:
        CheckpointError: the weights do not fit the network.
        ModelError: the architecture is unknown, needs a package that is not installed, or is a user-defined class whose
            module is not imported yet.
    """
    _check_is_imported(card.model, where)
    num_bytes, is_narrow = sum(tensor.nbytes for tensor in weights.values()), card.removed_filters is not None
    try:
        # 2: some networks register a parameter twice; 4: bytes per weight
        limit = MAX_WHOLE_PARAMETERS if is_narrow else 2 * num_bytes // 4
        # without arguments only the number of classes comes from the card, which bounds all but the parameters
        with _at_most(limit), _SmallTensors(max(limit, MIN_TENSOR)) if card.args else nullcontext():
            members = [
                build(card.model, card.num_classes, f"{where}/config.json: model", card.args)
                for _ in range(card.ensemble or 1)
            ]
        network = members[0] if card.ensemble is None else ensemble_of(members, card)
        if is_narrow:
            narrow_(network, weights)
        network.load_state_dict(weights)
    except ModelError:
        raise
    except Exception as error:  # as in `split_peer_file`
        raise _no_network(where, error) from error
    return network.eval()


def ensemble_of(members: Sequence[nn.Module], card: ModelCard) -> nn.Module:
    """Return several networks as one, which combines their outputs as their task does."""
    if card.task == "recognition":
        return FeatureEnsemble(members, is_cosine=card.distance == "cosine")
    return Ensemble(members)


def deployed(network: nn.Module, card: ModelCard, where: str) -> nn.Module:
    """Return a network as it is used after training: for recognition a copy without classifier, which returns features.

    Args:
        network: whole network from `rebuilt_network`; not changed.
        card: model card of the network.
        where: file or folder of both, for messages.

    Raises:
        CheckpointError: the network has no such classifier.
    """
    if card.classifier is None:
        return network
    network = copy.deepcopy(network)
    try:
        for member in network.members if isinstance(network, FeatureEnsemble) else [network]:
            without_classifier_(member, card.classifier)
    except ValueError as error:
        raise _no_network(where, error) from error
    return network


def _check_is_imported(model: str, where: str) -> None:
    """Raise ModelError if the network is a user-defined class whose module is not imported yet."""
    module = model.removeprefix(PYTHON).rpartition(".")[0]
    if model.startswith(PYTHON) and module not in sys.modules:
        raise ModelError(
            f"{where}: the module of '{model}' must be imported before loading, since a file never causes an import; "
            f"import {module} first"
        )


def _no_network(where: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{where}: holds no network that can be loaded: {_reason(error)}; give the folder best/ of a run"
    )


@contextmanager
def _at_most(num_parameters: int) -> Iterator[None]:
    """Make building a network inside the block fail as soon as it exceeds a number of parameters.

    The meta device would allocate nothing, but some networks cannot be built there (torchvision's RegNets).
    """
    num_left = num_parameters

    def count(_: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal num_left
        num_left -= 0 if parameter is None else parameter.numel()
        if num_left < 0:
            raise CheckpointError(
                f"model.safetensors is too small for this network, which has more than {num_parameters} parameters"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


class _SmallTensors(TorchDispatchMode):
    """Refuses operations whose result would exceed a number of values, before they allocate it.

    Arguments such as an image size decide on the size of buffers and of intermediate results.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._limit = limit

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        on_meta = {"device": torch.device("meta")} if "device" in kwargs else {}
        inputs = tree_map_only(Tensor, lambda tensor: torch.empty_like(tensor, device="meta"), (args, kwargs))
        try:
            results = tree_leaves(func(*inputs[0], **{**inputs[1], **on_meta}))
        except Exception:  # sizes that depend on values, as of torch.unique, are at most the inputs'
            results = []
        if any(isinstance(result, Tensor) and result.numel() > self._limit for result in results):
            raise CheckpointError(f"its arguments need tensors of more than {self._limit} values")
        return func(*args, **kwargs)


def _reason(error: Exception) -> str:
    return textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" ...")
