"""Builds the hooks of a peer from its settings."""

from collections.abc import Sequence

from graftpop.hooks.gated import GatedPruning
from graftpop.hooks.hook import Hook
from graftpop.hooks.moving_average import MovingAverage
from graftpop.hooks.pruning import Pruning
from graftpop.hooks.pruning_plan import PruningPlan
from graftpop.hooks.repr import RePr
from graftpop.hooks.scions import InternalScions, NoiseScions
from graftpop.hooks.weight_averaging import StochasticWeightAveraging
from graftpop.settings import Settings
from graftpop.training.filters import SiteFilters
from graftpop.training.learner import Learner

__all__ = ["make_hooks"]


def make_hooks(
    settings: Settings, learner: Learner, filters: Sequence[SiteFilters], peer: int, plan: PruningPlan | None = None
) -> list[Hook]:
    """Return the hooks of one peer in the order in which they act.

    Hooks that drop filters follow those that change filters, so that dropped filters stay at zero. Weight averaging is
    last.

    Args:
        settings: the population's settings.
        learner: the peer's learner.
        filters: filters of every site, in module order.
        peer: index of the peer.
        plan: plan of the pruning; None without pruning.
    """
    epochs, seed, graft = settings.num_epochs, settings.seed, settings.graft
    hooks: list[Hook] = []
    if graft is not None and graft.source == "noise":
        hooks.append(NoiseScions(filters, threshold=graft.threshold, base=graft.noise_base, seed=seed, peer=peer))
    if graft is not None and graft.source == "internal":
        hooks.append(InternalScions(filters, threshold=graft.threshold))
    if settings.repr is not None:
        hooks.append(RePr(learner, filters, settings.repr, seed=seed, peer=peer))
    if settings.pruning is not None:
        assert plan is not None, "pruning needs a plan"
        pruning = GatedPruning if settings.pruning.method.schedule == "gated" else Pruning
        hooks.append(pruning(learner, filters, settings.pruning, plan, epochs=epochs, seed=seed, peer=peer))
    if settings.swa is not None:
        hooks.append(StochasticWeightAveraging(learner, start=settings.swa.start, epochs=epochs))
    if settings.ema is not None:
        hooks.append(MovingAverage(learner, decay=settings.ema.decay))
    return hooks
