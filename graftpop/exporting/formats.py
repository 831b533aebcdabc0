"""Export formats, each as two functions: from a network to the bytes of a file, and back.

A file of weights is the bare network and takes normalized images. A program is standalone: it takes pixels in [0, 1]
and normalizes them itself.
"""

import io
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from graftpop.errors import ModelError, one_line
from graftpop.models.network_file import rebuilt_network
from graftpop.models.pretrained import Normalization, Renormalized

__all__ = ["FORMATS", "INPUT", "Format", "Predict", "check_packages", "output_name"]

Card = Mapping[str, Any]
Predict = Callable[[Tensor], Tensor]
"""From normalized images (B, 3, H, W) to class scores (B, C)."""

INPUT: Final = "pixels"
ANY_NUMBER: Final = ({0: torch.export.Dim("batch")},)
PIXELS: Final = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
MOST_ONNX_BYTES: Final = 2**31 - 2**20  # a protocol buffer has less than 2 GiB; a margin for the graph
CANNOT_TRACE: Final = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""Errors of torch's exporters on networks that they cannot trace."""


class Format(NamedTuple):
    """One format.

    Attributes:
        file: file name.
        takes_pixels: whether it takes pixels in [0, 1] instead of normalized images.
        packages: required packages.
        encode: from a network and its card to the file's content.
        decode: from content and card to a function of normalized images.
    """

    file: str
    takes_pixels: bool
    packages: tuple[str, ...]
    encode: Callable[[nn.Module, Card], bytes]
    decode: Callable[[bytes, Card], Predict]


def check_packages(name: str) -> None:
    """Check that a format's packages are installed.

    Raises:
        ModelError: a package is missing.
    """
    absent = [package for package in FORMATS[name].packages if find_spec(package) is None]
    if absent:
        raise ModelError(
            f"--format {name}: needs {', '.join(FORMATS[name].packages)}, got no {', '.join(absent)}; pip "
            f"install 'graftpop[export]'"
        )


def output_name(card: Card) -> str:
    """Return the name of a network's output."""
    return "log_probabilities" if "ensemble" in card else "logits"


def _of_pixels(network: nn.Module, card: Card) -> nn.Module:
    """Return a network that takes pixels in [0, 1]."""
    return Renormalized(network, PIXELS, Normalization(tuple(card["mean"]), tuple(card["std"]))).requires_grad_(False)


def _pixels(images: Tensor, card: Card) -> Tensor:
    mean, std = (torch.tensor(card[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    return images * std + mean


def _traced(network: nn.Module, card: Card) -> torch.export.ExportedProgram:
    """Return the program of a network for any batch size."""
    try:
        program = torch.export.export(_of_pixels(network, card), _example(card), dynamic_shapes=ANY_NUMBER)
    except CANNOT_TRACE as error:
        raise _cannot_follow("torch.export", card, error) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine and lines of our code
    return program


def _example(card: Card) -> tuple[Tensor]:
    return (torch.rand(2, *card["image_shape"], generator=torch.Generator().manual_seed(0)),)


def _cannot_follow(exporter: str, card: Card, error: Exception) -> ModelError:
    return ModelError(f"{exporter}: cannot follow '{card['model']}': {one_line(error)}; choose --format safetensors")


def _to_safetensors(network: nn.Module, card: Card) -> bytes:
    del card
    weights = {
        name: tensor.clone(memory_format=torch.contiguous_format)  # tied weights must not share memory there
        for name, tensor in network.state_dict().items()
    }
    return save(weights, {"format": "pt"})


def _from_safetensors(content: bytes, card: Card) -> Predict:
    return rebuilt_network(card, load(content), "model.safetensors")


def _to_program(network: nn.Module, card: Card) -> bytes:
    stream = io.BytesIO()
    torch.export.save(_traced(network, card), stream, extra_files={"config.json": json.dumps(card)})
    return stream.getvalue()


def _from_program(content: bytes, card: Card) -> Predict:
    program = torch.export.load(io.BytesIO(content)).module()
    return lambda images: program(_pixels(images, card))


def _to_onnx(network: nn.Module, card: Card) -> bytes:
    import onnx

    num_bytes = sum(tensor.nbytes for tensor in network.state_dict().values())
    if num_bytes > MOST_ONNX_BYTES:
        raise ModelError(
            f"--format onnx: one file holds less than 2 GiB, got a network of {num_bytes:,} bytes; choose "
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
        raise _cannot_follow("torch.onnx", card, error) from error
    assert exported is not None  # as with dynamo=True
    proto = exported.model_proto
    proto.doc_string = _meaning(card)
    properties = {key: json.dumps(value) for key, value in card.items()}
    onnx.helper.set_model_props(proto, properties | {"input_and_output": proto.doc_string})
    return bytes(proto.SerializeToString())


def _meaning(card: Card) -> str:
    """Return a description of a program's input and output."""
    _, height, width = card["image_shape"]
    scores = (
        f"the natural logarithm of the mean of the class probabilities of {card['ensemble']} networks"
        if "ensemble" in card
        else "one logit per class"
    )
    return (
        f"{INPUT}: float32 (batch, 3, {height}, {width}), RGB in [0, 1], not normalized: the model subtracts the "
        f"mean and divides by the std itself. {output_name(card)}: float32 (batch, {card['num_classes']}), "
        f"{scores}."
    )


def _from_onnx(content: bytes, card: Card) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: _pixels(images, card).contiguous().numpy()})[0])


FORMATS: Final[Mapping[str, Format]] = {
    "safetensors": Format("model.safetensors", False, (), _to_safetensors, _from_safetensors),
    "onnx": Format("model.onnx", True, ("onnx", "onnxscript", "onnxruntime"), _to_onnx, _from_onnx),
    "torch-export": Format("model.pt2", True, (), _to_program, _from_program),
}
