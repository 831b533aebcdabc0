"""Measure a population of two against two trials of Ray Tune's own population based training (PBT).

    python benchmarks/pbt.py [--turns 3]      about 13 minutes on 2 cores

Both train ResNet-8 on CIFAR-10 for a few epochs, evaluate on a ninth as many images, and exchange after every epoch:
graftpop's peers graft, while of Ray Tune's trials the worse continues from the better one's checkpoint. Ray Tune's
trials train by the competent user's loop (`competent.py`), without a dashboard, and do not read the test set, which
favors them. Compared are the seconds from the command to its end, and to the end of the first epoch. The share of the
whole time in which a trial or peer trains is printed too.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from competent import CompetentPeer
from peers import this_machine
from plain import MEAN, STD
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining
from studies import timed_trial
from turns import Case, report

MODEL = "resnet8"
NUM_PEERS = 2
NUM_EPOCHS = 6
BATCH, BATCHES_PER_EPOCH, NUM_VAL_IMAGES = 128, 36, 512
LIMIT_S = 600.0
SPACE = f"""
name: pbt
data: {{name: cifar10, max_train_images: {BATCH * BATCHES_PER_EPOCH + NUM_VAL_IMAGES}, val_fraction: 0.1}}
model: {{name: {MODEL}}}
training: {{epochs: {NUM_EPOCHS}, batch_size: {BATCH}}}
population: {{num_peers: {NUM_PEERS}}}
graft: {{}}
tune: {{sampler: grid}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--trials", action="store_true", help="run Ray Tune's side once and print its times as JSON")
    given = parser.parse_args()
    if given.trials:
        print(json.dumps(run_trials()))
        return
    turns = [(of_graftpop(), of_ray_tune()) for _ in range(given.turns)]
    ours, theirs = ({key: [one[key] for one in side] for key in side[0]} for side in zip(*turns, strict=True))
    cases = [
        Case(
            name,
            ours[key],
            theirs[key],
            {"graftpop, s": round(statistics.median(ours[key]), 1), "PBT, s": round(statistics.median(theirs[key]), 1)},
        )
        for key, name in (("whole_s", f"{NUM_EPOCHS} epochs"), ("first_s", "first epoch"))
    ]
    share, pbt_share = (statistics.median(side["share"]) for side in (ours, theirs))
    report("pbt", "times as fast as Ray Tune's PBT", 1.0, cases, share=round(share, 4), pbt_share=round(pbt_share, 4))
    print(f"training takes {share:.1%} of the time in graftpop, {pbt_share:.1%} in PBT")


def of_graftpop() -> dict[str, float]:
    """Return the seconds of a study of one population, and the share in which its peers train."""
    with tempfile.TemporaryDirectory() as folder:
        start, _, first, *_, end = timed_trial(SPACE, Path(folder), LIMIT_S)
        trained_s = pq.read_table(Path(folder) / "run" / "rounds.parquet").column("train_s").to_pylist()
    return times(start, first, end, sum(trained_s))


def of_ray_tune() -> dict[str, float]:
    """Return the seconds of a study of two trials, and the share in which they train."""
    start = time.time()
    done = subprocess.run(
        [sys.executable, __file__, "--trials"], check=True, timeout=LIMIT_S, stdout=subprocess.PIPE, text=True
    )
    epochs = json.loads(done.stdout.splitlines()[-1])
    assert len(epochs) == NUM_PEERS * NUM_EPOCHS, f"pbt.py: {len(epochs)} epochs of PBT"
    first = max(epoch["ended"] for epoch in epochs if epoch["training_iteration"] == 1)
    return times(start, first, time.time(), sum(epoch["train_s"] for epoch in epochs))


def times(start: float, first: float, end: float, trained_s: float) -> dict[str, float]:
    return {"whole_s": end - start, "first_s": first - start, "share": trained_s / NUM_PEERS / (end - start)}


class Trial(tune.Trainable):
    """A trial of PBT: one network, trained by the competent user's loop."""

    def setup(self, config: dict[str, Any]) -> None:
        from graftpop.cluster.malloc import keep_freed_memory

        keep_freed_memory()
        self._peer = CompetentPeer(argparse.Namespace(model=MODEL, batch=BATCH, peer=config["peer"]))
        self._images, self._labels = validation_images()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        for group in self._peer.optimizer.param_groups:
            group["lr"] = new_config["lr"]
        return True

    def step(self) -> dict[str, Any]:
        import torch

        start = time.perf_counter()
        self._peer.train(BATCHES_PER_EPOCH)
        train_s = time.perf_counter() - start
        self._peer.network.eval()
        with torch.inference_mode():
            accuracy = (self._peer.network(self._images).argmax(1) == self._labels).float().mean()
        return {"val_accuracy": float(accuracy), "train_s": train_s, "ended": time.time()}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        import torch

        state = {"network": self._peer.network.state_dict(), "optimizer": self._peer.optimizer.state_dict()}
        torch.save(state, Path(checkpoint_dir) / "state.pt")

    def load_checkpoint(self, checkpoint: Any) -> None:
        import torch

        state = torch.load(Path(checkpoint) / "state.pt")
        self._peer.network.load_state_dict(state["network"])
        self._peer.optimizer.load_state_dict(state["optimizer"])


def validation_images() -> tuple[Any, Any]:
    """Return normalized images of CIFAR-10 without augmentation, and their labels."""
    import torch

    from graftpop.data.cache import decoded
    from graftpop.data.cifar import find_cifar10
    from graftpop.settings import DataSettings

    pixels, labels = decoded(find_cifar10(DataSettings(name="cifar10"))).parts["test"]
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    return (pixels[:NUM_VAL_IMAGES] / 255 - mean) / std, labels[:NUM_VAL_IMAGES]


class Epochs(tune.Callback):
    """Keeps the result of every epoch of every trial."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
        self.done.append({key: result[key] for key in ("training_iteration", "train_s", "ended")})


def run_trials() -> list[dict[str, Any]]:
    """Run two trials of PBT on this machine, and return the results of their epochs."""
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    epochs = Epochs()
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=1,
        hyperparam_mutations={"lr": tune.loguniform(0.05, 0.2)},
        quantile_fraction=0.5,
        synch=True,
    )
    with tempfile.TemporaryDirectory() as folder, this_machine():
        results = tune.Tuner(
            tune.with_resources(Trial, {"cpu": 1}),
            param_space={"peer": tune.grid_search(list(range(NUM_PEERS))), "lr": 0.1},
            tune_config=tune.TuneConfig(metric="val_accuracy", mode="max", scheduler=scheduler, reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=folder, stop={"training_iteration": NUM_EPOCHS}, callbacks=[epochs], verbose=0
            ),
        ).fit()
    if results.errors:
        raise SystemExit(f"pbt.py: a trial of PBT failed: {results.errors[0]}")
    return epochs.done


if __name__ == "__main__":
    main()
