"""One population as a trial of Ray Tune: a step is a round.

The trial keeps its own checkpoints and goes on from the newest that is whole, whatever Tune remembers of it: so it can
be killed at any moment, with the process that leads the study or without it.
"""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ray import tune
from ray.util import get_current_placement_group

from graftpop.cluster.actors import RayGroup
from graftpop.cluster.connection import Connection
from graftpop.cluster.metrics import peer_metrics
from graftpop.cluster.resources import LEAST, Node, resource_request
from graftpop.errors import CheckpointError, GraftpopError, PopulationLost, ResourceError, StorageError
from graftpop.population import Event, Population, Round
from graftpop.population.round import Row
from graftpop.run.checkpoint_writer import CheckpointWriter
from graftpop.run.checkpoints import Checkpoint, CheckpointMetadata, Checkpoints
from graftpop.run.storage import retry_on_oserror
from graftpop.run.tables import RunFolder, TrialRecords
from graftpop.space import Space

__all__ = ["PopulationTrainable", "placement_of"]

POINTER = "trial.json"
PREDECESSOR_TIMEOUT_S = 120.0
"""How long a process that led this trial before may take to end, after what it belonged to was killed."""


def placement_of(space: Space, config: dict[str, Any], connection: Connection) -> tune.PlacementGroupFactory:
    """Return what a trial asks of the cluster: a bundle for the process that leads it, then one an actor of peers.

    The first is empty: that process goes where there is a place. But where a population may lose peers for good and
    go on, it must outlive all nodes of peers, so it stays on the node of the driver, without which nothing goes on.
    """
    settings = space.resolve(config["trial"]["sample"])
    demand = resource_request(settings, connection.nodes)
    may_shrink = (settings.population.min_peers or demand.num_peers) < demand.num_peers
    return tune.PlacementGroupFactory([{connection.here: LEAST} if may_shrink else {}, *demand.bundles])


