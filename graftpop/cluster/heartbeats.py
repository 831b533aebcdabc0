"""Heartbeats of the processes that lead trials; a process that sends none for a while counts as lost.

Ray notices a process that has ended, but not one that is stopped or frozen. A thread of each leading process sends
heartbeats, also while its main thread waits or computes. The driver is no actor and cannot receive them, so an actor on
its node does.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

__all__ = ["Heart", "Heartbeats", "Silence"]

BEAT_S = 5.0
"""Seconds between two heartbeats, and between two looks at them."""

SILENT_LOOKS = 24
"""Successive looks without a heartbeat, at least two minutes, after which a process counts as lost.

On a busy or swapping machine even an idle thread is delayed by seconds. Looks are counted instead of seconds: the time
for which the driver is stopped, or the monitor does not answer, says nothing about the leading processes.
"""

BEATS_BEFORE_START = 6
"""Heartbeats after which the driver starts the actor, so that its process does not delay a study's first round."""


class HeartbeatMonitor:
    """The actor that receives heartbeats."""

    def __init__(self) -> None:
        self._heard: dict[str, str] = {}

    def __repr__(self) -> str:
        """Return the actor's name for the dashboard."""
        return "heartbeats"

    def beat(self, trial_id: str, place: str) -> None:
        """Receive a heartbeat of a trial's leading process."""
        self._heard[trial_id] = place

    def take(self) -> dict[str, str]:
        """Return the trials with a heartbeat since the last call, with the places of their processes."""
        heard, self._heard = self._heard, {}
        return heard


@dataclass(frozen=True)
class Heart:
    """The source of heartbeats in a leading process.

    Attributes:
        every_s: seconds between two heartbeats.
    """

    every_s: float

    def start(self, trial_id: Callable[[], str]) -> None:
        """Send heartbeats of the current trial from a thread, as long as this process runs."""
        place = f"pid {os.getpid()} on {ray.util.get_node_ip_address()}"

        def send() -> None:
            monitor: Any = None
            while True:
                with suppress(ValueError, RayError):  # not started yet
                    monitor = monitor or ray.get_actor(_name())
                    monitor.beat.remote(trial_id(), place)
                time.sleep(self.every_s)

        threading.Thread(target=send, name="heartbeats", daemon=True).start()


def _name() -> str:
    """Return the name of the monitor of this process's study."""
    return f"heartbeats of job {ray.get_runtime_context().get_job_id()}"


class Silence:
    """The number of successive looks without a heartbeat, by trial."""

    def __init__(self) -> None:
        self._looks: dict[str, int] = {}
        self._places: dict[str, str] = {}

    def look(self, led: Iterable[str], heard: Mapping[str, str]) -> dict[str, str]:
        """Return the trials whose leading process counts as lost, each once, with the cause.

        Args:
            led: IDs of the trials with a leading process.
            heard: places of the processes with a heartbeat since the last look, by trial ID.
        """
        self._looks = {trial_id: 0 if trial_id in heard else self._looks.get(trial_id, 0) + 1 for trial_id in led}
        self._places = {trial_id: heard.get(trial_id, self._places.get(trial_id, "")) for trial_id in self._looks}
        lost = [trial_id for trial_id, looks in self._looks.items() if looks >= SILENT_LOOKS]
        for trial_id in lost:
            del self._looks[trial_id]
        return {
            trial_id: f"its leading process ({self._places[trial_id] or 'never heard'}) sent no heartbeat for "
            f"{SILENT_LOOKS * BEAT_S:g} s and was killed"
            for trial_id in lost
        }


class Heartbeats:
    """The driver's side: starts the monitor and looks at it from time to time, without waiting.

    Attributes:
        heart: the source for leading processes.
    """

    def __init__(self) -> None:
        self.heart = Heart(BEAT_S)
        self._monitor: Any = None
        self._answer: ray.ObjectRef[Any] | None = None
        self._next_at = time.monotonic() + BEATS_BEFORE_START * BEAT_S

    def heard(self) -> dict[str, str] | None:
        """Return the places of the processes with a heartbeat since the last look, by trial ID; None between looks."""
        if self._answer is None:
            if time.monotonic() >= self._next_at:
                if self._monitor is None:
                    self._monitor = _start_monitor()
                self._answer, self._next_at = self._monitor.take.remote(), time.monotonic() + BEAT_S
            return None
        done, _ = ray.wait([self._answer], timeout=0)
        if not done:
            return None
        self._answer = None
        try:
            return dict(ray.get(done[0]))
        except RayError:  # it is restarting
            return None

    def close(self) -> None:
        """End the monitor."""
        if self._monitor is not None:
            ray.kill(self._monitor)


def _start_monitor() -> Any:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    monitor: Any = ray.remote(num_cpus=0, max_restarts=-1)(HeartbeatMonitor)  # it has no state worth keeping
    return monitor.options(name=_name(), scheduling_strategy=here).remote()
