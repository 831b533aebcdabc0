"""The estimated duration of a study in words, as `--dry-run` prints it."""

import random
from collections.abc import Sequence

import torch

from graftpop.cluster.resources import Node, peers_at_once, resource_request
from graftpop.seeds import derive
from graftpop.settings import Settings
from graftpop.space import Space
from graftpop.study.estimate import PlannedTrial, about, estimate

__all__ = ["duration_text", "typical_trials"]

TRIALS_ESTIMATED = 50
"""Largest number of trials whose mean duration is estimated."""


START_S = 13
"""Seconds until new processes train, as `benchmarks/startup.py` measured for small networks."""


def typical_trials(space: Space) -> list[Settings]:
    """Return settings whose mean stands for all trials: evenly spaced points of a grid, else random samples."""
    settings, num_trials = space.resolve(), space.num_trials()
    numbers = range(0, num_trials, -(-num_trials // TRIALS_ESTIMATED))
    if settings.tune.sampler == "grid":
        return [space.resolve(space.grid[number]) for number in numbers]
    seeds = [derive(settings.seed, "estimate", number) for number in range(TRIALS_ESTIMATED)]
    return [space.resolve(space.sample(random.Random(seed))) for seed in seeds]


def duration_text(trials: Sequence[Settings], num_trials: int, nodes: Sequence[Node]) -> str:
    """Return a study's estimated duration with its basis.

    Args:
        trials: settings of some trials.
        num_trials: number of all trials.
        nodes: resources of the cluster's nodes.
    """
    planned = []
    for settings in trials:
        request = resource_request(settings, nodes)
        if request.gpus_per_peer and not torch.cuda.is_available():
            return "not estimated: the peers train on GPUs, and this machine has none"
        num_threads = max(1, int(len(request.actors[0]) * request.cpus_per_peer))
        device = "cuda" if request.gpus_per_peer else "cpu"
        planned.append(PlannedTrial(settings, device, num_threads, peers_at_once(request, nodes)))
    found = estimate(planned, num_trials)
    cores = f"{sum(node.cpus for node in nodes):g} cores"
    of_cluster = f"{len(nodes)} nodes with {cores} as fast as this machine's"
    return (
        f"{about(found.seconds)} on {f'this machine with {cores}' if len(nodes) == 1 else of_cluster}, an estimate "
        f"for training and validation alone: {found.batch_s:.2g} s per batch of {found.batch_size} images, "
        f"{found.num_at_once} peer{'s' * (found.num_at_once > 1)} at once. The start of processes takes {START_S} s "
        f"or more in addition, for the first trial and for each trial with other resources than the previous one"
    )
