"""File formats of an export, each with an encoder from network to bytes and a decoder back.

safetensors has weights only; the loaded network takes normalized images. The onnx and torch-export files are complete
programs: they take pixels in [0, 1] and normalize them. The input of a user-defined data set is not normalized.
"""

import io
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Final, NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from graftpop.errors import ModelError, one_line
from graftpop.models.card import ModelCard
from graftpop.models.forward_check import blank_images
from graftpop.models.module_check import without_ties
from graftpop.models.network_file import deployed, rebuilt_network
from graftpop.models.normalization import Normalization, Renormalized

__all__ = [
    "FORMATS",
    "Format",
    "Predict",
    "check_packages",
    "has_pixels",
    "input_name",
    "input_text",
    "output_name",
    "output_text",
]

Predict = Callable[[Tensor], Tensor]
"""Function from normalized images (B, 3, H, W) to class scores (B, C), or from a task's inputs to its outputs."""

ANY_NUMBER: Final = ({0: torch.export.Dim("batch")},)
PIXELS: Final = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
MOST_ONNX_BYTES: Final = 2**31 - 2**20  # a protocol buffer is limited to 2 GiB; the margin is for the graph
CANNOT_TRACE: Final = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""Errors that torch's exporters raise for a network they cannot trace."""


class Format(NamedTuple):
    """One file format.

    Attributes:
        file: name of the file.
        takes_pixels: whether the file takes pixels in [0, 1] instead of normalized images.
        packages: required packages beyond graftpop's own.
        encode: function from a network and its card to the file's content.
        decode: function from the content and the card to a `Predict`, which takes normalized images in every format.
    """

    file: str
    takes_pixels: bool
    packages: tuple[str, ...]
    encode: Callable[[nn.Module, ModelCard], bytes]
    decode: Callable[[bytes, ModelCard], Predict]


def check_packages(name: str) -> None:
    """Check that the packages of a format are installed.

    Raises:
        ModelError: a package is missing.
    """
    missing = [package for package in FORMATS[name].packages if find_spec(package) is None]
    if missing:
        raise ModelError(
            f"--format {name}: needs {', '.join(FORMATS[name].packages)}, missing {', '.join(missing)}; run "
            f"pip install 'graftpop[export]'"
        )


def has_pixels(card: ModelCard) -> bool:
    """Return whether a network's input is RGB that is normalized, not a user-defined data set's."""
    return (card.mean, card.std) != PIXELS


def input_name(card: ModelCard) -> str:
    """Return the name of a program's input."""
    return "pixels" if has_pixels(card) else "inputs"


def output_name(card: ModelCard) -> str:
    """Return the name of a network's output."""
    if card.classifier is not None:
        return "features"
    if card.task != "classification":
        return "outputs"
    return "logits" if card.ensemble is None else "log_probabilities"


def input_text(card: ModelCard) -> str:
    """Return dtype and shape of a network's input."""
    return f"{card.input_dtype} (batch, {', '.join(map(str, card.image_shape))})"


def output_text(network: nn.Module, card: ModelCard) -> str:
    """Return dtype, shape and meaning of a network's output.

    Args:
        network: whole network.
        card: its model card.
    """
    if card.classifier is not None:
        with torch.no_grad():
            num = deployed(network, card, "the network")(blank_images(network, 2, card.input_shape)).shape[1]
        distance = "cosine of their angle" if card.distance == "cosine" else "Euclidean distance"
        text = f"float32 (batch, {num}): features; images of one identity are near each other by the {distance}"
        scaled = ", each of length 1" if card.distance == "cosine" else ""
        return text if card.ensemble is None else f"{text}. Those of {card.ensemble} networks are side by side{scaled}"
    if card.task != "classification":
        return f"the output of the network, from which the task {card.task} makes its predictions"
    scores = (
        "one logit per class"
        if card.ensemble is None
        else f"the natural logarithm of the mean of the class probabilities of {card.ensemble} networks; a softmax "
        f"returns that mean"
    )
    return f"float32 (batch, {card.num_classes}): {scores}"


