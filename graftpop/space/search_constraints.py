"""Rules of the search: domains that fit sampler and scheduler, keys with an effect, values of the first trials."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from graftpop.errors import SpaceError, closest
from graftpop.settings import Settings
from graftpop.space.conditions import conditions_of, possible_values
from graftpop.space.domains import Domain
from graftpop.space.space import Space
from graftpop.space.validation_messages import Origin, format_value

__all__ = ["UNDER_PBT", "check_effect", "check_first", "check_search"]

UNDER_PBT = ("graft.A", "graft.c", "graft.base", "graft.alpha", "training.lr")
"""Keys that population based training may change while a population runs: none changes the peers or their networks."""

OF_COST: Final = ("flops", "parameters")
"""Metrics besides those of the task."""

MOST_GRID_TRIALS = 100_000


def check_search(settings: Settings, domains: Mapping[str, Domain], origin: Origin, *, is_comparison: bool) -> None:
    """Check that search and scheduler can work with the domains.

    Args:
        settings: any sample of the space, resolved; `tune` is never searched.
        domains: domains of the searched keys, by dotted key.
        origin: see `Origin`.
        is_comparison: whether the space has variants or seeds.

    Raises:
        SpaceError: the search cannot draw from a domain, or the scheduler cannot change it.
    """
    if is_comparison:
        _check_comparison(settings, origin)
    _check_objectives(settings, origin)
    if settings.tune.sampler == "grid":
        _check_grid(settings, domains, origin, or_else="" if is_comparison else ", or tune.sampler: random")
    else:
        for key, domain in domains.items():
            if domain.kind == "grid":
                raise SpaceError(
                    f"{origin(key)}: a grid needs tune.sampler: grid, got {settings.tune.sampler}; set it, or "
                    f"write {{choice: {list(domain.values)}}} to draw samples"
                )
    if settings.tune.scheduler == "pbt":
        _check_pbt(settings, domains, origin)


def _check_objectives(settings: Settings, origin: Origin) -> None:
    tune, primary = settings.tune, settings.primary
    metrics = [primary.val if name == "auto" else name for name in tune.metric_names]
    if primary.val not in metrics or len(set(metrics)) < len(metrics) or set(metrics) - {primary.val, *OF_COST}:
        raise SpaceError(
            f"{origin('tune.metric')}: must be {primary.val}, or a list of it, flops and parameters, got "
            f"{tune.metric!r}; write {primary.val}, or [{primary.val}, flops]"
        )
    num_modes = len(tune.mode) if isinstance(tune.mode, list) else 1 if tune.mode != "auto" else len(metrics)
    if num_modes != len(metrics) or settings.objectives[primary.val] != primary.mode:
        modes = [primary.mode if name == primary.val else "min" for name in metrics]
        raise SpaceError(
            f"{origin('tune.mode')}: must have one item per metric, {primary.mode} for {primary.val}, got {tune.mode} "
            f"for {tune.metric}; write {modes}, or auto"
        )
    if len(metrics) > 1 and tune.scheduler != "none":
        raise SpaceError(
            f"{origin('tune.scheduler')}: must be none with several metrics, since it compares trials by one, got "
            f"{tune.scheduler}; set none"
        )


def _check_comparison(settings: Settings, origin: Origin) -> None:
    if settings.tune.sampler != "grid":
        raise SpaceError(
            f"{origin('tune.sampler')}: must be grid with variants or seeds, got "
            f"{settings.tune.sampler}; set grid, or remove it"
        )
    if settings.tune.scheduler != "none":
        raise SpaceError(
            f"{origin('tune.scheduler')}: must be none with variants or seeds, since a stopped or changed trial "
            f"cannot be compared, got {settings.tune.scheduler}; set none, or remove it"
        )


def _check_grid(settings: Settings, domains: Mapping[str, Domain], origin: Origin, or_else: str) -> None:
    for key, domain in domains.items():
        if not domain.is_finite:
            raise SpaceError(
                f"{origin(key)}: must have a finite domain, since sampler grid runs every value, got {domain}; "
                f"use choice, grid or randint{or_else}"
            )
    num_trials = math.prod(domain.num_values for domain in domains.values())
    if num_trials > MOST_GRID_TRIALS:
        raise SpaceError(
            f"{origin('tune.sampler')}: sampler grid runs at most {MOST_GRID_TRIALS:,} trials, got "
            f"{num_trials:,}; narrow the domains{or_else.replace('or ', 'or sample with ')}"
        )
    if settings.tune.num_samples is not None:
        raise SpaceError(
            f"{origin('tune.num_samples')}: must be null with sampler grid, which runs every combination, got "
            f"{settings.tune.num_samples}; remove it"
        )


def _check_pbt(settings: Settings, domains: Mapping[str, Domain], origin: Origin) -> None:
    search = settings.tune.sampler
    if search != "random":
        raise SpaceError(
            f"{origin('tune.sampler')}: must be random with scheduler pbt, which changes settings while trials run, "
            f"got {search}; set tune.sampler: random, or tune.scheduler: asha"
        )
    for key in domains:
        if key not in UNDER_PBT:
            raise SpaceError(
                f"{origin(key)}: scheduler pbt can change only {', '.join(UNDER_PBT)} while a population runs, "
                f"got {domains[key]}; fix this key, or set tune.scheduler: asha"
            )
    if settings.training.patience is not None:
        raise SpaceError(
            f"{origin('training.patience')}: must be null with scheduler pbt, whose trials take over each other's "
            f"training, got {settings.training.patience}; remove it, or set tune.scheduler: asha"
        )
    if settings.tune.keep == "best":
        raise SpaceError(
            f"{origin('tune.keep')}: must be all with scheduler pbt, whose trials continue from each other, got best; "
            f"remove it, or set tune.scheduler: asha"
        )
    if not domains:
        raise SpaceError(
            f"{origin('tune.scheduler')}: pbt needs a searched key, got none; search one of {', '.join(UNDER_PBT)}"
        )


def check_effect(domains: Mapping[str, Domain], value_of: Callable[[str], Any], origin: Origin) -> None:
    """Check that every searched key has an effect in some trials.

    Args:
        domains: domains of the searched keys, by dotted key.
        value_of: returns the value of a key that is not searched.
        origin: see `Origin`.

    Raises:
        SpaceError: a searched key never has an effect.
    """
    for key, domain in domains.items():
        for condition in conditions_of(key, domains):
            possible = possible_values(condition, key, domains, value_of(condition.key))
            if not any(map(condition.allows, possible)):
                raise SpaceError(
                    f"{origin(key)}: has no effect where {condition.key} is {' or '.join(map(str, possible))}, got "
                    f"{domain}; set {condition.key}: {condition.values[0]}, or do not search it"
                )


def check_first(space: Space, origin: Origin) -> None:
    """Check the values that the first trials get, `tune.first`.

    Raises:
        SpaceError: a key is not searched, a value lies outside its domain, a key cannot matter, or there are too many.
    """
    given = space.resolve().tune.first or []
    where = origin("tune.first")
    if given and space.resolve().tune.sampler == "grid":
        raise SpaceError(f"{where}: must be null with sampler grid, got {given}; remove it")
    if len(given) > space.num_trials():
        raise SpaceError(
            f"{where}: must have at most as many items as trials ({space.num_trials()}), got {len(given)}; set "
            f"tune.num_samples: {len(given)}"
        )
    for sample in given:
        for key, value in sample.items():
            if key not in space.domains:
                names = list(space.domains)
                raise SpaceError(
                    f"{where}: '{key}' is not searched, choose from {', '.join(names)}{closest(key, names)}"
                )
            if not space.domains[key].contains(value):
                raise SpaceError(
                    f"{where}: {key} must lie in its domain {space.domains[key]}, got {format_value(value)}; change one"
                )
        for key in sample.keys() - space.active(space.with_needed(sample)).keys():
            raise SpaceError(f"{where}: {key} has no effect with the other values, got {sample}; remove it")
