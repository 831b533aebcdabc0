"""Rules that the types of the settings do not express: names that must exist, and keys that must fit each other."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from graftpop.errors import SpaceError, choose, closest, one_line
from graftpop.ops.attenuation import FACTOR_SCHEDULES, RATE_SCHEDULES
from graftpop.ops.criteria import CRITERIA
from graftpop.ops.topology import TOPOLOGIES
from graftpop.settings import Settings
from graftpop.space.conditions import conditions_of, possible_values
from graftpop.space.domains import Domain
from graftpop.space.optimizer_arguments import check_arguments
from graftpop.space.validation_messages import Origin
from graftpop.space.yaml_tree import known_keys
from graftpop.training.schedules import SCHEDULES
from graftpop.user_code import PYTHON

__all__ = ["NAME_TABLES", "UNDER_PBT", "check_effect", "check_names", "check_rules", "check_search"]

NAME_TABLES: Final[Mapping[str, Mapping[str, object]]] = {
    "training.schedule": SCHEDULES,
    "population.topology": {"auto": None, **TOPOLOGIES},
    "graft.criterion": CRITERIA,
    "repr.criterion": CRITERIA,
    "attenuation.criterion": CRITERIA,
    "attenuation.factor_schedule": FACTOR_SCHEDULES,
    "attenuation.rate_schedule": RATE_SCHEDULES,
}
"""Keys whose value is a name, and the table with the names. data.name and model.name are checked with the data."""

UNDER_PBT = ("graft.A", "graft.c", "graft.base", "graft.alpha", "training.lr")
"""Keys that population based training may change while a population runs: none changes the peers or their networks."""

USER_CODE: Final = ("graft.criterion",)
"""Keys of NAME_TABLES that may also name user code."""

NEED_ROOT: Final = ("parquet", "hf", "folder", "market1501", "dukemtmc")
"""Data sets that are found only through data.root."""

DIVERSE: Final = ("training.", "augmentation.", "task.label_smoothing")
"""Keys, and beginnings of keys, in which peers may differ."""

NOT_DIVERSE: Final = tuple(
    f"training.{key}" for key in ("epochs", "total_epochs", "batch_size", "accumulate", "patience", "precision")
)
"""Keys of training that peers share, since they exchange at the same step or round."""

OF_COST: Final = ("flops", "parameters")
"""Metrics beside those of the task."""

MOST_GRID_TRIALS = 100_000


def check_names(settings: Settings, origin: Origin) -> None:
    """Check that the names in the settings exist in their tables (`NAME_TABLES`).

    Raises:
        SpaceError: a name is unknown.
    """
    for key, table in NAME_TABLES.items():
        section_name, _, name = key.partition(".")
        section = getattr(settings, section_name)
        if section is None:
            continue
        value = getattr(section, name)
        if not (key in USER_CODE and value.startswith(PYTHON)):
            choose(table, value, origin(key))


def check_rules(settings: Settings, domains: Mapping[str, Domain], origin: Origin) -> None:
    """Check the rules between keys of data, training, population and resources.

    Args:
        settings: one sample of the space, resolved.
        domains: domains of the searched keys, by dotted key.
        origin: see `Origin`.

    Raises:
        SpaceError: a rule is broken.
    """
    population, data = settings.population, settings.data
    _check_epochs(settings, domains, origin)
    _check_schedule(settings, origin)
    check_arguments(settings.training.optimizer, origin, import_timm=False)
    if population.epochs_per_round > settings.num_epochs:
        limit = (
            "training.epochs"
            if settings.training.total_epochs is None
            else "training.total_epochs / population.num_peers"
        )
        raise SpaceError(
            f"{origin('population.epochs_per_round')}: must be at most {limit} ({settings.num_epochs}), got "
            f"{population.epochs_per_round}"
        )
    if population.min_peers is not None:
        _check_min_peers(settings, population.min_peers, origin)
    if population.mode == "async":
        _check_async(settings, origin)
    _check_actors(settings, origin)
    if not isinstance(settings.population.diversity, str):
        _check_diversity(settings, settings.population.diversity, domains, origin)
    if settings.training.patience is not None:
        _check_patience(settings, origin)
    _check_triplets(settings, origin)
    _check_mixing(settings, origin)
    if settings.model.pretrained and settings.model.checkpoint is not None:
        raise SpaceError(
            f"{origin('model.checkpoint')}: excludes model.pretrained, got {settings.model.checkpoint} beside "
            "true; remove one"
        )
    if data.name in NEED_ROOT and data.root is None:
        raise SpaceError(
            f"{origin('data.root')}: data set '{data.name}' needs the folder of its images, got null; set data.root"
        )


def _check_diversity(
    settings: Settings, diversity: Mapping[str, object], domains: Mapping[str, Domain], origin: Origin
) -> None:
    """Check that the peers may have the values that `population.diversity` gives them."""
    keys = [*known_keys(Settings), "training.optimizer"]
    known = [key for key in keys if key.startswith(DIVERSE) and key not in NOT_DIVERSE]
    where = origin("population.diversity")
    for key in diversity:
        if key not in known and key.rpartition(".")[0] != "training.optimizer":
            raise SpaceError(
                f"{where}: '{key}' must be a key of training, augmentation, or task.label_smoothing in which peers can "
                f"differ{closest(key, known)}"
            )
        if searched := next((one for one in domains if f"{one}.".startswith(f"{key}.")), None):
            raise SpaceError(
                f"{where}: sets {key} at every peer, so the search of {searched} has no effect, got "
                f"{domains[searched]} there; remove one"
            )
        is_augmentation = key.startswith("augmentation.")
        trains_teachers = settings.distillation is not None and any(
            one.epochs for one in settings.distillation.teachers
        )
        if is_augmentation and (settings.exchanges_logits or trains_teachers):
            cause = "mutual.exchange: logits" if settings.exchanges_logits else "teachers that the peers train"
            raise SpaceError(
                f"{where}: {key} must be the same for all peers with {cause}, since they need the same images, got "
                f"{diversity[key]}; remove one"
            )
    for peer in range(settings.population.num_peers):
        try:
            own = settings.of_peer(peer)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            key = next((key for key in diversity if f"{place}.".startswith(f"{key}.")), place)
            raise SpaceError(
                f"{where}: {key} of peer {peer}: {one_line(first['msg'])}, got {first['input']!r}; change it"
            ) from error
        check_names(own, origin)
        check_rules(own, domains, origin)


def _check_patience(settings: Settings, origin: Origin) -> None:
    needing_length = {
        "population.mode: async": settings.population.mode == "async",
        "repr": settings.repr is not None,
        "attenuation": settings.attenuation is not None,
        "swa": settings.swa is not None,
    }
    if cause := next((key for key, is_set in needing_length.items() if is_set), None):
        raise SpaceError(
            f"{origin('training.patience')}: must be null with {cause}, whose steps depend on the length of the "
            f"training, got {settings.training.patience}; remove one"
        )


def _check_mixing(settings: Settings, origin: Origin) -> None:
    mixed = next((key for key in ("mixup", "cutmix") if getattr(settings.augmentation, key)), None)
    if mixed is not None and settings.task.name != "classification":
        raise SpaceError(
            f"{origin(f'augmentation.{mixed}')}: mixes the classes of classification, got task {settings.task.name}; "
            f"leave it out"
        )


def _check_triplets(settings: Settings, origin: Origin) -> None:
    task, batch_size = settings.task, settings.training.batch_size
    if task.name != "recognition" or not task.triplet_weight:
        return
    if batch_size % task.images_per_identity or batch_size < 2 * task.images_per_identity:
        raise SpaceError(
            f"{origin('training.batch_size')}: must be a multiple of task.images_per_identity "
            f"({task.images_per_identity}), for at least two identities, with the triplet loss, got {batch_size}; "
            f"choose {max(2, round(batch_size / task.images_per_identity)) * task.images_per_identity}"
        )


def _check_actors(settings: Settings, origin: Origin) -> None:
    """Check how peers share processes and GPUs."""
    gpus, together = settings.resources.gpus_per_peer, settings.population.peers_per_actor
    if gpus != "auto" and gpus > 1 and gpus % 1:
        raise SpaceError(
            f"{origin('resources.gpus_per_peer')}: above 1 must be a whole number, got {gpus}; choose "
            f"{int(gpus)}, {int(gpus) + 1}, or a share of one"
        )
    where, is_async = origin("population.peers_per_actor"), settings.population.mode == "async"
    if together not in ("auto", settings.peers_per_actor):
        causes = {"mutual.exchange: logits": settings.exchanges_logits, "population.mode: async": is_async}
        cause = next((key for key, is_set in causes.items() if is_set), "a number in population.exchange_every")
        raise SpaceError(
            f"{where}: must be 1 with {cause}, since peers of one process train one after the other, "
            f"got {together}; choose 1 or auto"
        )
    if gpus != "auto" and together != "auto" and gpus < 1 < together * gpus:
        raise SpaceError(
            f"{where}: peers of one process share at most one GPU, got {together} peers of {gpus:g} "
            f"each; choose at most {int(1 / gpus)}, or less in resources.gpus_per_peer"
        )


def _check_async(settings: Settings, origin: Origin) -> None:
    needing_all = {
        "mutual": settings.mutual is not None,
        "diagnostics.pairs": settings.diagnostics.pairs,
        "population.exchange_every": settings.exchanges_in_steps,
    }
    for key in (key for key, is_set in needing_all.items() if is_set):
        raise SpaceError(
            f"{origin('population.mode')}: {key} needs all peers after the same round, got async; set "
            f"population.mode: sync, or remove {key}"
        )


def _check_min_peers(settings: Settings, min_peers: int, origin: Origin) -> None:
    where, num_peers = origin("population.min_peers"), settings.population.num_peers
    if min_peers > num_peers:
        raise SpaceError(f"{where}: must be at most population.num_peers ({num_peers}), got {min_peers}")
    if settings.runs_in_lockstep and min_peers < num_peers:
        key = "mutual.exchange" if settings.exchanges_logits else "population.exchange_every"
        other = "snapshots" if settings.exchanges_logits else "round"
        raise SpaceError(
            f"{where}: {key} needs all peers at the same step, got {min_peers} of {num_peers}; leave it null, or set "
            f"{key}: {other}"
        )


def _check_epochs(settings: Settings, domains: Mapping[str, Domain], origin: Origin) -> None:
    """Check that `epochs` and `total_epochs` are not both set, and that every peer gets the same whole number."""
    epochs, total, num_peers = settings.training.epochs, settings.training.total_epochs, settings.population.num_peers
    if total is None:
        return
    if epochs is not None:
        raise SpaceError(
            f"{origin('training.total_epochs')}: excludes training.epochs, got {total} beside {epochs}; "
            f"remove one, or set it to null"
        )
    for key in ("population.num_peers", "training.total_epochs"):
        if key in domains and domains[key].kind == "randint":
            raise SpaceError(
                f"{origin(key)}: cannot be searched by randint, since total_epochs must be a multiple of num_peers "
                f"in every trial, got {domains[key]}; list the values with choice or grid"
            )
    if total % num_peers:
        below = total - total % num_peers
        nearest = f"{below} or {below + num_peers}" if below else str(num_peers)
        raise SpaceError(
            f"{origin('training.total_epochs')}: must be a multiple of population.num_peers "
            f"({num_peers}), got {total}; choose {nearest}"
        )


def _check_schedule(settings: Settings, origin: Origin) -> None:
    training = settings.training
    if training.schedule != "one_cycle" and training.warmup_epochs >= settings.num_epochs:
        raise SpaceError(
            f"{origin('training.warmup_epochs')}: must be below the epochs of the training ({settings.num_epochs}), "
            f"got {training.warmup_epochs:g}; warm up for less, or train longer"
        )
    if training.schedule in ("cosine", "linear") and training.min_lr > training.lr:
        raise SpaceError(
            f"{origin('training.min_lr')}: must be at most training.lr ({training.lr:g}), got {training.min_lr:g}; "
            f"lower it, or raise training.lr"
        )


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
    num_trials = math.prod(len(domain.every_value()) for domain in domains.values())
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
