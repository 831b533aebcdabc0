"""Rules that the types of the settings do not express: names that must exist, and keys that must fit each other.

`torch_constraints` has the rules that need torch, which takes seconds to import.
"""

from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError

from graftpop.errors import SpaceError, choose, closest, one_line
from graftpop.ops.topology import TOPOLOGIES
from graftpop.settings import Settings
from graftpop.settings.task import METRICS
from graftpop.space.domains import Domain
from graftpop.space.keys import known_keys
from graftpop.space.population_constraints import check_population
from graftpop.space.validation_messages import Origin
from graftpop.training.schedules import SCHEDULES
from graftpop.user_code import PYTHON

__all__ = ["NAME_TABLES", "USER_CODE", "check_names", "check_rules"]

NAME_TABLES: Final[Mapping[str, Mapping[str, object]]] = {
    "training.schedule": SCHEDULES,
    "population.topology": {"auto": None, **TOPOLOGIES},
}
"""Keys whose value is a name, and the table with the names. data.name and model.name are checked with the data."""

USER_CODE: Final = ("graft.criterion",)
"""Keys with a table of names that may also name user code."""

NEED_ROOT: Final = ("parquet", "hf", "folder", "market1501", "dukemtmc")
"""Data sets that are found only through data.root."""

DIVERSE: Final = ("training.", "augmentation.", "task.label_smoothing")
"""Keys, and beginnings of keys, in which peers may differ."""

NOT_DIVERSE: Final = tuple(
    f"training.{key}"
    for key in ("epochs", "total_epochs", "batch_size", "accumulate", "patience", "keep", "precision", "deterministic")
)
"""Keys of training that peers share, since they exchange at the same step or round, or end alike."""


def check_names(settings: Settings, origin: Origin, tables: Mapping[str, Mapping[str, object]] = NAME_TABLES) -> None:
    """Check that the names in the settings exist in their tables.

    Args:
        settings: one sample of the space, resolved.
        origin: see `Origin`.
        tables: tables by the dotted key of the name.

    Raises:
        SpaceError: a name is unknown.
    """
    for key, table in tables.items():
        section_name, _, name = key.partition(".")
        section = getattr(settings, section_name)
        if section is None:
            continue
        value = getattr(section, name)
        if value is not None and not (key in USER_CODE and value.startswith(PYTHON)):
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
    check_population(settings, domains, origin)
    if not isinstance(settings.population.diversity, str):
        _check_diversity(settings, settings.population.diversity, domains, origin)
    if settings.training.patience is not None:
        _check_patience(settings, origin)
    _check_keep(settings, origin)
    if not settings.task.is_user_defined and settings.metrics != METRICS[settings.task.name]:
        raise SpaceError(
            f"{origin('task.metrics')}: must be null or those of task {settings.task.name}, got "
            f"{settings.task.metrics}; leave it out"
        )
    _check_triplets(settings, origin)
    _check_mixing(settings, origin)
    if data.label_noise and settings.task.name != "classification":
        raise SpaceError(
            f"{origin('data.label_noise')}: must be 0 unless the task is classification, got {data.label_noise:g} with "
            f"task {settings.task.name}; leave it out"
        )
    if settings.model.pretrained and settings.model.checkpoint is not None:
        raise SpaceError(
            f"{origin('model.checkpoint')}: excludes model.pretrained, got {settings.model.checkpoint} and "
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
    where = origin("population.diversity")
    known = [key for key in known_keys(Settings) if key.startswith(DIVERSE) and key not in NOT_DIVERSE]
    needing_images = {
        "mutual.exchange: logits": settings.exchanges_logits,
        "teachers that the peers train": settings.distillation is not None
        and any(teacher.epochs for teacher in settings.distillation.teachers),
    }
    cause = next((key for key, is_set in needing_images.items() if is_set), None)
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
        if cause is not None and key.startswith("augmentation."):
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


def _check_keep(settings: Settings, origin: Origin) -> None:
    if settings.training.keep == "best" and settings.pruning is not None:
        raise SpaceError(
            f"{origin('training.keep')}: must be last with pruning, which ends with its dropped filters, got best; "
            f"remove one"
        )


def _check_patience(settings: Settings, origin: Origin) -> None:
    needing_length = {
        "population.mode: async": settings.population.mode == "async",
        "repr": settings.repr is not None,
        "pruning": settings.pruning is not None,
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


def _check_epochs(settings: Settings, domains: Mapping[str, Domain], origin: Origin) -> None:
    """Check that `epochs` and `total_epochs` are not both set, and that every peer gets the same whole number."""
    epochs, total, num_peers = settings.training.epochs, settings.training.total_epochs, settings.population.num_peers
    if total is None:
        return
    if epochs is not None:
        raise SpaceError(
            f"{origin('training.total_epochs')}: excludes training.epochs, got {total} and {epochs}; "
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
