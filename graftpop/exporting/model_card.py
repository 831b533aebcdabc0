"""The model card of an exported network: origin, input and output, loading, accuracy, data, recipe, versions."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import yaml

from graftpop import __version__
from graftpop.exporting.checks import Measured
from graftpop.exporting.formats import FORMATS, INPUT, output_name
from graftpop.exporting.selection import SelectedNetwork
from graftpop.models import TIMM, TORCHVISION
from graftpop.settings import Settings

__all__ = ["card_text"]

NOT_RECIPE: Final[Mapping[str, Any]] = {
    "name": True,
    "tune": True,
    "resources": True,
    "diagnostics": True,
    "data": {"root"},  # of the machine that trained it
    "population": {
        "deadline_factor",
        "round_timeout_s",
        "max_peer_restarts",
        "replace_timeout_s",
        "min_peers",
        "peers_per_actor",
    },
}
"""Settings without effect on the network."""

IN_WORDS: Final = {"val": "validation", "test": "test"}

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
"""Python code by format that loads the file and runs it on one image."""


def card_text(
    chosen: SelectedNetwork, name: str, facts: Mapping[str, Any], measured: Sequence[Measured], *, is_noise: bool
) -> str:
    """Return a model card in Markdown.

    Args:
        chosen: the network.
        name: of the format.
        facts: content of the run's `run.json`.
        measured: comparisons of file and network, on each split or on noise.
        is_noise: whether on noise.
    """
    settings, model = chosen.settings, chosen.card["model"]
    parts = {
        "": f"{chosen.what} {_origin(chosen)}",
        "Input and output": _interface(chosen, name),
        "Load it": _loading(chosen, name),
        "Accuracy": _accuracy(measured, is_noise=is_noise),
        "Data": _data(settings),
        "Recipe": f"```yaml\n{_recipe(settings)}```",
        "Versions": _versions(facts, name),
        "Papers": PAPERS,
    }
    tags = json.dumps(["graftpop", "filter-grafting", model])
    sections = [f"## {title}\n\n{text}" if title else text for title, text in parts.items()]
    head = f"---\npipeline_tag: image-classification\ntags: {tags}\n---\n\n# {settings.name}: {model}"
    return "\n\n".join([head, *sections]) + "\n"


def _origin(chosen: SelectedNetwork) -> str:
    settings, facts, trial = chosen.settings, chosen.facts, chosen.trial
    text = (
        f"From trial {trial['trial_id']} of the run `{settings.name}`; a peer is a `{chosen.card['model']}` for "
        f"{chosen.card['num_classes']} classes, trained for {facts.summary['epoch']} epochs."
    )
    if not facts.is_complete:
        text += f" The trial was at round {facts.round} of {settings.num_rounds}; its status is {trial['status']}."
    if "removed_filters" in chosen.card:
        text += f" {chosen.card['removed_filters']:,} filters were removed at the end of the training."
    return text


def _interface(chosen: SelectedNetwork, name: str) -> str:
    card = chosen.card
    channels, height, width = card["image_shape"]
    mean, std = (", ".join(f"{value:.4f}" for value in card[key]) for key in ("mean", "std"))
    if FORMATS[name].takes_pixels:
        takes = (
            f"- Input `{INPUT}`, float32 (batch, {channels}, {height}, {width}): RGB **in [0, 1], not "
            f"normalized**. The file normalizes with the mean ({mean}) and the std ({std}) of the data."
        )
    else:
        takes = (
            f"- Input: images, float32 (batch, {channels}, {height}, {width}): RGB in [0, 1], **minus the mean "
            f"({mean}), divided by the std ({std})**; `config.json` has all digits."
        )
    scores = (
        "one logit per class"
        if "ensemble" not in card
        else ("the natural logarithm of the mean of the members' class probabilities; a softmax gives that mean")
    )
    lines = [
        takes,
        f"- Output `{output_name(card)}`, float32 (batch, {card['num_classes']}): {scores}.",
        "- The batch may have any size. Class names, in order, are in `config.json`.",
    ]
    if (
        name == "safetensors"
        and card["model"].startswith((TORCHVISION, TIMM))
        and (not {"ensemble", "removed_filters"}.intersection(card))
    ):
        lines.append(
            f"- The weights have the names of `{card['model']}`: the library's network with "
            f"{card['num_classes']} classes loads them by `load_state_dict`."
        )
    return "\n".join(lines)


def _loading(chosen: SelectedNetwork, name: str) -> str:
    card = chosen.card
    code = LOADING[name].format(
        mean=card["mean"],
        std=card["std"],
        shape=", ".join(map(str, card["image_shape"])),
        input=INPUT,
        output=output_name(card),
        file=FORMATS[name].file,
    )
    return f"In the folder of this card:\n\n```python\n{code}\n```"


def _accuracy(measured: Sequence[Measured], *, is_noise: bool) -> str:
    if is_noise:
        (noise,) = measured
        return (
            f"Not measured: the run's data was missing at the time of the export. The file agrees with the "
            f"network within {noise.difference:.1e} on {noise.num_images} images of noise."
        )
    rows = [
        f"| {IN_WORDS[one.images]} | {one.num_images:,} | {100 * one.accuracy:.2f} % | {one.difference:.1e} |"
        for one in measured
    ]
    return "\n".join(
        [
            "| images | number | accuracy | largest difference to the network |",
            "|---|---|---|---|",
            *rows,
            "",
            "Measured with the file as read back, in float32. The validation images were held out of training and "
            "chose the trial and its best peer. The test images were not used for any choice.",
        ]
    )


def _data(settings: Settings) -> str:
    data = settings.data
    parts = [f"`{data.name}`" + (f", label `{data.label}`" if data.label else "")]
    parts += [f"{data.max_train_images:,} training images of it"] if data.max_train_images else []
    parts += [f"each cropped to its central square and scaled to {data.image_size} pixels"] * bool(data.image_size)
    return (
        f"{', '.join(parts)}; a share of {data.val_fraction:g} of the training images is for validation, unless "
        f"the data set has its own validation images. Split by seed {settings.seed}."
    )


def _recipe(settings: Settings) -> str:
    text: str = yaml.safe_dump(settings.model_dump(exclude=NOT_RECIPE, exclude_none=True), sort_keys=False)
    return text


def _versions(facts: Mapping[str, Any], name: str) -> str:
    trained = ", ".join(f"{package} {number}" for package, number in facts["versions"].items() if number)
    packages = ("torch", "safetensors", *FORMATS[name].packages)
    exported = ", ".join([f"graftpop {__version__}", *(f"{package} {_version(package)}" for package in packages)])
    commit = f" (commit {facts['git']['commit']})" if facts.get("git") else ""
    return f"- trained with {trained}{commit}\n- exported with {exported}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # onnxruntime-gpu and others install the same package under another name
        return "of unknown version"
