"""A configuration in words: what its peers do in a round, and what alpha that leads to."""

import math
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from graftpop.settings import GraftSettings, Settings

__all__ = ["configuration_sentences"]

TYPICAL_GAP_NATS = 0.01
"""Of two entropies: an example of what `c` makes of it where no exchange was recorded."""

GIVES = {
    "ring": "the peer before it in a ring",
    "random_pairs": "a partner that is drawn anew in every round",
    "all": "the mean of all others",
    "best": "the best peer",
}
BESIDES = {
    "distillation": "learns from teachers",
    "mutual": "learns from the other peers' predictions",
    "repr": "drops filters that repeat others for a while and gets them back orthogonal (RePr)",
    "attenuation": "weakens its weakest filters after every epoch",
    "swa": "averages its weights over the last epochs",
}


def configuration_sentences(settings: Settings, grafts: pa.Table) -> list[str]:
    """Return sentences that say what a population does.

    Args:
        settings: of the population.
        grafts: its rows of `grafts.parquet`; may be none.
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
        yield "They begin from different weights and have different learning rates."
    besides = [text for section, text in BESIDES.items() if getattr(settings, section) is not None]
    if besides:
        yield f"Each {'; '.join(besides)}."
    if num_peers > 1 and population.output != "best_peer":
        yield f"What counts in the end is their {population.output.replace('_', ' ')}."


def _exchange(settings: Settings, grafts: pa.Table) -> Iterator[str]:
    graft = settings.graft
    if graft is None:
        if settings.population.num_peers > 1:
            yield "They exchange no weights."
        return
    if not settings.exchanges:
        yield {
            "noise": "Between two epochs invalid filters get noise.",
            "internal": "Between two epochs invalid filters get the network's own strongest ones.",
        }[graft.source]
        return
    yield (
        f"At the end of a round each receives the weights of {GIVES[settings.population.topology]} and keeps, "
        f"{graft.level} by {graft.level}, a share alpha of its own."
    )
    yield _alpha(graft, grafts)
    if grafts.num_rows:
        low, high = pc.min_max(grafts["alpha"]).as_py().values()
        mean = pc.mean(grafts["alpha"]).as_py()
        yield f"In this trial alpha lay between {low:.3f} and {high:.3f}, at {mean:.3f} in the mean."


def _alpha(graft: GraftSettings, grafts: pa.Table) -> str:
    if graft.alpha != "adaptive":
        kept = {0.5: "it is the average of both", 1.0: "it keeps all of itself", 0.0: "it takes all of the other's"}
        return f"Alpha is {graft.alpha:g}: {kept.get(graft.alpha, f'it keeps {graft.alpha:.0%} of itself')}."
    carries = {"entropy": "carries more information (entropy)", "l1": "has the larger norm"}[graft.criterion]
    gap, of_gap = TYPICAL_GAP_NATS, "a difference"
    if grafts.num_rows:
        gaps = pc.abs(pc.subtract(grafts["receiver_entropy_nats"], grafts["donor_entropy_nats"]))
        gap, of_gap = pc.quantile(gaps, 0.5)[0].as_py(), "the median difference of this trial"
    reached = graft.A / math.pi * math.atan(graft.c * gap)
    return (
        f"Alpha is larger where its own {graft.level} {carries}: A = {graft.A:.3g} keeps it between "
        f"{0.5 - graft.A / 2:.2f} and {0.5 + graft.A / 2:.2f}, and with c = {graft.c:.3g} {of_gap}, {gap:.2g}"
        f"{' nats' if graft.criterion == 'entropy' else ''}, moves it to {0.5 + reached:.3f} or "
        f"{0.5 - reached:.3f}."
    )
