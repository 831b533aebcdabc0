"""Two steps of Ray Tune 2.60 at the start of an experiment that graftpop avoids; Tune has no setting for them.

- Tune gives leading processes an environment of their own, to set `PL_DISABLE_FORK`, which only Lightning reads. Ray
  starts such a process in two steps, each of which imports Ray, and cannot use an idle process instead. The peers
  inherit the environment.
- Tune imports mlflow, wandb, comet_ml and aim, where they are installed, to report the number of their callbacks in
  Ray's usage statistics. graftpop calls these libraries itself (`graftpop/study/trackers.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air._internal import usage
from ray.tune.execution import class_cache

__all__ = ["callbacks_uncounted", "common_environment"]


@contextmanager
def common_environment() -> Iterator[None]:
    """Give leading processes and peers that start in this block the same environment as Ray's other processes.

    Variables that Tune copies from this process, such as AWS_ACCESS_KEY_ID, still reach them.
    """
    variables = class_cache.DEFAULT_ENV_VARS
    before = dict(variables)
    variables.clear()
    try:
        yield
    finally:
        variables.update(before)


@contextmanager
def callbacks_uncounted() -> Iterator[None]:
    """Keep experiments that start in this block from importing trackers to count their callbacks."""
    tag_callbacks = usage.tag_callbacks

    def no_tag(callbacks: Any) -> bool:
        del callbacks
        return False

    usage.tag_callbacks = no_tag
    try:
        yield
    finally:
        usage.tag_callbacks = tag_callbacks
