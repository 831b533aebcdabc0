"""The rules of a space that no single value can break: names in tables, and keys that must fit each other."""

import math
from collections.abc import Callable, Mapping

from graftpop.errors import SpaceError, choose
from graftpop.learner.schedules import SCHEDULES
from graftpop.ops.topology import TOPOLOGIES
from graftpop.settings import Settings
from graftpop.space.domains import Domain

__all__ = ["UNDER_PBT", "check_names", "check_rules", "check_search"]

UNDER_PBT = ("graft.A", "graft.c", "graft.alpha", "training.lr")
"""What population based training may change while a population runs: it leaves weights and peers as they are."""

MOST_GRID_TRIALS = 100_000

Origin = Callable[[str], str]


def check_names(settings: Settings, origin: Origin) -> None:
    """Look up the names that stand in a table beside their functions.

    Raises:
        SpaceError: an unknown name.
    """
    choose(SCHEDULES, settings.training.schedule, origin("training.schedule"))
    choose(TOPOLOGIES, settings.population.topology, origin("population.topology"))


def check_rules(settings: Settings, origin: Origin) -> None:
    """Check what ties two settings together.

    Raises:
        SpaceError: two of them do not fit.
    """
    population, data = settings.population, settings.data
    if settings.graft is not None and population.num_peers < 2:
        raise SpaceError(f"{origin('population.num_peers')}: grafting over a {population.topology} needs at least 2 "
                         f"peers, got {population.num_peers}; choose 2 or more, or take out the section graft to train "
                         f"a single network")
    if population.epochs_per_round > settings.training.epochs:
        raise SpaceError(f"{origin('population.epochs_per_round')}: must be at most training.epochs "
                         f"({settings.training.epochs}), got {population.epochs_per_round}")
    gpus = settings.resources.gpus_per_peer
    if gpus != "auto" and gpus > 1 and gpus % 1:
        raise SpaceError(f"{origin('resources.gpus_per_peer')}: above 1 must be a whole number, got {gpus}; choose "
                         f"{int(gpus)}, {int(gpus) + 1}, or a share of one")
    if data.name in ("parquet", "folder") and data.root is None:
        raise SpaceError(f"{origin('data.root')}: data set '{data.name}' needs the folder it lies in, got null; set "
                         f"data.root")


def check_search(settings: Settings, domains: Mapping[str, Domain], origin: Origin) -> None:
    """Check what ties the searcher and the scheduler to the domains.

    Raises:
        SpaceError: a domain that the searcher cannot draw from, or that the scheduler would break.
    """
    if settings.tune.search == "grid":
        _check_grid(settings, domains, origin)
    else:
        for key, domain in domains.items():
            if domain.kind == "grid":
                raise SpaceError(f"{origin(key)}: a grid needs tune.search: grid, got {settings.tune.search}; to "
                                 f"sample from it write {{choice: {list(domain.values)}}}")
    if settings.tune.scheduler == "pbt":
        _check_pbt(settings, domains, origin)
    alpha = domains.get("graft.alpha")
    if settings.graft is not None and "adaptive" not in (alpha.corners if alpha else (settings.graft.alpha,)):
        for key in ("graft.A", "graft.c"):
            if key in domains:
                raise SpaceError(f"{origin(key)}: has no effect where graft.alpha is a number, got {domains[key]}; set "
                                 f"graft.alpha: adaptive, or do not search it")


def _check_grid(settings: Settings, domains: Mapping[str, Domain], origin: Origin) -> None:
    for key, domain in domains.items():
        if not domain.is_finite:
            raise SpaceError(f"{origin(key)}: search grid runs every value, and there is no end to those of {domain}; "
                             f"choose choice, grid or randint, or tune.search: random")
    num_trials = math.prod(len(domain.every_value()) for domain in domains.values())
    if num_trials > MOST_GRID_TRIALS:
        raise SpaceError(f"{origin('tune.search')}: search grid would run {num_trials:,} trials, the limit is "
                         f"{MOST_GRID_TRIALS:,}; narrow the domains, or sample with tune.search: random")
    if settings.tune.num_samples is not None:
        raise SpaceError(f"{origin('tune.num_samples')}: search grid runs the whole product of the domains, got "
                         f"{settings.tune.num_samples}; leave it null")


def _check_pbt(settings: Settings, domains: Mapping[str, Domain], origin: Origin) -> None:
    search = settings.tune.search
    if search != "random":
        raise SpaceError(f"{origin('tune.search')}: the scheduler pbt changes settings while trials run, of which a "
                         f"searcher would learn nothing, so it goes with search random only, got {search}; set "
                         f"tune.search: random, or tune.scheduler: asha")
    for key in domains:
        if key not in UNDER_PBT:
            raise SpaceError(f"{origin(key)}: the scheduler pbt copies running populations and can search only "
                             f"{', '.join(UNDER_PBT)}; fix this key, or set tune.scheduler: asha")
    if not domains:
        raise SpaceError(f"{origin('tune.scheduler')}: pbt needs something to change; search one of "
                         f"{', '.join(UNDER_PBT)}")
