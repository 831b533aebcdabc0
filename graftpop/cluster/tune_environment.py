"""Leading processes without an environment of their own, which Ray Tune 2.60 gives them.

Tune sets `PL_DISABLE_FORK`, which Lightning alone reads. Ray starts a process with an environment in two steps, each of
which imports Ray, and never takes one that waits idle; the peers inherit the environment. Tune has no setting for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ray.tune.execution import class_cache

__all__ = ["common_environment"]


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