class PopulationTrainable(tune.Trainable):
    """A population of peers as Ray actors, led from this process, which neither computes nor holds weights."""

    def setup(  # type: ignore[override]  # tune.with_parameters adds the other arguments
        self, config: dict[str, Any], space: Space, nodes: list[Node], location: str
    ) -> None:
        """Take note of what to run; the peers start with the first step.

        Args:
            config: `trial`, with the trial's `trial_id` and its `sample`: the searched keys and their values; of a
                user's own Tuner these keys and values alone.
            space: everything else.
            nodes: the cluster that the demand was worked out for.
            location: of the run.
        """
        self._space, self._nodes = space, nodes
        self._run = RunFolder(location)
        self._lock, self._is_locked = ExitStack(), False
        self._group: RayGroup | None = None
        self._assign_trial(config)

    def __repr__(self) -> str:
        """Name the actor for the dashboard, once for all trials that it leads."""
        return f"{self._settings.name}/population"

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take note of another trial, to run with the same peers' processes."""
        self._let_go()
        self._assign_trial(new_config)
        return True

    def _assign_trial(self, config: dict[str, Any]) -> None:
        self._id = Path(self.logdir).name  # the config's `trial_id` is under pbt that of the trial it was copied from
        self._is_user_tuner = "trial" not in config
        self._sample: dict[str, Any] = config if self._is_user_tuner else config["trial"]["sample"]
        self._settings = self._space.resolve(self._sample)
        self._checkpoints = Checkpoints(self._run.of_trials("checkpoints") / self._id)
        self._writer = CheckpointWriter(self._checkpoints, self._id, self._on_storage_away)
        self._records = TrialRecords(self._run.of_trials("records"), self._id)
        self._source, self._adopted = self._checkpoints, ""  # under pbt another trial's
        self._population: Population | None = None
        self._events: list[str] = []
        self._summary: dict[str, Any] = {}
        self._figures = ""

    def step(self) -> dict[str, Any]:
        """Run one round, record it, and report it; the last round also reads the test set.

        A population that cannot go on for a reason of its own is reported as done, with the `error`; what the loss of
        processes, nodes or storage ends is raised, since it can go on from its last round.
        """
        start = time.monotonic()
        try:
            self._hold()
            population = self._population or self._begin()
            done = None if population is None else population.step()
            if population is not None and done is not None:
                self._finish_round(population, done, start)
        except (PopulationLost, StorageError):
            with suppress(OSError):
                self._records.write()
            raise
        except GraftpopError as error:
            self._end_peers()
            self._keep(self._records.write, "its records")
            return {"round": 0, "val_accuracy": 0.0, **self._report(), "error": str(error), "done": True}
        return {**self._report(), "done": done is None or done.is_last}

    def _finish_round(self, population: Population, done: Round, start: float) -> None:
        self._summary = self._summarise(done)
        self._figures = peer_metrics(done, population.num_restarts)
        self._records.add_round(done)
        if done.is_last:
            self._summary |= population.finish(done)
        self._summary["wall_s"] += time.monotonic() - start
        self._keep(self._records.write, "its records")
        self._write_checkpoint(population, is_complete=done.is_last)

    def _hold(self) -> None:
        """Keep a process that led this trial before, and does not know that it was given up, from writing."""
        if not self._is_locked:
            self._keep(self._run.check_is_there, "anything")
            self._lock.enter_context(self._run.of_trials("locks").locked(self._id, PREDECESSOR_TIMEOUT_S))
            self._is_locked = True

    def _let_go(self) -> None:
        try:
            self._writer.finish()
        finally:
            self._lock.close()
            self._is_locked = False

    def _begin(self) -> Population | None:
        """Start the peers, from the newest checkpoint that is whole; None where nothing is left to do."""
        newest, files = self._newest()
        self._records.restart_after(newest.facts.round if newest else 0)
        self._keep(self._records.write, "its records")
        if newest is not None:
            self._summary = newest.facts.summary
            self._adopted = self._adopted or newest.facts.adopted
            if newest.facts.is_complete:
                return None
        self._population = Population(self._start_peers(), self._settings, self._on_event)
        if newest is not None:
            states = {peer: files[f"peer-{peer}.safetensors"] for peer in newest.facts.peers}
            teachers = {
                int(Path(name).stem.removeprefix("teacher-")): content
                for name, content in files.items()
                if name.startswith("teacher-")
            }
            self._population.load(states, newest.facts.round, teachers, newest.facts.num_restarts)
        elif self._population.prepare():  # the teachers are trained, which shall not be done again
            self._write_checkpoint(self._population, is_complete=False)
        return self._population

    def _start_peers(self) -> RayGroup:
        """Start the peers, in the processes of another trial's where this one led such a trial before."""
        settings = self._settings
        self._demand = demand = resource_request(settings, self._nodes)
        if self._group is not None:
            self._group.reassign(settings, demand, self._id)
            return self._group
        placement_group = get_current_placement_group()
        if placement_group is None:
            raise ResourceError(
                "PopulationTrainable: needs a placement group with a bundle an actor; wrap it in "
                "tune.with_resources with placement_of"
            )
        self._group = RayGroup(settings, demand, placement_group, self._id)
        return self._group

    def _end_peers(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None

    def _newest(self) -> tuple[Checkpoint | None, dict[str, bytes]]:
        """Return the newest whole checkpoint and its files, of this trial or of that whose it shall adopt."""
        candidates = list(self._checkpoints.newest_first())
        adopts = self._source is not self._checkpoints
        if adopts:
            reached = candidates[0].facts.round if candidates else 0
            theirs = self._source.up_to(reached)  # of what is ahead, rounds would be missing from this one's records
            if not theirs:
                self._on_event(
                    Event(
                        reached,
                        None,
                        "checkpoint_skipped",
                        "the trial whose weights it was to take is ahead "
                        "of it in all that it kept; it goes on with its own",
                    )
                )
            candidates = theirs + candidates
        for checkpoint in candidates:
            try:
                files = checkpoint.files()
            except CheckpointError as error:
                self._on_event(Event(checkpoint.facts.round, None, "checkpoint_skipped", str(error)))
                continue
            wanted = self._settings.population.num_peers
            if max(checkpoint.facts.peers) >= wanted:
                raise CheckpointError(
                    f"checkpoint of trial {self._id}: must be of at most {wanted} peers, got peers "
                    f"{checkpoint.facts.peers}"
                )
            if adopts:
                self._checkpoints.remove_after(checkpoint.facts.round)
            return checkpoint, files
        return None, {}

    def _on_event(self, event: Event) -> None:
        self._records.add_event(event)
        if self._population is not None:  # before, those of an earlier process are not yet taken up
            with suppress(OSError):  # they are written with the round too, retry_on_oserror
                self._records.write_events()
        who = f"peer {event.peer} " if event.peer is not None else ""
        took = f" after {event.took_s:.1f} s" if event.took_s is not None else ""
        self._events.append(
            f"round {event.round}: {who}{event.event.replace('_', ' ')}{took}{': ' * bool(event.cause)}{event.cause}"
        )

    def _report(self) -> dict[str, Any]:
        """Return what Tune is told, with what happened since it was told last.

        The driver of a study is also told the figures of all peers, a user's own Tuner where the best network lies.
        """
        events, self._events = self._events, []
        report = {**self._summary, "events": "\n".join(events), "timesteps_total": self._summary.get("train_images", 0)}
        if not self._is_user_tuner:
            report["figures"], self._figures = self._figures, ""
        elif "best_peer" in self._summary:
            file = f"peer-{self._summary['best_peer']}.safetensors"
            report["network"] = self._checkpoints.location_of(self._summary["round"], file)
        return report

    def _summarise(self, done: Round) -> dict[str, Any]:
        rows = done.peers
        return {
            "round": done.round,
            "epoch": rows[0]["epoch"],
            "num_peers": len(rows),
            "best_peer": done.best_peer,
            "val_accuracy": done.val_accuracy,
            "mean_val_accuracy": sum(row["val_accuracy"] for row in rows) / len(rows),
            "train_loss": sum(row["train_loss"] for row in rows) / len(rows),
            "num_invalid_filters": sum(row["num_invalid_filters"] for row in rows) / len(rows),
            "images_per_s": self._images_per_s({row["peer"]: row for row in rows}),
            "train_images": self._summary.get("train_images", 0) + sum(row["train_images"] for row in rows),
            "exchange_s": rows[0]["exchange_s"],
            "wall_s": self._summary.get("wall_s", 0.0),
        }

    def _images_per_s(self, rows: Mapping[int, Row]) -> float:
        """Return how many images all peers trained in a second: those of one process trained one after the other."""
        busy_s: list[float] = [
            sum(rows[peer]["train_s"] for peer in peers if peer in rows) for peers in self._demand.actors
        ]
        num_images: float = sum(row["images_per_s"] * row["train_s"] for row in rows.values())
        return num_images / max(busy_s)

    def _write_checkpoint(self, population: Population, *, is_complete: bool) -> None:
        facts = CheckpointMetadata(
            round=population.round,
            score=self._summary.get("val_accuracy", -1.0),
            is_complete=is_complete,
            peers=population.peers,
            num_restarts=population.num_restarts,
            adopted=self._adopted,
            summary=self._summary,
            settings=self._settings.model_dump(),
        )
        self._writer.write(facts, population.files())
        if is_complete:
            self._writer.finish()

    def _on_storage_away(self, round: int, cause: str) -> None:
        self._on_event(Event(round, None, "storage_away", cause))

    def _keep(self, act: Callable[[], None], what: str) -> None:
        """Write something, waiting while storage is away."""
        round = self._summary.get("round", 0)
        retry_on_oserror(
            act, f"trial {self._id}: {what} cannot be written", lambda cause: self._on_storage_away(round, cause)
        )

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write whose checkpoints to go on from: population based training lets other trials load it.

        It does so when it pauses this one, which another process may then take up.
        """
        self._let_go()
        self._checkpoints.hand_over()
        pointer = {"trial_id": self._id, "hand_over": uuid.uuid4().hex}
        (Path(checkpoint_dir) / POINTER).write_text(json.dumps(pointer), encoding="utf-8")

    def load_checkpoint(self, checkpoint: dict[str, Any] | str | None) -> None:
        """Go on from the newest checkpoint of another trial, unless this one has done so already."""
        pointer = json.loads((Path(str(checkpoint)) / POINTER).read_text(encoding="utf-8"))
        own = next(self._checkpoints.newest_first(), None)
        if pointer["trial_id"] == self._id or (own is not None and own.facts.adopted == pointer["hand_over"]):
            return
        self._adopted = pointer["hand_over"]
        self._source = Checkpoints(self._run.of_trials("checkpoints") / pointer["trial_id"])

    def cleanup(self) -> None:
        """End the peers."""
        try:
            self._let_go()
        finally:
            self._end_peers()
