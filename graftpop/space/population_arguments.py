"""The arguments of `graftpop.Population` as settings."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from graftpop.errors import SpaceError
from graftpop.exchange.rule import ExchangeRule
from graftpop.seeds import seeded
from graftpop.settings import DataSettings, Settings, TaskSettings
from graftpop.space import parse_space
from graftpop.space.keys import STUDY_KEYS
from graftpop.space.optimizer_arguments import check_optimizers
from graftpop.tasks.find import metrics_of
from graftpop.tasks.task import Task
from graftpop.training.optimizers import MakeOptimizer
from graftpop.user_code import name_of

__all__ = ["data_and_task", "named_parts", "population_settings", "task_section"]

SPACE_ONLY = ("model", "tune", *STUDY_KEYS)
"""Sections and keys of a space that `Population` refuses."""

OF_IMAGES = ("label", "image_size", "max_train_images", "crop_padding", "flip")
"""Keys of `data` for images of Hugging Face; `Population` refuses all others."""

SET_BY_OPTIMIZER = ("optimizer", "lr", "momentum", "weight_decay", "decay_norm_and_bias")


def named_parts(
    sections: Mapping[str, Any], exchange: type[ExchangeRule] | None
) -> tuple[dict[str, Any], dict[str, Callable[..., Any]]]:
    """Return the sections with names in place of functions and classes, and the functions and classes by key."""
    graft = sections.get("graft")
    given: dict[str, Callable[..., Any] | None] = {"exchange": exchange}
    if isinstance(graft, Mapping):
        given |= {f"graft.{key}": graft[key] for key in ("alpha", "criterion") if callable(graft.get(key))}
    parts = {key: part for key, part in given.items() if part is not None}
    named = dict(sections)
    for key, part in parts.items():
        section, _, name = key.partition(".")
        named[section] = {**named[section], name: name_of(part)} if name else name_of(part)
    return named, parts


def task_section(task: Callable[[], Task]) -> dict[str, Any]:
    """Return the section of a task that was given as an object."""
    name = name_of(task)
    return {"name": name, "metrics": {metric.name: metric.mode for metric in metrics_of(name, task)}}


def data_and_task(
    sections: Mapping[str, Any], has_images: bool, val_fraction: float
) -> tuple[DataSettings, TaskSettings]:
    """Return the settings of the data and of the task.

    Args:
        sections: sections as in the YAML of a space.
        has_images: whether the data are images of Hugging Face.
        val_fraction: share of the training items to split off.

    Raises:
        SpaceError: a section is invalid, or a key has no effect on such data.
    """
    data = sections.get("data", {})
    for name in data if isinstance(data, Mapping) else ():
        if not has_images or name not in OF_IMAGES:
            raise SpaceError(f"data.{name}: has no effect on such data in graftpop.Population, got a value; omit it")
    if not 0 < val_fraction < 1:
        raise SpaceError(f"val_fraction: must be in (0, 1), got {val_fraction}")
    first = {name: sections[name] for name in ("data", "task") if name in sections}
    settings = parse_space(first, "Population").resolve()
    return settings.data.model_copy(update={"val_fraction": val_fraction}), settings.task


def population_settings(
    network: Callable[[int], nn.Module], num_outputs: int, optimizer: MakeOptimizer | None, sections: Mapping[str, Any]
) -> Settings:
    """Return all settings of a population.

    Args:
        network: makes the network, and gives `model.name`.
        num_outputs: number of the network's outputs.
        optimizer: makes the optimizer, and gives `training.lr`; None: as the settings name it.
        sections: sections as in the YAML of a space.

    Raises:
        SpaceError: a section is invalid, has no effect with the other arguments, or holds a domain.
    """
    if refused := [name for name in SPACE_ONLY if name in sections]:
        raise SpaceError(f"{refused[0]}: has no effect in graftpop.Population, got a value; leave it out")
    training = dict(sections.get("training", {}))
    if optimizer is not None:
        if refused := [name for name in SET_BY_OPTIMIZER if name in training]:
            raise SpaceError(f"training.{refused[0]}: is set by the optimizer, got both; leave it out")
        with seeded(0, torch.device("cpu")):  # leaves the user's generator unchanged
            training["lr"] = optimizer(network(num_outputs).parameters()).param_groups[0]["lr"]
    space = parse_space({**sections, "training": training, "model": {"name": name_of(network)}}, "Population")
    if space.domains:
        raise SpaceError(
            f"Population: must search nothing, got a domain for {', '.join(space.domains)}; use graftpop.tune to search"
        )
    settings = space.resolve()
    if optimizer is None:
        check_optimizers([settings])
    elif not isinstance(diversity := settings.population.diversity, str):
        for key in diversity:
            if key.split(".")[1] in SET_BY_OPTIMIZER and key != "training.lr":
                raise SpaceError(
                    f"population.diversity: {key} is set by the optimizer, got {diversity[key]}; leave it out"
                )
    return settings
