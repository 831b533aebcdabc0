"""Selection of a network to export: a peer of the best trial, the soup, or the ensemble of its peers."""

import copy
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from safetensors.torch import load
from torch import nn

from graftpop.errors import CheckpointError, one_line
from graftpop.models import find_model
from graftpop.models.ensemble import Ensemble
from graftpop.models.network_file import rebuilt_network, split_peer_file
from graftpop.peer.peer import Peer
from graftpop.run.checkpoints import Checkpoint, CheckpointMetadata, Checkpoints
from graftpop.run.tables import RunFolder
from graftpop.settings import DiagnosticsSettings, Settings
from graftpop.study.trials import best_row

__all__ = ["SelectedNetwork", "select_network"]

SOUPS = ("uniform_soup", "greedy_soup")


@dataclass(frozen=True)
class SelectedNetwork:
    """A network of a run.

    Attributes:
        network: in evaluation mode, from normalized images (B, 3, H, W) to class scores (B, C).
        card: the model card, as in `config.json` of best/; for an ensemble with its number of members.
        what: the network in one sentence.
        settings: of its population.
        trial: the best trial's row of `trials.parquet`.
        facts: metadata of its checkpoint.
    """

    network: nn.Module
    card: dict[str, Any]
    what: str
    settings: Settings
    trial: dict[str, Any]
    facts: CheckpointMetadata


def select_network(run: RunFolder, peer: str) -> SelectedNetwork:
    """Return a network of the best trial of a run, from its newest checkpoint.

    Args:
        run: a run with at least one finished round.
        peer: `best`, `soup`, `ensemble` or a peer's number.

    Raises:
        CheckpointError: there is no such network.
        DataError: the images that a soup needs are missing.
    """
    run.check_is_run()
    row = best_row(run.read_table("trials").to_pylist())
    if row is None:
        raise CheckpointError(
            f"{run.location}: no trial has finished a round, so there is no network to export; continue "
            f"with --resume {run.location}"
        )
    checkpoint = _newest(run, row["trial_id"])
    facts = checkpoint.facts
    settings = _settings_of(facts, run.location)
    find_model(settings.model.name)  # imports a user-defined class, as --resume does
    if peer == "soup":
        network, card, what = _soup(checkpoint, settings)
    elif peer == "ensemble":
        network, card, what = _ensemble(checkpoint, settings)
    else:
        network, card, what = _one(checkpoint, settings, peer)
    return SelectedNetwork(network, card, what, settings, dict(row), facts)


def _settings_of(facts: CheckpointMetadata, location: str) -> Settings:
    try:
        return Settings.model_validate(facts.settings)
    except ValidationError as error:
        raise CheckpointError(
            f"{location}: the settings of its checkpoint must be this version's, got others: "
            f"{one_line(error)}; export with the graftpop that made the run"
        ) from error


def _newest(run: RunFolder, trial_id: str) -> Checkpoint:
    checkpoints = Checkpoints(run.of_trials("checkpoints") / trial_id)
    for checkpoint in checkpoints.newest_first():
        if checkpoint.facts.round:  # otherwise it has teachers only
            return checkpoint
    raise CheckpointError(
        f"{run.location}: the best trial, {trial_id}, has no complete checkpoint; continue with "
        f"--resume {run.location}, or load best/"
    )


def _one(checkpoint: Checkpoint, settings: Settings, peer: str) -> tuple[nn.Module, dict[str, Any], str]:
    facts = checkpoint.facts
    best, peers = int(facts.summary["best_peer"]), facts.peers
    number = best if peer == "best" else int(peer) if peer.isdecimal() else -1
    if number not in peers:
        raise CheckpointError(
            f"--peer: the best trial has peers {', '.join(map(str, peers))}, got '{peer}'; choose "
            f"one of them, best, soup or ensemble"
        )
    network, card = _network_of(checkpoint, number)
    if number == best and _has_become_soup(facts, settings):
        kind = settings.population.output.removesuffix("_soup")
        return network, card, f"The {kind} soup of {len(peers)} peers: a mean of their weights."
    among = f"Peer {number} of {len(peers)}" if len(peers) > 1 else "The only peer"
    best_one = ", the one with the highest validation accuracy" if number == best and len(peers) > 1 else ""
    return network, card, f"{among}{best_one}."


def _ensemble(checkpoint: Checkpoint, settings: Settings) -> tuple[nn.Module, dict[str, Any], str]:
    facts = checkpoint.facts
    _check_has_own_weights("ensemble", facts, settings)
    networks, cards = zip(*(_network_of(checkpoint, peer) for peer in facts.peers), strict=True)
    card = {**cards[0], "ensemble": len(networks)}
    removed = [one["removed_filters"] for one in cards if "removed_filters" in one]
    card |= {"removed_filters": sum(removed)} if removed else {}
    return (
        Ensemble(networks).eval(),
        card,
        (f"An ensemble of {len(networks)} peers: its class probabilities are the mean of the members'."),
    )


def _soup(checkpoint: Checkpoint, settings: Settings) -> tuple[nn.Module, dict[str, Any], str]:
    """Make the uniform soup as a population does, in a peer with the best peer's index."""
    facts, best = checkpoint.facts, int(checkpoint.facts.summary["best_peer"])
    if _has_become_soup(facts, settings) and settings.population.output == "uniform_soup":
        return _one(checkpoint, settings, "best")
    _check_has_own_weights("soup", facts, settings)
    if settings.attenuation is not None:
        raise CheckpointError(
            "--peer soup: attenuated filters differ from peer to peer, so networks have no "
            "mean; choose best, ensemble or a peer"
        )
    # without teachers and baseline, which are not needed and may be gone
    soup_peer = Peer(settings.model_copy(update={"distillation": None, "diagnostics": DiagnosticsSettings()}), best)
    snapshots = []
    for peer in facts.peers:
        soup_peer.load(checkpoint.read(_file(peer)))
        snapshots.append(copy.deepcopy(soup_peer.publish()))
    soup_peer.make_soup("uniform_soup", *snapshots)
    network, card = _rebuilt(soup_peer.save(), "the soup")
    return (
        network,
        card,
        (
            f"A uniform soup: the mean of the weights of {len(snapshots)} peers, with BatchNorm "
            f"statistics measured again on the training images."
        ),
    )


def _has_become_soup(facts: CheckpointMetadata, settings: Settings) -> bool:
    """Return whether the best peer's weights are the population's soup."""
    return facts.is_complete and settings.population.output in SOUPS


def _check_has_own_weights(what: str, facts: CheckpointMetadata, settings: Settings) -> None:
    if _has_become_soup(facts, settings):
        raise CheckpointError(
            f"--peer {what}: needs the weights of every peer, but the best peer is the "
            f"population's {settings.population.output}; choose best, which is the soup, or a peer"
        )


def _network_of(checkpoint: Checkpoint, peer: int) -> tuple[nn.Module, dict[str, Any]]:
    return _rebuilt(checkpoint.read(_file(peer)), f"peer {peer}")


def _rebuilt(peer_file: bytes, where: str) -> tuple[nn.Module, dict[str, Any]]:
    weights, card = split_peer_file(peer_file)
    return rebuilt_network(card, load(weights), where), card


def _file(peer: int) -> str:
    return f"peer-{peer}.safetensors"
