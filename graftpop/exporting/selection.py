"""Selection of the exported network: a peer of the best trial, the soup of its peers, or their ensemble."""

import copy
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from safetensors.torch import load
from torch import nn

from graftpop.errors import CheckpointError, one_line
from graftpop.models import find_model
from graftpop.models.card import ModelCard
from graftpop.models.network_file import ensemble_of, rebuilt_network, split_peer_file
from graftpop.peer.components import named_components
from graftpop.peer.peer import Peer
from graftpop.run.checkpoints import Checkpoint, CheckpointMetadata, Checkpoints
from graftpop.run.run_folder import RunFolder
from graftpop.settings import DiagnosticsSettings, Settings
from graftpop.space import parse_space
from graftpop.space.yaml_text import read_sections
from graftpop.study.trials import best_row

__all__ = ["SelectedNetwork", "select_network"]


@dataclass(frozen=True)
class SelectedNetwork:
    """A network selected from a run.

    Attributes:
        network: whole network in evaluation mode, from normalized images (B, 3, H, W) to class scores (B, C), or from a
            user-defined task's inputs to its outputs.
        card: data to rebuild the network and normalize its input, as in `config.json` of best/; for an ensemble also
            its number of members.
        description: description of the network, one sentence.
        settings: settings of its population.
        trial: row of the best trial in `trials.parquet`.
        metadata: metadata of the checkpoint that it was loaded from.
    """

    network: nn.Module
    card: ModelCard
    description: str
    settings: Settings
    trial: dict[str, Any]
    metadata: CheckpointMetadata


def select_network(run: RunFolder, peer: str) -> SelectedNetwork:
    """Return a network of a run's best trial, from its newest checkpoint.

    Args:
        run: run with at least one finished round.
        peer: `best`, `soup`, `ensemble` or a peer's number.

    Raises:
        CheckpointError: the run has no such network.
        DataError: the training images, which a soup needs, are missing.
    """
    run.check_is_run()
    where = f"{run.location}/space.yaml"
    primary = parse_space(read_sections(run.read_text("space.yaml"), where), where).primary
    row = best_row(run.read_table("trials").to_pylist(), primary)
    if row is None:
        raise CheckpointError(
            f"{run.location}: no trial has finished a round, so there is no network to export; resume the run with "
            f"--resume {run.location}"
        )
    checkpoint = _newest(run, row["trial_id"])
    metadata = checkpoint.metadata
    settings = _settings_of(metadata, run.location)
    find_model(settings.model.name)  # imports a user-defined class, as resuming the run does
    if peer == "soup":
        network, card, description = _soup(checkpoint, settings)
    elif peer == "ensemble":
        network, card, description = _ensemble(checkpoint, settings)
    else:
        network, card, description = _peer(checkpoint, settings, peer)
    return SelectedNetwork(network, card, description, settings, dict(row), metadata)


def _settings_of(metadata: CheckpointMetadata, location: str) -> Settings:
    try:
        return Settings.model_validate(metadata.settings)
    except ValidationError as error:
        raise CheckpointError(
            f"{location}: the checkpoint's settings must be valid in this version of graftpop, got "
            f"{one_line(error)}; export with the version that wrote the run"
        ) from error


def _newest(run: RunFolder, trial_id: str) -> Checkpoint:
    checkpoints = Checkpoints(run.of_trials("checkpoints") / trial_id)
    for checkpoint in checkpoints.newest_first():
        if checkpoint.metadata.round:  # the checkpoint before round 1 has teachers only
            return checkpoint
    raise CheckpointError(
        f"{run.location}: the best trial, {trial_id}, has no complete checkpoint; resume the run with "
        f"--resume {run.location}, or load best/"
    )


