"""Trainables that get lost, in a module that Ray's processes can import."""

from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import OutOfMemoryError

__all__ = ["KilledForMemory"]


class KilledForMemory(tune.Trainable):
    """Ends its first training call as Ray's memory monitor does: Ray raises errors that a call returns."""

    def setup(self, config: dict[str, Any]) -> None:
        self._was_killed = Path(config["was_killed"])

    def train(self) -> Any:
        if self._was_killed.exists():
            return super().train()  # type: ignore[no-untyped-call]
        self._was_killed.touch()
        return OutOfMemoryError("1 worker(s) were killed due to the node running low on memory.")

    def step(self) -> dict[str, Any]:
        return {"done": True, "environment": dict(ray.get_runtime_context().runtime_env)}
