"""The README of an exported network: origin, input and output, loading, score and recipe."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import yaml

from graftpop import __version__
from graftpop.exporting.checks import Measurement
from graftpop.exporting.formats import FORMATS, has_pixels, input_name, input_text, output_name, output_text
from graftpop.exporting.selection import SelectedNetwork
from graftpop.models import TIMM, TORCHVISION
from graftpop.models.card import ModelCard
from graftpop.settings import Settings

__all__ = ["readme_text"]

NOT_RECIPE: Final[Mapping[str, Any]] = {
    "name": True,
    "tune": True,
    "resources": True,
    "diagnostics": True,
    "data": {"root"},  # a path on the machine that trained the network
    "population": {
        "deadline_factor",
        "round_timeout_s",
        "max_peer_restarts",
        "replace_timeout_s",
        "min_peers",
        "peers_per_actor",
    },
}
"""Settings that do not change the network; the README leaves them out."""

SPLITS: Final = {"val": "validation", "test": "test"}

PAPERS: Final = """\
```bibtex
@inproceedings{meng2020filter,
  title     = {Filter Grafting for Deep Neural Networks},
  author    = {Meng, Fanxu and Cheng, Hao and Li, Ke and Xu, Zhixin and Ji, Rongrong and Sun, Xing and Lu, Guangming},
  booktitle = {CVPR},
  year      = {2020},
  pages     = {6599--6607},
  note      = {arXiv:2001.05868}
}
```

The follow-up, with distillation: *Filter Grafting for Deep Neural Networks: Reason, Method, and Cultivation*,
[arXiv 2004.12311](https://arxiv.org/abs/2004.12311)."""

LOADING: Final[Mapping[str, str]] = {
    "safetensors": """\
import torch
import graftpop
network = graftpop.load(".")
{input}
{output} = network({name})""",
    "onnx": """\
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession("{file}")
{input}
({output},) = session.run(None, {{"{name}": {name}}})""",
    "torch-export": """\
import torch
network = torch.export.load("{file}").module()
{input}
{output} = network({name})""",
}
"""Python code by format that loads the network and runs it on one input."""

PIPELINES: Final = {"classification": "image-classification", "recognition": "image-feature-extraction"}
"""Tags of a model hub by task."""


def readme_text(
    selected: SelectedNetwork,
    name: str,
    provenance: Mapping[str, Any],
    measurements: Sequence[Measurement],
    *,
    is_noise: bool,
) -> str:
    """Return the README of an exported network, in Markdown.

    Args:
        selected: the exported network.
        name: name of the format.
        provenance: content of the run's `run.json`; may be empty.
        measurements: measurements of the file on each split, or on noise.
        is_noise: whether the only measurement is on noise.
    """
    settings, model = selected.settings, selected.card.model
    parts = {
        "": f"{selected.description} {_origin(selected)}",
        "Input and output": _interface(selected, name),
        "Load it": _loading(selected, name),
        "Score": _score(measurements, settings, is_noise=is_noise),
        "Data": _data(settings, selected.card),
        "Recipe": f"```yaml\n{_recipe(settings)}```",
        "Versions": _versions(provenance, name),
        "Papers": PAPERS,
    }
    tags = json.dumps(["graftpop", "filter-grafting", model])
    sections = [f"## {title}\n\n{text}" if title else text for title, text in parts.items()]
    pipeline = f"pipeline_tag: {PIPELINES[selected.card.task]}\n" if selected.card.task in PIPELINES else ""
    head = f"---\n{pipeline}tags: {tags}\n---\n\n# {settings.name}: {model}"
    return "\n\n".join([head, *sections]) + "\n"


def _origin(selected: SelectedNetwork) -> str:
    settings, metadata, trial = selected.settings, selected.metadata, selected.trial
    kind = {"classification": "classes", "recognition": "identities"}.get(selected.card.task, "outputs")
    text = (
        f"From trial {trial['trial_id']} of the run `{settings.name}`; a peer is a `{selected.card.model}` for "
        f"{selected.card.num_classes} {kind}, trained for {metadata.summary['epoch']} epochs."
    )
    if not metadata.is_complete:
        text += f" The trial was at round {metadata.round} of {settings.num_rounds}; its status is {trial['status']}."
    if selected.card.removed_filters is not None:
        text += f" {selected.card.removed_filters:,} filters were removed at the end of training."
    return text


def _interface(selected: SelectedNetwork, name: str) -> str:
    card = selected.card
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (card.mean, card.std))
    if not has_pixels(card):
        takes = f"- Input `inputs`, {input_text(card)}, as the data set gives it."
    elif FORMATS[name].takes_pixels:
        takes = (
            f"- Input `{input_name(card)}`, {input_text(card)}: RGB **in [0, 1], not normalized**. The file normalizes "
            f"it with the data's mean ({mean}) and std ({std})."
        )
    else:
        takes = (
            f"- Input: images, {input_text(card)}: RGB in [0, 1], **minus the mean ({mean}), divided by the std "
            f"({std})**; `config.json` has all digits."
        )
    lines = [
        takes,
        f"- Output `{output_name(card)}`, {output_text(selected.network, card)}.",
        "- The batch may have any size." + " `config.json` lists the class names in order." * bool(card.class_names),
    ]
    if card.classifier is not None:
        lines[-1] = "- The batch may have any size. `config.json` lists the identities of training; use it for others."
    if (
        name == "safetensors"
        and card.model.startswith((TORCHVISION, TIMM))
        and card.ensemble is None
        and card.removed_filters is None
    ):
        lines.append(
            f"- The weights have the names of `{card.model}`: that library's network with "
            f"{card.num_classes} classes loads them by `load_state_dict`."
        )
    return "\n".join(lines)


