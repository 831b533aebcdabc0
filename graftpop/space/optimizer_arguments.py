"""Checks of the arguments of `training.optimizer` against the optimizer that it names."""

import math
from collections.abc import Iterable
from typing import Any

from graftpop.errors import SpaceError, closest
from graftpop.settings import OptimizerSettings, Settings, TrainingSettings
from graftpop.settings.optimizer import TIMM
from graftpop.space.domains import number_hint
from graftpop.space.validation_messages import Origin, format_value
from graftpop.training.named_optimizers import SET_IN_TRAINING, argument_defaults, check_optimizer

__all__ = ["check_arguments", "check_optimizers"]


def check_arguments(optimizer: OptimizerSettings, origin: Origin, *, import_timm: bool) -> None:
    """Check that an optimizer has the given arguments, and that their values have the types of its defaults.

    Args:
        optimizer: the section.
        origin: see `Origin`.
        import_timm: whether to check the names and arguments of timm's optimizers, which takes a second.

    Raises:
        SpaceError: an argument is unknown or has another type; timm is not installed, or has no such optimizer.
    """
    given = {f"training.optimizer.{key}": value for key, value in (optimizer.model_extra or {}).items()}
    for key, value in given.items():
        name = key.rpartition(".")[2]
        if name in SET_IN_TRAINING:
            raise SpaceError(f"{origin(key)}: is set by training.{name}, got {format_value(value)} here; move it there")
    if optimizer.name.startswith(TIMM) and not import_timm:
        return
    defaults = argument_defaults(optimizer.name, origin("training.optimizer.name"))
    for key, value in given.items():
        name = key.rpartition(".")[2]
        if value is None:
            continue
        if name not in defaults:
            raise SpaceError(
                f"{origin(key)}: {optimizer.name} has no argument '{name}', got {format_value(value)}; choose from "
                f"{', '.join(defaults)}{closest(name, defaults)}, or set it to null"
            )
        if rule := _broken_rule(value, defaults[name]):
            hint = number_hint(value) if isinstance(value, str) else ""
            raise SpaceError(f"{origin(key)}: must be {rule}, got {format_value(value)}{hint}")


def check_optimizers(possible_settings: Iterable[Settings]) -> None:
    """Check that each peer's optimizer exists, trains and resumes with its arguments, and leaves dropped filters at 0.

    It imports timm for timm's optimizers.

    Args:
        possible_settings: settings of one or more populations.

    Raises:
        SpaceError: an optimizer fails one of these checks.
    """
    cases: dict[str, tuple[TrainingSettings, bool]] = {}
    for settings in possible_settings:
        drops_filters = settings.repr is not None or settings.pruning is not None
        for training in (peer.training for peer in settings.of_peers()):
            cases[str((training.optimizer, training.momentum, drops_filters))] = training, drops_filters
    for training, drops_filters in cases.values():
        if training.optimizer != OptimizerSettings():
            check_arguments(training.optimizer, str, import_timm=True)
            check_optimizer(training, "training.optimizer", drops_filters=drops_filters)


def _broken_rule(value: Any, default: Any) -> str | None:
    """Return the rule that a value of an argument breaks; None if its type may be right."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        return None if _is_number(value) else "a finite number"
    if isinstance(default, tuple):
        is_like = isinstance(value, list) and len(value) == len(default) and all(map(_is_number, value))
        return None if is_like else f"a list of {len(default)} numbers"
    return "no domain, map or list of maps" if isinstance(value, dict) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
