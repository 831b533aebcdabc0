"""The output of a population after its last round: its best peer, their ensemble or a soup, evaluated once."""

from collections.abc import Iterable, Sequence
from typing import Any

from graftpop.population.recovery import Recovery, ResultRef
from graftpop.population.round import Round
from graftpop.rows import TrialRow, with_metrics
from graftpop.settings import Settings

__all__ = ["output_of"]


def output_of(recovery: Recovery, settings: Settings, peers: Sequence[int], done: Round) -> dict[str, Any]:
    """Turn the peers into the population's output, and return its scores and costs; see `Population.finish`.

    A soup replaces the weights of the best peer.

    Args:
        recovery: calls the peers.
        settings: the population's settings.
        peers: the peers that take part.
        done: the last round.
    """

    def predict(split: str, peers: Iterable[int]) -> dict[int, ResultRef]:
        return recovery.call("predict", dict.fromkeys(peers, (split,)), result_mode="ref")

    def call_one(method: str, peer: int, *arguments: Any) -> Any:
        return recovery.call(method, {peer: arguments})[peer]

    metrics, primary, output = settings.metrics, settings.primary, settings.population.output
    ranked = sorted((row for row in done.peers if row["peer"] in peers), key=lambda row: -primary.merit_of(row))
    best = int(ranked[0]["peer"])
    tested = predict("test", peers)
    of_all = call_one("ensemble_scores", best, *tested.values())
    if settings.population.makes_soup:
        snapshots = recovery.call("publish", dict.fromkeys(peers, ()), result_mode="ref")
        call_one("make_soup", best, output, *(snapshots[row["peer"]] for row in ranked))
        tested = predict("test", [best])
    members = peers if output == "ensemble" else [best]
    if output == "best_peer":  # the round has its scores
        val = {metric.name: metric.value_of(ranked[0]) for metric in metrics}
    else:
        val = call_one("ensemble_scores", best, *predict("val", members).values())
    test = call_one("ensemble_scores", best, *(tested[peer] for peer in members))
    costs: dict[int, TrialRow] = recovery.call("cost", dict.fromkeys(members, ()))
    outcome = costs[best]
    outcome["inference_flops"] = sum(cost.get("flops_left", cost["flops"]) for cost in costs.values())
    for split, scores in (("val", val), ("test", test), ("ensemble_test", of_all)):
        outcome = with_metrics(outcome, split, scores)
    return {"best_peer": best, **outcome}
