"""Losses that Ray does not report as such: processes that its memory monitor kills."""

import pytest

from graftpop.cluster.loss_reason import loss_reason

ACTOR = "Actor(ResourceTrainable, 7830ac04903bbbc960ce349801000000)"
MEMORY_KILL = """2 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7, ID: \
b3b2f2a42d5b5e9efe445b4692e0f8ecb1fe08ce4849cdf0c33ed995) was 6.79GB used / 23.54GB limit (0.288325)
OOM kill reason: Memory usage 6688399360B exceeded threshold of 6521223168B (25.8% of 25276059648B limit)
Ray killed 2 worker(s) based on the killing policy
Considered workers: [
Selected to kill: (Task: job ID=01000000, lease ID=0300, task name=PeerActor.__init__, required resources={CPU_group_\
fa1e7599f91aeced01f33fa4672f01000000: 1}, pid=23914, actual memory used=0.28GB, worker ID=c37a)
Selected to kill: (Actor(7830ac04903bbbc960ce349801000000): job ID=01000000, lease ID=0100, task name=ResourceTrainable\
.__init__, required resources={bundle_group_fa1e7599f91aeced01f33fa4672f01000000: 0.001}, pid=23686, actual memory \
used=0.11GB, worker ID=09b6)
]
Total non-selected idle workers: 0
Top 10 memory users: PID	MEM(GB)	COMMAND
23947	3.55	python hog.py
23172	0.54	python -m graftpop.tune
Refer to the documentation on how to address the out of memory issue.
"""
"""What Ray 2.60 says, shortened."""


@pytest.mark.parametrize("actor", [ACTOR, None])
def test_memory_kill_names_process_node_and_keys(actor: str | None) -> None:
    reason = loss_reason(MEMORY_KILL, actor)
    assert "\n" not in reason
    assert ("pid 23686, 0.11GB" in reason) == (actor is not None)
    for part in ("memory", "10.0.0.7", "6.79GB", "23.54GB", "pid 23947", "batch_size", "resources.cpus_per_peer"):
        assert part in reason


def test_memory_kill_without_details_names_the_keys() -> None:
    assert "training.batch_size" in loss_reason("Task was killed due to the node running low on memory.", ACTOR)
