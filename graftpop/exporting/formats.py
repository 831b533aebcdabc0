"""File formats of an export, each with an encoder from network to bytes and a decoder back.

safetensors has weights only; the loaded network takes normalized images. The onnx and torch-export files are complete
programs: they take pixels in [0, 1] and normalize them.
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
from graftpop.models.module_check import without_ties
from graftpop.models.network_file import rebuilt_network
from graftpop.models.pretrained import Normalization, Renormalized

__all__ = ["FORMATS", "INPUT", "Format", "Predict", "check_packages", "output_name"]

Predict = Callable[[Tensor], Tensor]
"""Function from normalized images (B, 3, H, W) to class scores (B, C)."""

INPUT: Final = "pixels"
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


def output_name(card: ModelCard) -> str:
    """Return the name of a network's output."""
    return "logits" if card.ensemble is None else "log_probabilities"


def _of_pixels(network: nn.Module, card: ModelCard) -> nn.Module:
    """Return a network that takes pixels in [0, 1]."""
    return Renormalized(network, PIXELS, Normalization(card.mean, card.std)).requires_grad_(False)


def _pixels(images: Tensor, card: ModelCard) -> Tensor:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (card.mean, card.std))
    return images * std + mean


def _traced(network: nn.Module, card: ModelCard) -> torch.export.ExportedProgram:
    """Return the exported program of a network, for any batch size."""
    try:
        program = torch.export.export(_of_pixels(network, card), _example(card), dynamic_shapes=ANY_NUMBER)
    except CANNOT_TRACE as error:
        raise _cannot_trace("torch.export", card, error) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # else the file contains paths of this machine and lines of our code
    return program


def _example(card: ModelCard) -> tuple[Tensor]:
    return (torch.rand(2, *card.image_shape, generator=torch.Generator().manual_seed(0)),)


def _cannot_trace(exporter: str, card: ModelCard, error: Exception) -> ModelError:
    return ModelError(f"{exporter}: cannot trace '{card.model}': {one_line(error)}; choose --format safetensors")


def _to_safetensors(network: nn.Module, card: ModelCard) -> bytes:
    del card
    return save(without_ties(network.state_dict()), {"format": "pt"})


def _from_safetensors(content: bytes, card: ModelCard) -> Predict:
    return rebuilt_network(card, load(content), "model.safetensors")


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
            input_names=[INPUT],
            output_names=[output_name(card)],
            dynamic_shapes=ANY_NUMBER,
            dynamo=True,
            verbose=False,
        )
    except CANNOT_TRACE as error:
        raise _cannot_trace("torch.onnx", card, error) from error
    assert exported is not None  # dynamo=True returns a program
    proto = exported.model_proto
    proto.doc_string = _input_and_output(card)
    properties = {key: json.dumps(value) for key, value in card.to_dict().items()}
    onnx.helper.set_model_props(proto, properties | {"input_and_output": proto.doc_string})
    return bytes(proto.SerializeToString())


def _input_and_output(card: ModelCard) -> str:
    """Return a description of a program's input and output."""
    _, height, width = card.image_shape
    scores = (
        "one logit per class"
        if card.ensemble is None
        else f"the natural logarithm of the mean of the class probabilities of {card.ensemble} networks"
    )
    return (
        f"{INPUT}: float32 (batch, 3, {height}, {width}), RGB in [0, 1], not normalized: the model subtracts the "
        f"mean and divides by the std. {output_name(card)}: float32 (batch, {card.num_classes}), {scores}."
    )


def _from_onnx(content: bytes, card: ModelCard) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: _pixels(images, card).contiguous().numpy()})[0])


FORMATS: Final[Mapping[str, Format]] = {
    "safetensors": Format("model.safetensors", False, (), _to_safetensors, _from_safetensors),
    "onnx": Format("model.onnx", True, ("onnx", "onnxscript", "onnxruntime"), _to_onnx, _from_onnx),
    "torch-export": Format("model.pt2", True, (), _to_program, _from_program),
}