def _program(network: nn.Module, card: ModelCard) -> nn.Module:
    """Return a network that takes pixels in [0, 1], or the input of a user-defined data set."""
    network = deployed(network, card, "the network")
    if has_pixels(card):
        network = Renormalized(network, PIXELS, Normalization(card.mean, card.std))
    return network.requires_grad_(False)


def _pixels(images: Tensor, card: ModelCard) -> Tensor:
    if not has_pixels(card):
        return images
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (card.mean, card.std))
    return images * std + mean


def _traced(network: nn.Module, card: ModelCard) -> torch.export.ExportedProgram:
    """Return the exported program of a network, for any batch size."""
    try:
        program = torch.export.export(_program(network, card), _example(card), dynamic_shapes=ANY_NUMBER)
    except CANNOT_TRACE as error:
        raise _cannot_trace("torch.export", card, error) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # else the file contains paths of this machine and lines of our code
    return program


def _example(card: ModelCard) -> tuple[Tensor]:
    if card.input_dtype == "int64":
        return (torch.zeros(2, *card.image_shape, dtype=torch.int64),)
    return (torch.rand(2, *card.image_shape, generator=torch.Generator().manual_seed(0)),)


def _cannot_trace(exporter: str, card: ModelCard, error: Exception) -> ModelError:
    return ModelError(f"{exporter}: cannot trace '{card.model}': {one_line(error)}; choose --format safetensors")


def _to_safetensors(network: nn.Module, card: ModelCard) -> bytes:
    del card
    return save(without_ties(network.state_dict()), {"format": "pt"})


def _from_safetensors(content: bytes, card: ModelCard) -> Predict:
    return deployed(rebuilt_network(card, load(content), "model.safetensors"), card, "model.safetensors")


def _to_program(network: nn.Module, card: ModelCard) -> bytes:
    stream = io.BytesIO()
    torch.export.save(_traced(network, card), stream, extra_files={"config.json": json.dumps(card.to_dict())})
    return stream.getvalue()


def _from_program(content: bytes, card: ModelCard) -> Predict:
    program = torch.export.load(io.BytesIO(content)).module()
    return lambda images: program(_pixels(images, card))


def _to_onnx(network: nn.Module, card: ModelCard) -> bytes:
    import onnx

    num_bytes = sum(tensor.nbytes for tensor in network.state_dict().values())
    if num_bytes > MOST_ONNX_BYTES:
        raise ModelError(
            f"--format onnx: a file must be smaller than 2 GiB, got a network of {num_bytes:,} bytes; choose "
            f"--format safetensors or torch-export"
        )
    program = _traced(network, card)
    try:
        exported = torch.onnx.export(
            program,
            _example(card),
            input_names=[input_name(card)],
            output_names=[output_name(card)],
            dynamic_shapes=ANY_NUMBER,
            dynamo=True,
            verbose=False,
        )
    except CANNOT_TRACE as error:
        raise _cannot_trace("torch.onnx", card, error) from error
    assert exported is not None  # dynamo=True returns a program
    proto = exported.model_proto
    proto.doc_string = _input_and_output(network, card)
    properties = {key: json.dumps(value) for key, value in card.to_dict().items()}
    onnx.helper.set_model_props(proto, properties | {"input_and_output": proto.doc_string})
    return bytes(proto.SerializeToString())


def _input_and_output(network: nn.Module, card: ModelCard) -> str:
    """Return a description of a program's input and output."""
    takes = ", as the data set gives it"
    if has_pixels(card):
        takes = ", RGB in [0, 1], not normalized: the model subtracts the mean and divides by the std"
    return f"{input_name(card)}: {input_text(card)}{takes}. {output_name(card)}: {output_text(network, card)}."


def _from_onnx(content: bytes, card: ModelCard) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    name = input_name(card)
    return lambda images: torch.from_numpy(session.run(None, {name: _pixels(images, card).contiguous().numpy()})[0])


FORMATS: Final[Mapping[str, Format]] = {
    "safetensors": Format("model.safetensors", False, (), _to_safetensors, _from_safetensors),
    "onnx": Format("model.onnx", True, ("onnx", "onnxscript", "onnxruntime"), _to_onnx, _from_onnx),
    "torch-export": Format("model.pt2", True, (), _to_program, _from_program),
}
