"""Trials that wait for room on a cluster: each wait is announced and limited."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ray.tune.experiment import Trial

from graftpop.cluster.resources import Node, bundles_text, cluster_text, fits
from graftpop.errors import ResourceError
from graftpop.run.provenance import utc_now

__all__ = ["RoomWatch"]

ANNOUNCED_AFTER_S = 60.0
"""How long a trial waits before a line says so."""

ROOM_TIMEOUT_S = 1800.0
"""How long trials may wait for room; a cluster may get new nodes meanwhile."""

SECONDS_BETWEEN_CHECKS = 1.0

ANYTHING = "anything"
"""The demand while no trial of the study runs, because any of the waiting trials may then find room first."""


class RoomWatch:
    """Announces and limits the waits of a study's trials; Tune itself waits without limit and prints nothing.

    A trial waits if its bundles exceed all nodes together, or if no trial runs. Otherwise it is queued behind others.

    Args:
        location: the run folder, for messages.
        num_trials: number of trials to run, those not yet created included.
        nodes: function that returns the living nodes.
        clock: function that returns seconds.

    Attributes:
        no_room: reason why the waiting trials of a placement group must end, by placement group.
    """

    def __init__(
        self,
        location: str,
        num_trials: int,
        nodes: Callable[[], Sequence[Node]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.no_room: dict[Any, str] = {}
        self._location, self._num_trials, self._nodes, self._clock = location, num_trials, nodes, clock
        self._since: dict[Any, tuple[float, str]] = {}  # by placement group
        self._announced: set[Any] = set()
        self._checked_at, self._waited_s = clock(), 0.0

    def check(self, trials: Sequence[Trial]) -> Iterator[tuple[Trial, str]]:
        """Yield the first waiting trial of each demand, once, with a line that announces the wait.

        Raises:
            ResourceError: no trial has found room for longer than `ROOM_TIMEOUT_S`.
        """
        elapsed_s = self._clock() - self._checked_at
        if elapsed_s < SECONDS_BETWEEN_CHECKS:
            return
        self._checked_at += elapsed_s
        self._waited_s += min(elapsed_s, 10 * SECONDS_BETWEEN_CHECKS)  # less while this process was stopped
        waits = self._waits(trials)
        start = (self._waited_s, f"{utc_now():%Y-%m-%d %H:%M:%S} UTC")
        self._since = {demand: self._since.get(demand, start) for demand in waits}
        self._announced &= waits.keys()
        for demand in self.no_room.keys() - waits.keys():
            del self.no_room[demand]
        for demand, waiting in waits.items():
            if not waiting:
                continue
            waited_s, since = self._waited_s - self._since[demand][0], self._since[demand][1]
            bundles = _demand(waiting[0]).bundles
            needs = f"needs {bundles_text(bundles)}, the cluster has {cluster_text(self._nodes())}"
            if waited_s > ROOM_TIMEOUT_S:
                if demand == ANYTHING:
                    raise ResourceError(
                        f"{self._location}: no trial has found room on the cluster for {ROOM_TIMEOUT_S:g} s, trial "
                        f"{needs}; restore its nodes (`ray status`), then use --resume"
                    )
                self.no_room[demand] = f"found no room for {ROOM_TIMEOUT_S:g} s: {needs}; add nodes, then use --resume"
                for trial in waiting:
                    trial.max_failures = 0  # a retry by Tune would only wait again
            elif waited_s > ANNOUNCED_AFTER_S and not self._announced & {demand, _demand(waiting[0])}:
                self._announced.add(demand)
                others = f" (and {len(waiting) - 1} more)" if len(waiting) > 1 else ""
                yield (
                    waiting[0],
                    f"waits for room since {since}{others}: {needs} (`ray status`); add nodes, or it ends after "
                    f"{ROOM_TIMEOUT_S:g} s, to be resumed later",
                )

    def _waits(self, trials: Sequence[Trial]) -> dict[Any, list[Trial]]:
        """Return the waiting trials by demand.

        A demand is remembered until it fits, even after its trial has ended, so the next trial with it does not begin a
        new wait.
        """
        pending = [trial for trial in trials if trial.status == Trial.PENDING]
        demands = {*map(_demand, pending), *self._since} - {ANYTHING}
        nodes = self._nodes() if demands else []
        waits: dict[Any, list[Trial]] = {demand: [] for demand in demands if not fits(demand.bundles, nodes)}
        for trial in pending:
            waits.get(_demand(trial), []).append(trial)
        fitting = [trial for trial in pending if _demand(trial) not in waits]
        is_idle = all(trial.status != Trial.RUNNING for trial in trials)
        if is_idle and (fitting or len(trials) >= self._num_trials):  # else the next trials may need less
            waits[ANYTHING] = fitting or pending
        return waits


def _demand(trial: Trial) -> Any:
    """Return the placement group of a trial, which is hashable."""
    return trial.placement_group_factory
