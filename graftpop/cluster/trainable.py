"""One population as a trial of Ray Tune: a step is a round, a checkpoint is the population after it."""

import json
from pathlib import Path
from typing import Any

from ray import tune
from ray.util import get_current_placement_group

from graftpop.cluster.actors import RayGroup
from graftpop.cluster.resources import Demand, Node, demand_of
from graftpop.errors import CheckpointError, ResourceError
from graftpop.population import Population, Round
from graftpop.records import TrialRecords
from graftpop.space import Space

__all__ = ["CHECKPOINT_FORMAT", "PopulationTrainable", "demand_of_sample"]

CHECKPOINT_FORMAT = 1


def demand_of_sample(space: Space, sample: dict[str, Any], nodes: list[Node]) -> Demand:
    """Return what the trial of a sampled configuration asks for."""
    settings = space.settle(sample)
    return demand_of(settings.population.num_peers, settings.resources, nodes)


class PopulationTrainable(tune.Trainable):
    """A population of peers as Ray actors, led from this process, which neither computes nor holds weights."""

    def setup(  # type: ignore[override]  # tune.with_parameters adds the other arguments
        self, config: dict[str, Any], space: Space, nodes: list[Node], records: str,
    ) -> None:
        """Start the peers.

        Args:
            config: the searched keys and their values.
            space: everything else.
            nodes: the cluster that the demand was worked out for.
            records: folder or URI of the trials' records.
        """
        self._settings = space.settle(config)
        demand = demand_of_sample(space, config, nodes)
        title = f"{self._settings.name}/{self.trial_id}"
        placement_group = get_current_placement_group()
        if placement_group is None:
            raise ResourceError("PopulationTrainable: needs a placement group with a bundle a peer; wrap it in "
                                "tune.with_resources with demand_of_sample(...).bundles")
        self._group = RayGroup(self._settings, demand, placement_group, title)
        self._population = Population(self._group, self._settings)
        self._records = TrialRecords(records, self.trial_id)
        self._train_images = 0
        self._summary: dict[str, Any] = {}

    def step(self) -> dict[str, Any]:
        """Run one round, record it, and report it; the last round also reads the test set."""
        done = self._population.step()
        self._records.append(done)
        self._train_images += sum(row["train_images"] for row in done.peers)
        self._summary = self._summarise(done)
        if done.is_last:
            self._summary |= self._population.finish(done)
        return {**self._summary, "done": done.is_last}

    def _summarise(self, done: Round) -> dict[str, Any]:
        rows = done.peers
        return {
            "round": done.round,
            "epoch": rows[0]["epoch"],
            "num_peers": len(rows),
            "best_peer": done.best_peer,
            "val_accuracy": done.val_accuracy,
            "mean_val_accuracy": sum(row["val_accuracy"] for row in rows) / len(rows),
            "num_invalid_filters": sum(row["num_invalid_filters"] for row in rows) / len(rows),
            "images_per_s": sum(row["images_per_s"] for row in rows),
            "train_images": self._train_images,
            "exchange_s": rows[0]["exchange_s"],
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write every peer's state, the teachers that were trained here, and where the population stands.

        What is random or scheduled is a function of the seed and the round, so it needs no state of its own.
        """
        folder = Path(checkpoint_dir)
        for peer, state in self._population.save():
            (folder / f"peer-{peer}.safetensors").write_bytes(state)
        for teacher, state in self._population.save_teachers().items():
            (folder / f"teacher-{teacher}.safetensors").write_bytes(state)
        population = {"format_version": CHECKPOINT_FORMAT, "round": self._population.round,
                      "num_peers": self._settings.population.num_peers, "summary": self._summary,
                      "settings": self._settings.model_dump()}
        (folder / "population.json").write_text(json.dumps(population, indent=2), encoding="utf-8")

    def load_checkpoint(self, checkpoint: dict[str, Any] | str | None) -> None:
        """Go on from a checkpoint: this trial's own, or under population based training another's."""
        folder = Path(str(checkpoint))
        try:
            population = json.loads((folder / "population.json").read_text(encoding="utf-8"))
            version, num_peers = population["format_version"], population["num_peers"]
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder}: not a population's checkpoint: {error}") from error
        wanted = self._settings.population.num_peers
        if version != CHECKPOINT_FORMAT or num_peers != wanted:
            raise CheckpointError(f"{folder}: must be of format {CHECKPOINT_FORMAT} with {wanted} peers, got format "
                                  f"{version} with {num_peers}")
        states = {peer: (folder / f"peer-{peer}.safetensors").read_bytes() for peer in range(num_peers)}
        teachers = {int(path.stem.removeprefix("teacher-")): path.read_bytes()
                    for path in folder.glob("teacher-*.safetensors")}
        self._population.load(states, population["round"], teachers)
        self._train_images = population["summary"].get("train_images", 0)
        self._summary = population["summary"]
        self._records.restart_after(population["round"])

    def cleanup(self) -> None:
        """End the peers."""
        self._group.close()
