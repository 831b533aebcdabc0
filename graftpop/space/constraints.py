"""The rules of a space that no single value can break: names in tables, and keys that must fit each other."""

import math
from collections.abc import Mapping

from graftpop.errors import SpaceError, choose
from graftpop.ops.attenuation import FACTOR_SCHEDULES, RATE_SCHEDULES
from graftpop.ops.criteria import CRITERIA
from graftpop.ops.topology import TOPOLOGIES
from graftpop.settings import Settings
from graftpop.space.domains import Domain
from graftpop.space.validation_messages import Origin
from graftpop.training.schedules import SCHEDULES

__all__ = ["UNDER_PBT", "check_effect", "check_names", "check_rules", "check_search"]

UNDER_PBT = ("graft.A", "graft.c", "graft.alpha", "training.lr")
"""What population based training may change while a population runs: it leaves weights and peers as they are."""

MOST_GRID_TRIALS = 100_000


def check_names(settings: Settings, origin: Origin) -> None:
    """Look up the names that stand in a table beside their functions.

    Raises:
        SpaceError: an unknown name.
    """
    choose(SCHEDULES, settings.training.schedule, origin("training.schedule"))
    choose(TOPOLOGIES, settings.population.topology, origin("population.topology"))
    if settings.repr is not None:
        choose(CRITERIA, settings.repr.criterion, origin("repr.criterion"))
    if settings.attenuation is not None:
        choose(CRITERIA, settings.attenuation.criterion, origin("attenuation.criterion"))
        choose(FACTOR_SCHEDULES, settings.attenuation.factor_schedule, origin("attenuation.factor_schedule"))
        choose(RATE_SCHEDULES, settings.attenuation.rate_schedule, origin("attenuation.rate_schedule"))


def check_rules(settings: Settings, domains: Mapping[str, Domain], origin: Origin) -> None:
    """Check what ties data, training, population and resources together.

    Raises:
        SpaceError: two of them do not fit.
    """
    population, data = settings.population, settings.data
    _check_epochs(settings, domains, origin)
    if population.epochs_per_round > settings.num_epochs:
        of = (
            "training.epochs"
            if settings.training.total_epochs is None
            else "training.total_epochs / population.num_peers"
        )
        raise SpaceError(
            f"{origin('population.epochs_per_round')}: must be at most {of} ({settings.num_epochs}), got "
            f"{population.epochs_per_round}"
        )
    if population.min_peers is not None:
        _check_min_peers(settings, population.min_peers, origin)
    if population.mode == "async":
        _check_async(settings, origin)
    _check_actors(settings, origin)
    if data.name in ("parquet", "folder") and data.root is None:
        raise SpaceError(
            f"{origin('data.root')}: data set '{data.name}' needs the folder it lies in, got null; set data.root"
        )


def _check_actors(settings: Settings, origin: Origin) -> None:
    """Check how peers share processes, and cards."""
    gpus, together = settings.resources.gpus_per_peer, settings.population.peers_per_actor
    if gpus != "auto" and gpus > 1 and gpus % 1:
        raise SpaceError(
            f"{origin('resources.gpus_per_peer')}: above 1 must be a whole number, got {gpus}; choose "
            f"{int(gpus)}, {int(gpus) + 1}, or a share of one"
        )
    where = origin("population.peers_per_actor")
    if together not in ("auto", settings.peers_per_actor):
        cause = "mutual.exchange: logits" if settings.meets else "population.mode: async"
        raise SpaceError(
            f"{where}: peers of one process train one after the other, which does not go with {cause}, "
            f"got {together}; choose 1 or auto"
        )
    if gpus != "auto" and together != "auto" and gpus < 1 < together * gpus:
        raise SpaceError(
            f"{where}: peers of one process share at most one card, got {together} peers of {gpus:g} "
            f"each; choose at most {int(1 / gpus)}, or less in resources.gpus_per_peer"
        )


def _check_async(settings: Settings, origin: Origin) -> None:
    needing_all = {"mutual": settings.mutual is not None, "diagnostics.pairs": settings.diagnostics.pairs}
    for key in (key for key, is_set in needing_all.items() if is_set):
        raise SpaceError(
            f"{origin('population.mode')}: {key} needs all peers after the same round, got async; set "
            f"population.mode: sync, or leave {key} out"
        )


def _check_min_peers(settings: Settings, min_peers: int, origin: Origin) -> None:
    where, num_peers = origin("population.min_peers"), settings.population.num_peers
    if min_peers > num_peers:
        raise SpaceError(f"{where}: must be at most population.num_peers ({num_peers}), got {min_peers}")
    if settings.meets and min_peers < num_peers:
        raise SpaceError(
            f"{where}: peers that meet at every batch cannot go on with fewer, got {min_peers} of "
            f"{num_peers}; leave it null, or set mutual.exchange: snapshots"
        )


