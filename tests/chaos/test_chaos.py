"""Studies lose nothing when processes and nodes are killed at random moments; `-m chaos` kills a hundred times."""

from pathlib import Path

import chaos
import pytest
from studies import KINDS, KINDS_ON_NODES, has_namespaces


@pytest.mark.ray
@pytest.mark.timeout(570)
def test_one_kill_of_each_kind_loses_nothing(tmp_path: Path) -> None:
    figures = chaos.chaos(tmp_path, num_kills=len(KINDS), seed=4, kinds=KINDS, num_rounds=10)
    assert figures["lost"] == 0
    assert figures["by_kind"] == dict.fromkeys(KINDS, 1)


def test_nodes_are_not_killed_without_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")  # `unshare` is not installed
    assert not has_namespaces()


@pytest.mark.chaos
@pytest.mark.timeout(4 * 3600)
def test_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    expected = set(KINDS_ON_NODES if has_namespaces() else KINDS)
    figures = chaos.chaos(tmp_path, num_kills=100, seed=100)
    assert figures["lost"] == 0
    assert sum(figures["by_kind"].values()) == 100
    assert {kind for kind, num_kills in figures["by_kind"].items() if num_kills} == expected