def _loading(selected: SelectedNetwork, name: str) -> str:
    card = selected.card
    code = LOADING[name].format(
        name=input_name(card), input=_example(card, name), output=output_name(card), file=FORMATS[name].file
    )
    return f"In the folder of this README:\n\n```python\n{code}\n```"


def _example(card: ModelCard, name: str) -> str:
    """Return Python code that makes one input."""
    shape = ", ".join(map(str, (1, *card.image_shape)))
    if not has_pixels(card):
        made = (
            f"np.zeros(({shape}), np.{card.input_dtype})"
            if name == "onnx"
            else f"torch.zeros({shape}, dtype=torch.{card.input_dtype})"
        )
        return f"inputs = {made}  # stand-in for an item of the data set"
    if name == "onnx":
        return f"pixels = np.random.rand({shape}).astype(np.float32)  # stand-in for images: RGB in [0, 1]"
    pixels = f"pixels = torch.rand({shape})  # stand-in for images: RGB in [0, 1]"
    if FORMATS[name].takes_pixels:
        return pixels
    mean, std = list(card.mean), list(card.std)
    return (
        f"{pixels}\nmean, std = (torch.tensor(values).view(3, 1, 1) for values in ({mean}, {std}))\n"
        f"pixels = (pixels - mean) / std"
    )


def _score(measurements: Sequence[Measurement], settings: Settings, *, is_noise: bool) -> str:
    primary = settings.primary
    if is_noise:
        (noise,) = measurements
        or_task = ", or the task calls the network itself" * settings.task.is_user_defined
        kind = "inputs" if settings.task.is_user_defined else "images"
        return (
            f"Not measured: the run's data was not available when this file was written{or_task}. The file agrees with "
            f"the network within {noise.difference:.1e} on {noise.num_images} noise {kind}."
        )
    rows = [
        f"| {SPLITS[row.images]} | {row.num_images:,} | {primary.text(row.score)} | {row.difference:.1e} |"
        for row in measurements
    ]
    return "\n".join(
        [
            f"| images | number | {primary.label} | largest difference from the network |",
            "|---|---|---|---|",
            *rows,
            "",
            "Measured in float32 with this file, when it was written. The validation images were held out of training "
            "and selected the trial and its best peer. The test images selected nothing.",
        ]
    )


def _data(settings: Settings, card: ModelCard) -> str:
    data = settings.data
    parts = [f"`{data.name}`" + (f", label `{data.label}`" if data.label else "")]
    parts += [f"limited to {data.max_train_images:,} training images"] if data.max_train_images else []
    if data.name in ("market1501", "dukemtmc"):
        parts.append(f"each image scaled to {card.image_shape[1]} x {card.image_shape[2]} pixels")
    elif data.image_size:
        parts.append(f"each image cropped to a centered square and scaled to {data.image_size} pixels")
    kind = "identities" if settings.task.name == "recognition" else "images" if has_pixels(card) else "items"
    return (
        f"{', '.join(parts)}. Unless the data set has its own validation {kind.replace('identities', 'images')}, "
        f"{data.val_fraction:g} of the training {kind} are for validation, drawn with seed {settings.seed}."
    )


def _recipe(settings: Settings) -> str:
    text: str = yaml.safe_dump(settings.model_dump(exclude=NOT_RECIPE, exclude_none=True), sort_keys=False)
    return text


def _versions(provenance: Mapping[str, Any], name: str) -> str:
    trained = ", ".join(f"{package} {number}" for package, number in provenance.get("versions", {}).items() if number)
    packages = ("torch", "safetensors", *FORMATS[name].packages)
    exported = ", ".join([f"graftpop {__version__}", *(f"{package} {_version(package)}" for package in packages)])
    commit = f" (commit {provenance['git']['commit']})" if provenance.get("git") else ""
    return f"- trained with {trained or 'unknown versions'}{commit}\n- exported with {exported}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # the package has another distribution name, such as onnxruntime-gpu
        return "(unknown version)"