def _check_epochs(settings: Settings, domains: Mapping[str, Domain], origin: Origin) -> None:
    """Check that the epochs are said once, and that those of all peers together can be shared out."""
    epochs, total, num_peers = settings.training.epochs, settings.training.total_epochs, settings.population.num_peers
    if total is None:
        return
    if epochs is not None:
        raise SpaceError(
            f"{origin('training.total_epochs')}: excludes training.epochs, got {total} beside {epochs}; "
            f"take one out, or set it to null"
        )
    for key in ("population.num_peers", "training.total_epochs"):
        if key in domains and domains[key].kind == "randint":
            raise SpaceError(
                f"{origin(key)}: total_epochs must be a multiple of num_peers in every trial, so neither "
                f"is searched by randint, got {domains[key]}; list the values with choice or grid"
            )
    if total % num_peers:
        below = total - total % num_peers
        nearest = f"{below} or {below + num_peers}" if below else str(num_peers)
        raise SpaceError(
            f"{origin('training.total_epochs')}: must be a multiple of population.num_peers "
            f"({num_peers}), got {total}; choose {nearest}"
        )


def check_search(settings: Settings, domains: Mapping[str, Domain], origin: Origin, *, is_comparison: bool) -> None:
    """Check what ties the searcher and the scheduler to the domains.

    Raises:
        SpaceError: a domain that the searcher cannot draw from, or that the scheduler would break.
    """
    if is_comparison:
        _check_comparison(settings, origin)
    if settings.tune.search == "grid":
        _check_grid(settings, domains, origin, or_else="" if is_comparison else ", or tune.search: random")
    else:
        for key, domain in domains.items():
            if domain.kind == "grid":
                raise SpaceError(
                    f"{origin(key)}: a grid needs tune.search: grid, got {settings.tune.search}; to "
                    f"sample from it write {{choice: {list(domain.values)}}}"
                )
    if settings.tune.scheduler == "pbt":
        _check_pbt(settings, domains, origin)


def _check_comparison(settings: Settings, origin: Origin) -> None:
    if settings.tune.search != "grid":
        raise SpaceError(
            f"{origin('tune.search')}: variants and seeds run in all combinations, which is grid, got "
            f"{settings.tune.search}; write grid, or leave it out"
        )
    if settings.tune.scheduler != "none":
        raise SpaceError(
            f"{origin('tune.scheduler')}: a trial that is stopped or changed compares with nothing, so "
            f"with variants or seeds it is none, got {settings.tune.scheduler}; write none, or leave it "
            f"out"
        )


def _check_grid(settings: Settings, domains: Mapping[str, Domain], origin: Origin, or_else: str) -> None:
    for key, domain in domains.items():
        if not domain.is_finite:
            raise SpaceError(
                f"{origin(key)}: search grid runs every value, and there is no end to those of {domain}; "
                f"choose choice, grid or randint{or_else}"
            )
    num_trials = math.prod(len(domain.every_value()) for domain in domains.values())
    if num_trials > MOST_GRID_TRIALS:
        raise SpaceError(
            f"{origin('tune.search')}: search grid would run {num_trials:,} trials, the limit is "
            f"{MOST_GRID_TRIALS:,}; narrow the domains{or_else.replace('or ', 'or sample with ')}"
        )
    if settings.tune.num_samples is not None:
        raise SpaceError(
            f"{origin('tune.num_samples')}: search grid runs the whole product of the domains, got "
            f"{settings.tune.num_samples}; leave it null"
        )


def _check_pbt(settings: Settings, domains: Mapping[str, Domain], origin: Origin) -> None:
    search = settings.tune.search
    if search != "random":
        raise SpaceError(
            f"{origin('tune.search')}: the scheduler pbt changes settings while trials run, of which a "
            f"searcher would learn nothing, so it goes with search random only, got {search}; set "
            f"tune.search: random, or tune.scheduler: asha"
        )
    for key in domains:
        if key not in UNDER_PBT:
            raise SpaceError(
                f"{origin(key)}: the scheduler pbt copies running populations and can search only "
                f"{', '.join(UNDER_PBT)}; fix this key, or set tune.scheduler: asha"
            )
    if not domains:
        raise SpaceError(
            f"{origin('tune.scheduler')}: pbt needs something to change; search one of {', '.join(UNDER_PBT)}"
        )


def check_effect(settings: Settings, domains: Mapping[str, Domain], origin: Origin) -> None:
    """Check that searched keys make a difference in some trials.

    Raises:
        SpaceError: one does not.
    """
    graft, curve = settings.graft, ("graft.A", "graft.c")
    rules: list[tuple[tuple[str, ...], str, str, object, str]] = [
        (("population.max_staleness",), "population.mode", "async", settings.population.mode, "sync")
    ]
    if graft is not None:
        rules += [
            (curve, "graft.alpha", "adaptive", graft.alpha, "a number"),
            (curve, "graft.source", "external", graft.source, "internal or noise"),
        ]
    for keys, name, wanted, fixed, otherwise in rules:
        for key in keys:
            if key in domains and wanted not in (domains[name].boundary_values if name in domains else (fixed,)):
                raise SpaceError(
                    f"{origin(key)}: has no effect where {name} is {otherwise}, got {domains[key]}; set "
                    f"{name}: {wanted}, or do not search it"
                )
