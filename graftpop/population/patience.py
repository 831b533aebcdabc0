"""The early end of a population's training (`training.patience`)."""

from collections.abc import Sequence

from graftpop.settings import Settings

__all__ = ["is_settled"]


def is_settled(scores: Sequence[float], settings: Settings) -> bool:
    """Return whether no score of the last `training.patience` rounds is better than the best one before them.

    The rounds that one peer trains alone do not count among the last ones.

    Args:
        scores: validation score of each completed round, from the first.
        settings: the population's settings.
    """
    patience, merits = settings.training.patience, [settings.primary.merit(score) for score in scores]
    alone = settings.branch_epoch // settings.population.epochs_per_round
    if patience is None or len(merits) < patience + max(1, alone):
        return False
    return max(merits[-patience:]) <= max(merits[:-patience])
