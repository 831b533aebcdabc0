"""A trial run of a task, before a study starts."""

import copy
from typing import Final

import torch
from torch import nn

from graftpop.data.identities import check_identities
from graftpop.data.images import Splits
from graftpop.data.loading import IDENTITIES
from graftpop.errors import DataError, ModelError, SpaceError
from graftpop.models.forward_check import check_forward
from graftpop.models.module_check import check_modules
from graftpop.settings import Settings
from graftpop.tasks.find import has_logits, num_outputs
from graftpop.tasks.task import Task
from graftpop.tasks.user_task import UserTask

__all__ = ["check_network"]

NUM_ITEMS: Final = 64
"""Items on which a user-defined task is tried."""


def check_network(settings: Settings, task: Task, network: nn.Module, splits: Splits) -> None:
    """Check that a network fits a task and its data; a user-defined task is tried on a few items.

    Args:
        settings: the population's settings.
        task: the population's task.
        network: network of a peer; not changed.
        splits: the data.

    Raises:
        ModelError: the network does not take the data, its output has another shape than a built-in task needs, or it
            is a LightningModule.
        SpaceError: a user-defined task fails, returns something unsuitable, or lacks the logits that a method needs.
        DataError: recognition has no identities to search for, or too few for a batch of the triplet loss.
    """
    where = f"model.name: '{settings.model.name}'"
    if _is_lightning_module(network):
        raise ModelError(
            f"{where} must be a plain network, which a task trains, got a LightningModule, whose training_step would "
            "be ignored; give the network inside it with a graftpop.Task, or see graftpop.integrations.lightning"
        )
    if isinstance(task, UserTask):
        check_modules(network, where)
        _try(settings, task, copy.deepcopy(network), splits)
    else:
        check_forward(network, splits.image_shape, num_outputs(task, splits), where)
    if settings.task.name == "recognition":
        _check_recognition(settings, splits)
    method = "distillation" if settings.distillation is not None else "mutual" if settings.mutual is not None else None
    if method is not None and not has_logits(task):
        raise SpaceError(
            f"{method}: compares logits, which task {settings.task.name} does not have; define its method logits, or "
            f"remove {method}"
        )


def _is_lightning_module(network: nn.Module) -> bool:
    """Return whether a network is a LightningModule, without an import of Lightning."""
    return any(
        kind.__name__ == "LightningModule" and kind.__module__.partition(".")[0] in ("lightning", "pytorch_lightning")
        for kind in type(network).__mro__
    )


def _check_recognition(settings: Settings, splits: Splits) -> None:
    """Check that validation has identities, and that the triplet loss has enough of them to train on."""
    _, targets = next(splits.val.evaluation_batches(1, torch.device("cpu")))
    if targets.dim() != 2:
        raise DataError(
            f"task.name: recognition needs data with identities and cameras, which are {', '.join(IDENTITIES)}, got "
            f"user-defined data with labels; choose one of these, or write a user-defined task"
        )
    if settings.task.triplet_weight:
        check_identities(len(splits.class_names), settings.task.images_per_identity, settings.training.batch_size)


def _try(settings: Settings, task: UserTask, network: nn.Module, splits: Splits) -> None:
    """Run a user-defined task on a training batch and on a part of the validation split."""
    where, cpu = f"task.name: {settings.task.name}", torch.device("cpu")
    named = {metric.name: metric.mode for metric in task.metrics}
    if settings.task.metrics is not None and settings.task.metrics != named:
        raise SpaceError(
            f"task.metrics: must be those of the class, {named}, got {settings.task.metrics}; leave it out"
        )
    batches = splits.train.training_batches(min(NUM_ITEMS, settings.training.batch_size), settings.seed, cpu)
    inputs, targets = next(batches)
    outputs = task.forward(network.train(), inputs)
    loss = task.loss(outputs, targets)
    if not loss.isfinite():
        raise SpaceError(f"{where}.loss must be finite on the first batch, got {loss:g}; check it, or scale the data")
    if not loss.requires_grad:
        raise SpaceError(f"{where}.loss must depend on the network's weights, got a constant; use its outputs")
    correct = task.num_correct(outputs, targets)
    if correct is not None and not 0 <= int(correct) <= len(targets):
        raise SpaceError(f"{where}.num_correct must be in [0, {len(targets)}], got {int(correct)}; count the items")
    with torch.no_grad():
        inputs, targets = next(splits.val.evaluation_batches(NUM_ITEMS, cpu))
        outputs = task.infer(network.eval(), inputs)
        predictions = task.predict(outputs)
        task.score(task.combine([predictions, predictions]), targets)
        task.validation_loss(outputs, targets)
        task.decisions(predictions, targets)
        if task.logits(outputs) is None and has_logits(task):
            raise SpaceError(f"{where}.logits must return a tensor (B, C), got None; leave it out if there is none")
