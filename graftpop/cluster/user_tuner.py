"""Populations as trials of a user's own `ray.tune.Tuner`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray
from ray import tune

from graftpop.cluster.connection import nodes_of_cluster
from graftpop.cluster.resources import resource_request
from graftpop.cluster.trainable import PopulationTrainable
from graftpop.errors import SpaceError
from graftpop.run.tables import RunFolder
from graftpop.space import load_space, parse_space

__all__ = ["trainable"]


def trainable(space: str | Path, out: str, overrides: Iterable[str] = ()) -> Any:
    """Return what a `ray.tune.Tuner` takes: a trial is a population, a step is a round.

        tuner = tune.Tuner(
            graftpop.trainable("space.yaml", out="runs/mine"),
            param_space={"graft.A": tune.uniform(0, 1), "population.num_peers": tune.choice([2, 3])},
            tune_config=tune.TuneConfig(metric="val_accuracy", mode="max", num_samples=8))
        best = tuner.fit().get_best_result()
        network = graftpop.load(best.metrics["network"])

    Keys of `param_space` are dotted keys of the space. A round reports `round`, `epoch`, `val_accuracy`,
    `mean_val_accuracy`, `num_invalid_filters`, `images_per_s`, `train_images`, `exchange_s`, `wall_s` and `network`,
    the best peer's file, which lies there when the trial has ended; the last round also `test_accuracy` and
    `ensemble_test_accuracy`. A trial reserves its peers' cores by itself. It keeps its own checkpoints below `out` and
    goes on from the newest, whenever Tune starts it again. One that cannot go on, since it diverged for example, is
    done with a `val_accuracy` of 0 and says why in `error`.

    Connects to Ray as `ray.init()` does, where this process is not connected.

    Args:
        space: YAML file, without domains: what is searched is the Tuner's.
        out: folder or URI that all nodes reach.
        overrides: `section.key=VALUE`, as with `--set`.

    Raises:
        GraftpopError: the space, or the folder, cannot be accepted.
    """
    settled = load_space(space, overrides)
    if settled.domains:
        raise SpaceError(
            f"{space}: must search nothing, since the Tuner does, got a domain for "
            f"{', '.join(settled.domains)}; move it to param_space"
        )
    folder = RunFolder(out)
    folder.create()
    if not ray.is_initialized():
        ray.init()
    nodes = nodes_of_cluster()

    def placement(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        settings = parse_space(
            settled.merged_tree(config), "param_space"
        ).resolve()  # all rules, before the trial starts
        return tune.PlacementGroupFactory([{}, *resource_request(settings, nodes).bundles])

    populations = tune.with_parameters(PopulationTrainable, space=settled, nodes=nodes, location=folder.location)
    populations.__name__ = "population"
    return tune.with_resources(populations, placement)
