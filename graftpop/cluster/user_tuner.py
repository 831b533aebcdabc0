"""`graftpop.trainable`: populations as trials of a user-defined `ray.tune.Tuner`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray
from ray import tune

from graftpop.cluster.connection import nodes_of_cluster
from graftpop.cluster.local_ray import private_start
from graftpop.cluster.resources import resource_request
from graftpop.cluster.trainable import PopulationTrainable, leader
from graftpop.errors import SpaceError
from graftpop.run.run_folder import RunFolder
from graftpop.space import load_space, parse_space

__all__ = ["trainable"]


def trainable(space: str | Path, out: str, overrides: Iterable[str] = ()) -> Any:
    """Return a trainable for `ray.tune.Tuner`: a trial is a population, a step is a round.

        tuner = tune.Tuner(
            graftpop.trainable("space.yaml", out="runs/mine"),
            param_space={"graft.A": tune.uniform(0, 1), "population.num_peers": tune.choice([2, 3])},
            tune_config=tune.TuneConfig(metric="val_accuracy", mode="max", num_samples=8))
        best = tuner.fit().get_best_result()
        network = graftpop.load(best.metrics["network"])

    Keys of `param_space` are dotted keys of the space. A round reports `round`, `epoch`, the task's metrics, such as
    `val_accuracy` and `mean_val_accuracy`, `num_invalid_filters`, `images_per_s`, `train_images`, `peer_images`,
    `exchange_s`, `time_s`, `wall_s` and `network`, the best peer's file, which remains after the trial. The last round
    adds `test_accuracy`, `ensemble_test_accuracy` and the FLOPs. A trial reserves its peers' cores, keeps its
    checkpoints below `out`, and resumes from the newest one when Tune restarts it. A trial that cannot continue, for
    example after divergence, ends with an `error` and the worst value of the primary metric, `val_accuracy` 0.

    If this process is not connected to Ray, this calls `ray.init()`; a cluster that starts is private to this machine.

    Args:
        space: YAML file without domains; the Tuner searches.
        out: folder or URI that all nodes reach.
        overrides: `section.key=VALUE`, as with `--set`.

    Raises:
        GraftpopError: the space or the folder cannot be accepted.
    """
    base = load_space(space, overrides)
    if base.domains:
        raise SpaceError(
            f"{space}: must have no domain, because the Tuner searches, got one for "
            f"{', '.join(base.domains)}; move it to param_space"
        )
    folder = RunFolder(out, base.metrics)
    folder.create()
    if not ray.is_initialized():
        with private_start():
            ray.init()
    nodes = nodes_of_cluster()

    def placement(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        settings = parse_space(base.merged_tree(config), "param_space").resolve()  # all checks, before the trial starts
        return tune.PlacementGroupFactory([{}, *resource_request(settings, nodes).bundles])

    return leader(PopulationTrainable, placement, space=base, nodes=nodes, location=folder.location)
