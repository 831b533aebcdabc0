"""Trained networks as teachers: a run's best network, a file of weights, or published weights.

Students get images normalized by their data set's recipe. A teacher trained with another normalization gets a first
layer that converts between the two. A plain file of weights is assumed to have the data set's normalization.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from graftpop.errors import CheckpointError, ModelError
from graftpop.models import build
from graftpop.models.forward_check import check_forward
from graftpop.models.network_file import read_network
from graftpop.models.normalization import Normalization, Renormalized, normalization
from graftpop.models.published import published_weights
from graftpop.models.weight_comparison import another_network, compare_weights
from graftpop.models.weight_file import check_exists, read_weights
from graftpop.seeds import seeded
from graftpop.settings import TeacherSettings

__all__ = ["load_teacher"]


def load_teacher(
    settings: TeacherSettings,
    num_classes: int,
    image_shape: tuple[int, ...],
    where: str,
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> nn.Module:
    """Return a trained teacher in evaluation mode, on the CPU, with frozen parameters.

    It maps the student's images to logits (B, num_classes), and is checked on blank images. Teachers with
    `epochs` are built by the caller and trained in the trial.

    Args:
        settings: settings of the teacher, with either `checkpoint` or `pretrained`.
        num_classes: number of classes of the data.
        image_shape: (C, H, W) of the data's images.
        where: key of the settings, for messages: `distillation.teachers[0]`.
        mean: mean of the data's recipe, one value per color, for pixels in [0, 1].
        std: standard deviation of the data's recipe, one value per color, for pixels in [0, 1].

    Raises:
        CheckpointError: the checkpoint is absent, damaged, or holds another network.
        ModelError: unknown network, no published weights, or they do not fit the data.
        ValueError: `epochs` is given, or not exactly one of `checkpoint` and `pretrained`.
    """
    if settings.epochs is not None or (settings.checkpoint is None) != settings.pretrained:
        raise ValueError(f"{where}: load_teacher needs one of checkpoint and pretrained, no epochs, got {settings!r}")
    data = normalization(mean, std)
    with seeded(0, torch.device("cpu")):  # initial weights must not advance the global generator
        if settings.checkpoint is None:
            published = published_weights(settings.model, settings.args, f"{where}.model", f"{where}.pretrained")
            _check_classes(published.num_classes, num_classes, published.where)
            network, own = published.load(), published.normalization
        elif os.path.isdir(settings.checkpoint):
            network, own = _from_run(Path(settings.checkpoint), settings, num_classes, where)
        else:
            network, own = _from_file(Path(settings.checkpoint), settings, num_classes, where), data
    network = network.eval().requires_grad_(False)
    check_forward(
        network, image_shape, num_classes, f"{where}.{'checkpoint' if settings.checkpoint else 'pretrained'}:"
    )
    return network if own == data else Renormalized(network, data, own)


def _from_run(folder: Path, settings: TeacherSettings, num_classes: int, where: str) -> tuple[nn.Module, Normalization]:
    """Return the network of a run's folder best/, and its normalization."""
    try:
        network, card = read_network(folder)
    except (CheckpointError, ModelError) as error:
        raise CheckpointError(f"{where}.checkpoint: {error}") from error
    given = {"model": settings.model, "args": settings.args or None}
    for key, own in (("model", card.model), ("args", card.args)):
        if given[key] not in (None, own):
            raise CheckpointError(
                f"{where}.{key}: must be null or {own!r} as in {folder / 'config.json'}, got {given[key]!r}; "
                f"leave {key} out"
            )
    _check_classes(card.num_classes, num_classes, f"{where}.checkpoint: {folder}")
    return network, Normalization(card.mean, card.std)


def _from_file(file: Path, settings: TeacherSettings, num_classes: int, where: str) -> nn.Module:
    """Return a network with the weights of a file."""
    check_exists(file, f"{where}.checkpoint")
    model = settings.model
    if model is None:
        raise ModelError(
            f"{where}.model: must name the network of a file of weights, got null; write it as in model.name"
        )
    network = build(model, num_classes, f"{where}.model", settings.args)
    try:
        weights = read_weights(file)
    except CheckpointError as error:
        raise CheckpointError(f"{where}.checkpoint: {error}") from error
    found = compare_weights(network, weights, num_classes)
    if found.head:
        _check_classes(found.num_classes, num_classes, f"{where}.checkpoint: {file}")
    if found.differences:
        raise CheckpointError(
            f"{where}.checkpoint: {file}: {another_network(model, found.differences)}; set {where}.model to its network"
        )
    network.load_state_dict(weights)
    return network


def _check_classes(num_teacher_classes: int, num_classes: int, at: str) -> None:
    if num_teacher_classes != num_classes:
        raise ModelError(
            f"{at}: must have the {num_classes} classes of the data, got {num_teacher_classes}; choose another teacher"
        )