def _peer(checkpoint: Checkpoint, settings: Settings, peer: str) -> tuple[nn.Module, ModelCard, str]:
    metadata = checkpoint.metadata
    best, peers = int(metadata.summary["best_peer"]), metadata.peers
    number = best if peer == "best" else int(peer) if peer.isdecimal() else -1
    if number not in peers:
        raise CheckpointError(
            f"--peer: the best trial has peers {', '.join(map(str, peers))}, got '{peer}'; choose "
            f"one of them, best, soup or ensemble"
        )
    network, card = _network_of(checkpoint, number)
    if number == best and _is_soup(metadata, settings):
        kind = settings.population.output.removesuffix("_soup")
        return network, card, f"The {kind} soup of {len(peers)} peers: a mean of their weights."
    if len(peers) == 1:
        return network, card, "The only peer."
    reason = ", the one with the best validation score" if number == best else ""
    return network, card, f"Peer {number} of {len(peers)}{reason}."


def _ensemble(checkpoint: Checkpoint, settings: Settings) -> tuple[nn.Module, ModelCard, str]:
    metadata = checkpoint.metadata
    _check_has_own_weights("ensemble", metadata, settings)
    if settings.task.is_user_defined:
        raise CheckpointError(
            f"--peer ensemble: only the task knows how predictions combine, got {settings.task.name}; choose best, "
            f"soup or a peer"
        )
    networks, cards = zip(*(_network_of(checkpoint, peer) for peer in metadata.peers), strict=True)
    removed = [member.removed_filters for member in cards if member.removed_filters is not None]
    changes = {"ensemble": len(networks)} | ({"removed_filters": sum(removed)} if removed else {})
    card = cards[0].model_copy(update=changes)
    combined = "features are theirs side by side" if card.classifier else "class probabilities are the mean of theirs"
    return ensemble_of(networks, card).eval(), card, f"An ensemble of {len(networks)} peers: its {combined}."


def _soup(checkpoint: Checkpoint, settings: Settings) -> tuple[nn.Module, ModelCard, str]:
    """Return the uniform soup; the best peer if the population already made it the soup."""
    metadata, best = checkpoint.metadata, int(checkpoint.metadata.summary["best_peer"])
    if _is_soup(metadata, settings) and settings.population.output == "uniform_soup":
        return _peer(checkpoint, settings, "best")
    _check_has_own_weights("soup", metadata, settings)
    if settings.pruning is not None:
        raise CheckpointError(
            "--peer soup: must average equal networks, got pruned filters that differ from peer to peer; choose "
            "best, ensemble or a peer"
        )
    # teachers, files for diagnostics and the weights to start from are not needed and may be gone
    settings = settings.model_copy(update={"distillation": None, "diagnostics": DiagnosticsSettings()})
    _, card = split_peer_file(checkpoint.read(_file(best)))
    member = Peer(settings, best, components=named_components(settings, card))
    snapshots = []
    for peer in metadata.peers:
        member.load(checkpoint.read(_file(peer)))
        snapshots.append(copy.deepcopy(member.publish()))
    member.load(checkpoint.read(_file(best)))  # `align` matches the peers to it
    member.make_soup("uniform_soup", *snapshots)
    network, card = _rebuilt(member.save(), "the soup")
    return (
        network,
        card,
        f"A uniform soup: the mean of the weights of {len(snapshots)} peers, with BatchNorm statistics recomputed on "
        f"the training images.",
    )


def _is_soup(metadata: CheckpointMetadata, settings: Settings) -> bool:
    """Return whether the best peer's weights are the population's soup."""
    return metadata.is_complete and settings.population.makes_soup


def _check_has_own_weights(peer: str, metadata: CheckpointMetadata, settings: Settings) -> None:
    if _is_soup(metadata, settings):
        raise CheckpointError(
            f"--peer {peer}: needs the weights of every peer, got the {settings.population.output} for the best "
            f"peer; choose best, which is the soup, or a peer"
        )


def _network_of(checkpoint: Checkpoint, peer: int) -> tuple[nn.Module, ModelCard]:
    return _rebuilt(checkpoint.read(_file(peer)), f"peer {peer}")


def _rebuilt(peer_file: bytes, where: str) -> tuple[nn.Module, ModelCard]:
    weights, card = split_peer_file(peer_file)
    return rebuilt_network(card, load(weights), where), card


def _file(peer: int) -> str:
    return f"peer-{peer}.safetensors"
