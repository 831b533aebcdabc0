"""The checkpoint that a trial resumes from: its own newest one, or another trial's under population based training."""

from collections.abc import Callable

from graftpop.errors import CheckpointError
from graftpop.population import Event
from graftpop.run.checkpoints import Checkpoint, Checkpoints

__all__ = ["newest_checkpoint"]


def newest_checkpoint(
    own: Checkpoints, source: Checkpoints, trial_id: str, num_peers: int, on_event: Callable[[Event], None]
) -> tuple[Checkpoint | None, dict[str, bytes]]:
    """Return the newest complete checkpoint with its files; None and no files without one.

    Damaged checkpoints are skipped with an event. A checkpoint of another trial is adopted only up to the round that
    this trial has reached: a later one would leave gaps in its records. This trial's checkpoints after the adopted
    round are then removed.

    Args:
        own: checkpoints of the trial.
        source: checkpoints of the trial to adopt from; `own` if no other trial is adopted.
        trial_id: trial ID, for messages.
        num_peers: number of peers of the population.
        on_event: called with each skipped checkpoint.

    Raises:
        CheckpointError: the checkpoint has more peers than the population, or another version of graftpop wrote it.
    """

    def skipped(round: int, cause: str) -> None:
        on_event(Event(round, None, "checkpoint_skipped", cause))

    candidates = list(own.newest_first(skipped))
    adopts = source is not own
    if adopts:
        reached = candidates[0].metadata.round if candidates else 0
        adopted = source.up_to(reached)
        if not adopted:
            cause = "the trial to copy is ahead in all its checkpoints; it continues with its own weights"
            skipped(reached, cause)
        candidates = adopted + candidates
    for checkpoint in candidates:
        try:
            files = checkpoint.files()
        except CheckpointError as error:
            skipped(checkpoint.metadata.round, str(error))
            continue
        if max(checkpoint.metadata.peers) >= num_peers:
            raise CheckpointError(
                f"checkpoint of trial {trial_id}: must have at most {num_peers} peers, "
                f"got peers {checkpoint.metadata.peers}"
            )
        if adopts:
            own.remove_after(checkpoint.metadata.round)
        return checkpoint, files
    return None, {}
