"""One population as a trial of Ray Tune: a step is a round.

The trial keeps its own checkpoints and resumes from the newest complete one, whatever Tune remembers. So it can be
killed at any moment, with or without the driver.
"""

import json
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ray import tune
from ray.util import get_current_placement_group

from graftpop.cluster.actors import RayGroup
from graftpop.cluster.connection import Connection
from graftpop.cluster.heartbeats import Heart
from graftpop.cluster.metrics import peer_metrics
from graftpop.cluster.resources import LEAST, Node, resource_request
from graftpop.cluster.trial_checkpoints import newest_checkpoint
from graftpop.cluster.trial_report import event_line, summarize
from graftpop.errors import GraftpopError, PopulationLost, ResourceError, StorageError
from graftpop.population import Event, Population, Round
from graftpop.run.checkpoint_writer import CheckpointWriter
from graftpop.run.checkpoints import CheckpointMetadata, Checkpoints
from graftpop.run.run_folder import RunFolder
from graftpop.run.storage import retry_on_oserror
from graftpop.run.trial_records import TrialRecords
from graftpop.space import Space

__all__ = ["PopulationTrainable", "leader", "placement_of"]

POINTER = "trial.json"
PREDECESSOR_TIMEOUT_S = 120.0
"""How long a killed predecessor of this trial may take to end."""


def placement_of(space: Space, config: dict[str, Any], connection: Connection) -> tune.PlacementGroupFactory:
    """Return the bundles of a trial: one for the leading process, then one per actor.

    The first bundle is empty, so the leading process runs anywhere. If the population may shrink, the process must
    outlive the peers' nodes, so its bundle is on the driver's node.
    """
    settings = space.resolve(config["trial"]["sample"])
    request = resource_request(settings, connection.nodes)
    may_shrink = (settings.population.min_peers or request.num_peers) < request.num_peers
    return tune.PlacementGroupFactory([{connection.here: LEAST} if may_shrink else {}, *request.bundles])


def leader(
    of_class: type["PopulationTrainable"],
    placement: Callable[[dict[str, Any]], tune.PlacementGroupFactory],
    **parameters: Any,
) -> Any:
    """Return a trainable for Tune, whose actors lead one trial each.

    The dashboard shows these actors as `Population`, and `ps` as `ray::Population`.

    Args:
        of_class: the class of these actors.
        placement: resources of a trial by its config.
        **parameters: parameters of `PopulationTrainable.setup`.
    """
    trainable = tune.with_parameters(of_class, **parameters)
    trainable.__name__ = "population"  # in the names of Tune's files
    leading = tune.with_resources(trainable, placement)
    leading.__qualname__ = "Population"  # the name of the actor's class
    return leading


