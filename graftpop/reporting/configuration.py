"""A configuration in sentences: training, exchange, and the resulting alpha."""

import math
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from graftpop.settings import GraftSettings, Settings

__all__ = ["configuration_sentences"]

EXAMPLE_GAP = 0.01
"""Difference of two scores as an example, if no exchange recorded the deciding scores."""

GIVES = {
    "ring": "the previous peer in a ring",
    "random_pairs": "a random partner in each round",
    "all": "the mean of all others",
    "best": "the best peer",
}
METHODS = {
    "distillation": "learns from teachers",
    "mutual": "learns from the other peers' predictions",
    "repr": "drops redundant filters for a while and restores them orthogonal (RePr)",
    "attenuation": "weakens its weakest filters after every epoch",
    "swa": "averages its weights over the last epochs",
}


def configuration_sentences(settings: Settings, grafts: pa.Table) -> list[str]:
    """Return sentences that describe a population.

    Args:
        settings: of the population.
        grafts: its rows of `grafts.parquet`, possibly none.
    """
    return [*_training(settings), *_exchange(settings, grafts)]


def _training(settings: Settings) -> Iterator[str]:
    num_peers, population = settings.population.num_peers, settings.population
    network = f"{settings.model.name} network"
    if num_peers == 1:
        yield f"One {network} trains for {settings.num_epochs} epochs."
    else:
        yield (
            f"{num_peers} {network}s train side by side for {settings.num_epochs} epochs each, in "
            f"{settings.num_rounds} rounds."
        )
    if population.diversity == "learning_rate" and num_peers > 1:
        yield "They start from different weights and have different learning rates."
    methods = [text for section, text in METHODS.items() if getattr(settings, section) is not None]
    if methods:
        yield f"Each {'; '.join(methods)}."
    if num_peers > 1 and population.output != "best_peer":
        yield f"The result is their {population.output.replace('_', ' ')}."


def _exchange(settings: Settings, grafts: pa.Table) -> Iterator[str]:
    graft = settings.graft
    if graft is None:
        if settings.population.num_peers > 1:
            yield "They exchange no weights."
        return
    if not settings.exchanges:
        yield {
            "noise": "Between two epochs, noise is added to invalid filters.",
            "internal": "Between two epochs, the network's strongest filters replace invalid ones.",
        }[graft.source]
        return
    yield (
        f"At the end of a round each peer receives the weights of {GIVES[settings.population.topology]} and keeps, "
        f"{graft.level} by {graft.level}, a share alpha of its own weights."
    )
    yield _alpha(graft, grafts)
    if grafts.num_rows:
        low, high = pc.min_max(grafts["alpha"]).as_py().values()
        mean = pc.mean(grafts["alpha"]).as_py()
        yield f"In this trial alpha was between {low:.3f} and {high:.3f}, {mean:.3f} on average."


def _alpha(graft: GraftSettings, grafts: pa.Table) -> str:
    if graft.alpha != "adaptive":
        kept = {0.5: "plain averaging", 1.0: "each peer keeps its weights", 0.0: "each peer takes its donor's weights"}
        return (
            f"Alpha is {graft.alpha:g}: {kept.get(graft.alpha, f'each peer keeps {graft.alpha:.0%} of its weights')}."
        )
    score = {"entropy": "entropy", "l1": "L1 norm"}[graft.criterion]
    unit = " nats" if graft.criterion == "entropy" else ""
    recorded_decides = graft.criterion == "entropy" and graft.level == "layer"
    gap, source = EXAMPLE_GAP, "a difference"
    if recorded_decides and grafts.num_rows:
        gaps = pc.abs(pc.subtract(grafts["receiver_entropy_nats"], grafts["donor_entropy_nats"]))
        gap, source = pc.quantile(gaps, 0.5)[0].as_py(), "the median difference of this trial"
    shift = graft.A / math.pi * math.atan(graft.c * gap)
    text = (
        f"The {score} of each {graft.level} decides alpha: it is above 1/2 if the receiver's is larger. "
        f"A = {graft.A:.3g} keeps alpha between {0.5 - graft.A / 2:.2f} and {0.5 + graft.A / 2:.2f}. With "
        f"c = {graft.c:.3g}, {source} of {gap:.2g}{unit} moves it to {0.5 + shift:.3f} or {0.5 - shift:.3f}."
    )
    if not recorded_decides:
        text += " The recorded layer entropies did not decide alpha."
    return text
