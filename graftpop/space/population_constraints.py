"""Rules of the section `population`: how peers start, wait for each other, and share processes."""

from collections.abc import Mapping
from typing import Final

from graftpop.errors import SpaceError
from graftpop.settings import Settings
from graftpop.space.domains import Domain
from graftpop.space.validation_messages import Origin

__all__ = ["check_population"]

OF_OPTIMIZER: Final = ("training.optimizer", "training.momentum")
"""Beginnings of keys that decide on the tensors which an optimizer keeps."""


def check_population(settings: Settings, domains: Mapping[str, Domain], origin: Origin) -> None:
    """Check the rules between keys of `population`, and between them and the methods.

    Args:
        settings: one sample of the space, resolved.
        domains: domains of the searched keys, by dotted key.
        origin: see `Origin`.

    Raises:
        SpaceError: a rule is broken.
    """
    population = settings.population
    if population.min_peers is not None:
        _check_min_peers(settings, population.min_peers, origin)
    if population.mode == "async":
        _check_async(settings, origin)
    if population.branch_at:
        _check_branch(settings, domains, origin)
    if population.sync_until:
        _check_sync(settings, origin)
    _check_actors(settings, origin)


def _check_min_peers(settings: Settings, min_peers: int, origin: Origin) -> None:
    where, num_peers = origin("population.min_peers"), settings.population.num_peers
    if min_peers > num_peers:
        raise SpaceError(f"{where}: must be at most population.num_peers ({num_peers}), got {min_peers}")
    if settings.runs_in_lockstep and min_peers < num_peers:
        causes = {
            ("mutual.exchange", "snapshots"): settings.exchanges_logits,
            ("population.sync_until", "0"): settings.sync_epochs > 0,
        }
        key, other = next((cause for cause, is_set in causes.items() if is_set), ("population.exchange_every", "round"))
        raise SpaceError(
            f"{where}: {key} needs all peers at the same step, got {min_peers} of {num_peers}; leave it null, or set "
            f"{key}: {other}"
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


def _check_branch(settings: Settings, domains: Mapping[str, Domain], origin: Origin) -> None:
    """Check that the peers can start as copies of one, with the state of its optimizer."""
    of_optimizer = [key for key in settings.population.diversity if key.startswith(OF_OPTIMIZER)]
    excluded = {
        "population.mode: async": settings.population.mode == "async",
        "population.sync_until": settings.population.sync_until > 0,
        "mutual": settings.mutual is not None,
        f"a population.diversity of {' and '.join(of_optimizer)}": bool(of_optimizer),
    }
    if cause := next((key for key, is_set in excluded.items() if is_set), None):
        raise SpaceError(
            f"{origin('population.branch_at')}: must be 0 with {cause}, got {settings.population.branch_at:g}; "
            f"remove one"
        )
    is_searched = any(key.startswith(("training.", "population.")) for key in domains)
    if settings.branch_epoch == 0 and not is_searched:
        raise SpaceError(
            f"{origin('population.branch_at')}: must give one of the {settings.num_rounds} rounds or more, got "
            f"{settings.population.branch_at:g}, which is rounded to none; raise it, or set it to 0"
        )


def _check_sync(settings: Settings, origin: Origin) -> None:
    """Check that the weights of the peers stay equal in the epochs in which they average their gradients."""
    population, graft = settings.population, settings.graft
    diversity = population.diversity
    excluded = {
        "population.mode: async": population.mode == "async",
        "population.initialization: own": population.initialization == "own",
        "a population.diversity of training": diversity == "learning_rate"
        or any(key.startswith("training.") for key in diversity),
        "mutual": settings.mutual is not None,
        "repr": settings.repr is not None,
        "pruning": settings.pruning is not None,
        f"graft.source: {graft.source if graft else ''}": graft is not None and graft.source != "external",
    }
    if cause := next((key for key, is_set in excluded.items() if is_set), None):
        raise SpaceError(
            f"{origin('population.sync_until')}: must be 0 with {cause}, since the peers' weights must stay equal, got "
            f"{population.sync_until:g}; remove one"
        )
    if settings.exchanges and population.sync_until == 1:
        raise SpaceError(
            f"{origin('population.sync_until')}: must be below 1 with an exchange rule, which acts afterwards, got 1; "
            f"lower it, or remove the rule"
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
        causes = {
            "mutual.exchange: logits": settings.exchanges_logits,
            "population.sync_until": settings.sync_epochs > 0,
            "population.mode: async": is_async,
        }
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
