"""The README of an exported network: origin, input and output, loading, score and recipe."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import yaml

from graftpop import __version__
from graftpop.exporting.checks import Measurement
from graftpop.exporting.formats import FORMATS, INPUT, output_name
from graftpop.exporting.selection import SelectedNetwork
from graftpop.metrics import Metric
from graftpop.models import TIMM, TORCHVISION
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
mean, std = (torch.tensor(values).view(3, 1, 1) for values in ({mean}, {std}))
network = graftpop.load(".")
pixels = torch.rand(1, {shape})                  # stand-in for images: RGB in [0, 1]
{output} = network((pixels - mean) / std)""",
    "onnx": """\
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession("{file}")
pixels = np.random.rand(1, {shape}).astype(np.float32)  # stand-in for images: RGB in [0, 1]
({output},) = session.run(None, {{"{input}": pixels}})""",
    "torch-export": """\
import torch
network = torch.export.load("{file}").module()
pixels = torch.rand(1, {shape})                  # stand-in for images: RGB in [0, 1]
{output} = network(pixels)""",
}
"""Python code by format that loads the network and classifies one image."""


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
        "Score": _score(measurements, settings.primary, is_noise=is_noise),
        "Data": _data(settings),
        "Recipe": f"```yaml\n{_recipe(settings)}```",
        "Versions": _versions(provenance, name),
        "Papers": PAPERS,
    }
    tags = json.dumps(["graftpop", "filter-grafting", model])
    sections = [f"## {title}\n\n{text}" if title else text for title, text in parts.items()]
    head = f"---\npipeline_tag: image-classification\ntags: {tags}\n---\n\n# {settings.name}: {model}"
    return "\n\n".join([head, *sections]) + "\n"


def _origin(selected: SelectedNetwork) -> str:
    settings, metadata, trial = selected.settings, selected.metadata, selected.trial
    text = (
        f"From trial {trial['trial_id']} of the run `{settings.name}`; a peer is a `{selected.card.model}` for "
        f"{selected.card.num_classes} classes, trained for {metadata.summary['epoch']} epochs."
    )
    if not metadata.is_complete:
        text += f" The trial was at round {metadata.round} of {settings.num_rounds}; its status is {trial['status']}."
    if selected.card.removed_filters is not None:
        text += f" {selected.card.removed_filters:,} filters were removed at the end of training."
    return text


def _interface(selected: SelectedNetwork, name: str) -> str:
    card = selected.card
    channels, height, width = card.image_shape
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (card.mean, card.std))
    if FORMATS[name].takes_pixels:
        takes = (
            f"- Input `{INPUT}`, float32 (batch, {channels}, {height}, {width}): RGB **in [0, 1], not "
            f"normalized**. The file normalizes it with the data's mean ({mean}) and std ({std})."
        )
    else:
        takes = (
            f"- Input: images, float32 (batch, {channels}, {height}, {width}): RGB in [0, 1], **minus the mean "
            f"({mean}), divided by the std ({std})**; `config.json` has all digits."
        )
    scores = (
        "one logit per class"
        if card.ensemble is None
        else "the natural logarithm of the mean of the members' class probabilities; a softmax returns that mean"
    )
    lines = [
        takes,
        f"- Output `{output_name(card)}`, float32 (batch, {card.num_classes}): {scores}.",
        "- The batch may have any size. `config.json` lists the class names in order.",
    ]
    if (
        name == "safetensors"
        and card.model.startswith((TORCHVISION, TIMM))
        and card.ensemble is None
        and card.removed_filters is None
    ):
        lines.append(
            f"- The weights have the names of `{card.model}`: that library's network with "
            f"{card.num_classes} classes{f' and the arguments {card.args}' if card.args else ''} loads them by "
            f"`load_state_dict`."
        )
    return "\n".join(lines)


def _loading(selected: SelectedNetwork, name: str) -> str:
    card = selected.card
    code = LOADING[name].format(
        mean=list(card.mean),
        std=list(card.std),
        shape=", ".join(map(str, card.image_shape)),
        input=INPUT,
        output=output_name(card),
        file=FORMATS[name].file,
    )
    return f"In the folder of this README:\n\n```python\n{code}\n```"


def _score(measurements: Sequence[Measurement], primary: Metric, *, is_noise: bool) -> str:
    if is_noise:
        (noise,) = measurements
        return (
            f"Not measured: the run's data was not available when this file was written. The file agrees with the "
            f"network within {noise.difference:.1e} on {noise.num_images} noise images."
        )
    rows = [
        f"| {SPLITS[row.images]} | {row.num_images:,} | {primary.text(row.score)} | {row.difference:.1e} |"
        for row in measurements
    ]
    return "\n".join(
        [
            f"| images | number | {primary.name} | largest difference from the network |",
            "|---|---|---|---|",
            *rows,
            "",
            "Measured in float32 with this file, when it was written. The validation images were held out of training "
            "and selected the trial and its best peer. The test images selected nothing.",
        ]
    )


def _data(settings: Settings) -> str:
    data = settings.data
    parts = [f"`{data.name}`" + (f", label `{data.label}`" if data.label else "")]
    parts += [f"limited to {data.max_train_images:,} training images"] if data.max_train_images else []
    parts += [f"each image cropped to a centered square and scaled to {data.image_size} pixels"] * bool(data.image_size)
    return (
        f"{', '.join(parts)}. Unless the data set has its own validation images, {data.val_fraction:g} of the "
        f"training images are for validation, drawn with seed {settings.seed}."
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
