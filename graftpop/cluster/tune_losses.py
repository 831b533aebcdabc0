"""Losses of leading processes that Ray Tune 2.60 does not count as such.

Tune's manager of actors tolerates two of Ray's errors; every other one ends the whole experiment. One of these is
`OutOfMemoryError`, after Ray's memory monitor killed a process. Nor can a trial that waits for room be ended from
outside. Tune has no setting, hook or argument for either case, so a subclass replaces the manager. Beside
`tune_environment.py` this is the only file that changes Tune. `tests/cluster/test_study.py` fails if a new Ray has
another manager.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.tune.execution import tune_controller

from graftpop.cluster.loss_reason import loss_reason

__all__ = ["losses_counted"]

MEMORY_PAUSE_S = 10.0
"""Seconds before the next trial starts after a loss for lack of memory; immediate retries would soon be used up."""


@contextmanager
def losses_counted(no_room: Mapping[Any, str]) -> Iterator[None]:
    """Let experiments that start in this block count every loss of an actor as the failure of its trial.

    Args:
        no_room: reason why the waiting trials of a placement group must end, by placement group; it may change at any
            time.
    """

    class Manager(RayActorManager):
        """Tune's manager of the actors that lead trials."""

        _paused_until = 0.0

        def next(self, timeout: float | None = None) -> bool:
            for actor in self.pending_actors if no_room else []:
                _, _, demand = self._pending_actors_to_attrs[actor]
                if demand in no_room:
                    self.remove_actor(actor)  # cancels its request
                    self._failed_actor_ids.add(actor.actor_id)
                    on_error: Any = actor._on_error
                    on_error(actor, RayActorError(error_msg=no_room[demand]))
            return bool(super().next(timeout))

        def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
            loss = self._as_loss(tracked_actor_task._tracked_actor, exception)
            super()._actor_task_failed(tracked_actor_task, loss)

        def _actor_start_failed(self, tracked_actor: Any, exception: Exception) -> None:
            super()._actor_start_failed(tracked_actor, self._as_loss(tracked_actor, exception))

        def _as_loss(self, tracked_actor: Any, error: Exception) -> Exception:
            """Return an actor's error, turned into a `RayActorError`, which Tune counts, if the actor is lost."""
            if not isinstance(error, RayError) or isinstance(error, RayActorError | RayTaskError):
                return error
            actor, _ = self._live_actors_to_ray_actors_resources[tracked_actor]
            if isinstance(error, OutOfMemoryError):
                self._paused_until = time.monotonic() + MEMORY_PAUSE_S
            return RayActorError(error_msg=f"its leading process was lost: {loss_reason(str(error), actor)}")

        def _try_start_actors(self, max_actors: int | None = None) -> int:
            is_paused = time.monotonic() < self._paused_until
            return 0 if is_paused else int(super()._try_start_actors(max_actors))

    names = vars(tune_controller)
    original, names["RayActorManager"] = names["RayActorManager"], Manager
    try:
        yield
    finally:
        names["RayActorManager"] = original
