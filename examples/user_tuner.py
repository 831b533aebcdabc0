"""Populations as trials of a user-defined Ray Tuner, with its own searcher, scheduler and callbacks."""

import tempfile
from pathlib import Path

from ray import tune
from ray.tune.schedulers import ASHAScheduler

import graftpop

SPACE = """
name: user-tuner
data: {name: digits}
model: {name: resnet8}
training: {epochs: 3, batch_size: 64, schedule: cosine}
graft: {}
"""


def main() -> None:
    """Search over the number of peers and the width of alpha."""
    with tempfile.TemporaryDirectory() as folder:
        space = Path(folder) / "space.yaml"
        space.write_text(SPACE, encoding="utf-8")
        tuner = tune.Tuner(
            graftpop.trainable(space, out=f"{folder}/out"),
            param_space={"graft.A": tune.uniform(0, 1), "population.num_peers": tune.choice([2, 3])},
            tune_config=tune.TuneConfig(
                metric="val_accuracy",
                mode="max",
                num_samples=3,
                scheduler=ASHAScheduler(grace_period=2),
                reuse_actors=True,  # processes, which take seconds to start, lead one trial after the other
            ),
            run_config=tune.RunConfig(storage_path=f"{folder}/tune", verbose=0),
        )
        best = tuner.fit().get_best_result()
        network = graftpop.load(best.metrics["network"])
    print(
        f"best: {best.config}, validation accuracy {best.metrics['val_accuracy']:.1%} after round "
        f"{best.metrics['round']}, a network of {sum(weight.numel() for weight in network.parameters()):,} weights"
    )


if __name__ == "__main__":
    main()