class PopulationTrainable(tune.Trainable):
    """The leading process of a population of Ray actors; it neither computes nor holds weights."""

    def setup(  # type: ignore[override]  # tune.with_parameters adds the other arguments
        self, config: dict[str, Any], space: Space, nodes: list[Node], location: str, heart: Heart | None = None
    ) -> None:
        """Assign a trial; its peers start with the first step.

        Args:
            config: `trial` with `trial_id` and `sample` (searched keys and values); from a user's Tuner the searched
                keys and values themselves.
            space: the study's space.
            nodes: nodes of the cluster for which the resources were computed.
            location: path or URI of the run folder.
            heart: source of heartbeats; None under a user's Tuner, which does not watch them.
        """
        self._space, self._nodes = space, nodes
        self._run = RunFolder(location, space.metrics)
        self._lock, self._is_locked, self._is_complete = ExitStack(), False, False
        self._group: RayGroup | None = None
        self._assign_trial(config)
        if heart is not None:
            # not `_id`: Tune expects the next trial's heartbeats while its reset waits for storage
            heart.start(lambda: Path(self.logdir).name)

    def __repr__(self) -> str:
        """Return the actor's name for the dashboard, the same for all trials that it leads."""
        return f"{self._settings.name}/population"

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Assign another trial, which reuses the peers' processes."""
        try:
            self._writer.finish()
        except (PopulationLost, StorageError) as error:  # Tune would count it as a failure of the next trial
            self._on_event(Event(self._summary.get("round", 0), None, "checkpoint_skipped", str(error)))
        self._release_lock()
        self._assign_trial(new_config)
        return True

    def _assign_trial(self, config: dict[str, Any]) -> None:
        self._id = Path(self.logdir).name  # under PBT the config has the copied trial's `trial_id`
        self._is_user_tuner = "trial" not in config
        self._sample: dict[str, Any] = config if self._is_user_tuner else config["trial"]["sample"]
        self._settings = self._space.resolve(self._sample)
        self._checkpoints = Checkpoints(self._run.of_trials("checkpoints") / self._id)
        self._writer = CheckpointWriter(self._checkpoints, self._id, self._on_storage_away)
        self._records = TrialRecords(self._run.of_trials("records"), self._id, self._space.metrics)
        self._source, self._adopted = self._checkpoints, ""  # under PBT another trial's
        self._population: Population | None = None
        self._events: list[str] = []
        self._summary: dict[str, Any] = {}
        self._figures = ""

    def step(self) -> dict[str, Any]:
        """Run one round, record it and report it; the last round also evaluates the test set.

        A population that would fail again is reported as done with an `error`. The loss of processes, nodes or storage
        raises, because the trial can resume from its last round.
        """
        start = time.monotonic()
        try:
            self._acquire_lock()
            population = self._population or self._start()
            done = None if population is None else population.step()
            if population is not None and done is not None:
                self._finish_round(population, done, start)
        except (PopulationLost, StorageError):
            if self._population is not None:  # before that, the records of an earlier process are not loaded
                with suppress(OSError):
                    self._records.write()
            raise
        except GraftpopError as error:
            self._end_peers()
            if self._population is not None:
                self._write_with_retries(self._records.write, "its records")
            primary = self._space.primary
            worst = 0.0 if primary.is_share and primary.mode == "max" else primary.worst
            return {"round": 0, primary.val: worst, **self._report(), "error": str(error), "done": True}
        self._is_complete = done is None or done.is_last
        return {**self._report(), "done": self._is_complete}

    def _finish_round(self, population: Population, done: Round, start: float) -> None:
        self._summary = summarize(done, self._summary, self._request.actors, self._space.metrics)
        self._figures = peer_metrics(done, population.num_restarts, self._space.metrics)
        self._records.add_round(done)
        if done.is_last:
            self._summary |= population.finish(done)
        self._summary["wall_s"] += time.monotonic() - start
        self._write_with_retries(self._records.write, "its records")
        self._write_checkpoint(population, is_complete=done.is_last)

    def _acquire_lock(self) -> None:
        """Acquire the trial's lock, so that an abandoned predecessor cannot write."""
        if not self._is_locked:
            self._write_with_retries(self._run.check_is_there, "anything")
            self._lock.enter_context(self._run.of_trials("locks").locked(self._id, PREDECESSOR_TIMEOUT_S))
            self._is_locked = True

    def _release_lock(self) -> None:
        try:
            self._writer.finish()
        finally:
            if self._is_locked and self._is_complete:
                with suppress(OSError):
                    self._run.of_trials("locks").remove(self._id)  # before another process can acquire it
            self._lock.close()
            self._is_locked = self._is_complete = False

    def _start(self) -> Population | None:
        """Start the peers from the newest complete checkpoint; None if the trial is complete."""
        newest, files = newest_checkpoint(
            self._checkpoints, self._source, self._id, self._settings.population.num_peers, self._on_event
        )
        round = newest.metadata.round if newest else 0
        for cause in self._records.restart_after(round, lambda name: self._run.joined_rows(name, [self._id])):
            self._on_event(Event(round, None, "records_damaged", cause))
        self._write_with_retries(self._records.write, "its records")
        if newest is not None:
            self._summary = newest.metadata.summary
            self._adopted = self._adopted or newest.metadata.adopted
            if newest.metadata.is_complete:
                return None
        self._population = Population(self._start_peers(), self._settings, self._on_event)
        if newest is not None:
            states = {peer: files[f"peer-{peer}.safetensors"] for peer in newest.metadata.peers}
            teachers = {
                int(Path(name).stem.removeprefix("teacher-")): content
                for name, content in files.items()
                if name.startswith("teacher-")
            }
            scores = self._records.scores(self._space.primary)
            self._population.load(states, newest.metadata.round, teachers, newest.metadata.num_restarts, scores)
        elif self._population.prepare():  # keep the trained teachers
            self._write_checkpoint(self._population, is_complete=False)
        return self._population

    def _start_peers(self) -> RayGroup:
        """Start the peers, in the processes of the previous trial if there was one."""
        settings = self._settings
        self._request = request = resource_request(settings, self._nodes)
        if self._group is not None:
            self._group.reassign(settings, request, self._id)
            return self._group
        placement_group = get_current_placement_group()
        if placement_group is None:
            raise ResourceError(
                "PopulationTrainable: needs a placement group with one bundle per actor; wrap it in "
                "tune.with_resources with placement_of"
            )
        self._group = RayGroup(settings, request, placement_group, self._id)
        return self._group

    def _end_peers(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None

    def _on_event(self, event: Event) -> None:
        self._records.add_event(event)
        if self._population is not None:  # before that, the events of an earlier process are not loaded
            with suppress(OSError):  # the round writes them again, with retries
                self._records.write_events()
        self._events.append(event_line(event))

    def _report(self) -> dict[str, Any]:
        """Return the report to Tune, with the events since the last report.

        A study's driver also gets the metrics of all peers, a user's Tuner the path of the best network.
        """
        events, self._events = self._events, []
        report = {**self._summary, "events": "\n".join(events), "timesteps_total": self._summary.get("train_images", 0)}
        if not self._is_user_tuner:
            report["figures"], self._figures = self._figures, ""
        elif "best_peer" in self._summary:
            file = f"peer-{self._summary['best_peer']}.safetensors"
            report["network"] = self._checkpoints.location_of(self._summary["round"], file)
        return report

    def _write_checkpoint(self, population: Population, *, is_complete: bool) -> None:
        primary = self._space.primary
        metadata = CheckpointMetadata(
            round=population.round,
            score=primary.merit_of(self._summary) if primary.val in self._summary else -sys.float_info.max,
            is_complete=is_complete,
            peers=population.peers,
            num_restarts=population.num_restarts,
            adopted=self._adopted,
            summary=self._summary,
            settings=self._settings.model_dump(),
        )
        self._writer.write(metadata, population.files())
        if is_complete:
            self._writer.finish()

    def _on_storage_away(self, round: int, cause: str) -> None:
        self._on_event(Event(round, None, "storage_away", cause))

    def _write_with_retries(self, act: Callable[[], None], content: str) -> None:
        """Run `act`, which writes `content`, with retries while storage is away."""
        round = self._summary.get("round", 0)
        retry_on_oserror(
            act, f"trial {self._id}: {content} cannot be written", lambda cause: self._on_storage_away(round, cause)
        )

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write a pointer to this trial's checkpoints, which population based training hands to other trials.

        Tune calls this when it pauses the trial, and another process may continue it, so the lock is released.
        """
        self._release_lock()
        self._checkpoints.hand_over()
        pointer = {"trial_id": self._id, "hand_over": uuid.uuid4().hex}
        (Path(checkpoint_dir) / POINTER).write_text(json.dumps(pointer), encoding="utf-8")

    def load_checkpoint(self, checkpoint: dict[str, Any] | str | None) -> None:
        """Adopt the newest checkpoint of another trial, unless this one has done so already."""
        pointer = json.loads((Path(str(checkpoint)) / POINTER).read_text(encoding="utf-8"))
        own = next(self._checkpoints.newest_first(), None)
        if pointer["trial_id"] == self._id or (own is not None and own.metadata.adopted == pointer["hand_over"]):
            return
        self._adopted = pointer["hand_over"]
        self._source = Checkpoints(self._run.of_trials("checkpoints") / pointer["trial_id"])

    def cleanup(self) -> None:
        """End the peers."""
        try:
            self._release_lock()
        finally:
            self._end_peers()
