import os
from collections.abc import Iterator

import pytest

from graftpop.cluster.connection import Connection
from graftpop.cluster.resources import Node

NUM_CPUS = 4


@pytest.fixture(scope="session")
def connection() -> Iterator[Connection]:
    """A real Ray of four CPUs, whatever this machine has; without its dashboard, which takes seconds to start."""
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    import ray

    ray.init("local", num_cpus=NUM_CPUS, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield Connection([Node(float(NUM_CPUS), 0.0)], "", f"node:{ray.util.get_node_ip_address()}")
    ray.shutdown()
