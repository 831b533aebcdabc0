"""A configuration in words: the actions of its peers in a round, and the range of its alpha."""

import math
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from graftpop.settings import GraftSettings, Settings

__all__ = ["configuration_sentences"]

EXAMPLE_GAP = 0.01
"""Difference in entropy (nats) or L1 norm that illustrates `c` if no difference that decided alpha was recorded."""

DONORS = {
    "ring": "the previous peer in a ring",
    "random_pairs": "a random partner, drawn in each round",
    "all": "the mean of all others",
    "mean": "the mean of all, itself included",
    "best": "the best peer",
}
METHODS = {
    "distillation": "learns from teachers",
    "mutual": "learns from the other peers' predictions",
    "repr": "drops redundant filters for a while and reinitializes them orthogonal to the rest (RePr)",
    "pruning": "prunes its weakest filters",
    "swa": "averages its weights over the last epochs",
    "ema": "ends with an exponential moving average of its weights",
}
CRITERIA = {"entropy": ("entropy", "entropies", " nats"), "l1": ("L1 norm", "L1 norms", " in L1 norm")}
"""Singular, plural and unit of the criteria that have a name of their own; others are "score by NAME"."""


def configuration_sentences(settings: Settings, grafts: pa.Table) -> list[str]:
    """Return sentences that describe a population.

    Args:
        settings: settings of the population.
        grafts: its rows of `grafts.parquet`; may be empty.
    """
    aligned = "Before each exchange, the donors' units are permuted to match the receiver's."
    return [*_training(settings), *_exchange(settings, grafts), *[aligned] * (settings.align is not None)]


def _training(settings: Settings) -> Iterator[str]:
    num_peers, population = settings.population.num_peers, settings.population
    network = f"{settings.model.name} network"
    most = "at most " if settings.training.patience is not None else ""
    if num_peers == 1:
        yield f"One {network} trains for {most}{settings.num_epochs} epochs."
    else:
        yield (
            f"{num_peers} {network}s train side by side for {most}{settings.num_epochs} epochs each, in "
            f"{settings.num_rounds} rounds."
        )
    if settings.branch_epoch and num_peers > 1:
        yield f"One of them trains the {_first(settings.branch_epoch)} alone, and the others start as its copies."
    elif settings.sync_epochs:
        yield f"In the {_first(settings.sync_epochs)} they average their gradients."
    start = "the same" if settings.branch_epoch or settings.initialization == "same" else "different"
    if population.diversity == "learning_rate" and num_peers > 1:
        yield f"They start from {start} weights and have different learning rates."
    elif not isinstance(population.diversity, str):
        yield f"They start from {start} weights and differ in {' and '.join(population.diversity)}."
    methods = [text for section, text in METHODS.items() if getattr(settings, section) is not None]
    if methods:
        yield f"Each network {'; it '.join(methods)}."
    if num_peers > 1 and population.output != "best_peer":
        yield f"The output of the population is their {population.output.replace('_', ' ')}."


def _first(num_epochs: int) -> str:
    return "first epoch" if num_epochs == 1 else f"first {num_epochs} epochs"


def _exchange(settings: Settings, grafts: pa.Table) -> Iterator[str]:
    graft = settings.graft
    if graft is None and settings.exchanges:
        yield f"{_when(settings)}, each exchanges weights with {DONORS[settings.topology]}, {_rule(settings)}."
        return
    if graft is None:
        if settings.population.num_peers > 1:
            yield "They exchange no weights."
        return
    if not settings.exchanges:
        yield {
            "noise": "Between epochs, invalid filters get noise.",
            "internal": "Between epochs, each network's strongest filters are copied into its invalid filters.",
        }[graft.source]
        return
    yield (
        f"{_when(settings)}, each blends in the weights of {DONORS[settings.topology]}. It keeps "
        f"a share alpha of its own weights, with one alpha per {graft.level}."
    )
    if graft.alpha == "adaptive":
        yield from _adaptive_alpha(graft, grafts)
    elif isinstance(graft.alpha, str):
        yield f"The user-defined function {graft.alpha} decides alpha."
    else:
        yield f"Alpha is {graft.alpha:g}: {_fixed_alpha(graft.alpha)}."
    if grafts.num_rows:
        low, high = pc.min_max(grafts["alpha"]).as_py().values()
        mean = pc.mean(grafts["alpha"]).as_py()
        alpha = "the mean alpha of a layer's filters" if graft.level == "filter" else "alpha"
        yield f"In this trial, {alpha} ranged from {low:.3f} to {high:.3f}, {mean:.3f} on average."


def _when(settings: Settings) -> str:
    every = settings.population.exchange_every
    return "At the end of a round" if every == "round" else f"After every {every} optimizer steps"


def _rule(settings: Settings) -> str:
    """Return the exchange rule: its section and the section's meaning, or its user-defined name."""
    for name, section in settings.exchange_sections.items():
        return f"by {name} ({(type(section).__doc__ or '').splitlines()[0].rstrip('.')})"
    return f"by the user-defined rule {settings.exchange}"


def _fixed_alpha(alpha: float) -> str:
    texts = {
        0.5: "the average of receiver and donor",
        1.0: "the receiver keeps all of its own weights",
        0.0: "the receiver takes all of the donor's weights",
    }
    return texts.get(alpha, f"the receiver keeps {100 * alpha:g}% of its own weights")


def _adaptive_alpha(graft: GraftSettings, grafts: pa.Table) -> Iterator[str]:
    by_name = (f"score by {graft.criterion}", f"scores by {graft.criterion}", "")
    criterion, plural, unit = CRITERIA.get(graft.criterion, by_name)
    yield (
        f"The {criterion} of each {graft.level} decides alpha: the receiver keeps more of its own weights where its "
        f"{criterion} is higher."
    )
    difference, gap = "a difference of", EXAMPLE_GAP
    if grafts.num_rows and (graft.criterion, graft.level) == ("entropy", "layer"):
        gaps = pc.abs(pc.subtract(grafts["receiver_entropy_nats"], grafts["donor_entropy_nats"]))
        difference, gap = "the median difference of this trial,", pc.quantile(gaps, 0.5)[0].as_py()
    elif grafts.num_rows:
        yield f"The recorded layer entropies did not decide alpha; the {plural} of {graft.level}s did."
    low, high = max(0.0, graft.base - graft.A / 2), min(1.0, graft.base + graft.A / 2)
    shift = graft.A / math.pi * math.atan(graft.c * gap)
    yield (
        f"With A = {graft.A:.3g}, alpha is between {low:.2f} and {high:.2f}. With "
        f"c = {graft.c:.3g}, {difference} {gap:.2g}{unit}{',' * difference.endswith(',')} moves it to "
        f"{min(1.0, graft.base + shift):.3f} or {max(0.0, graft.base - shift):.3f}."
    )
