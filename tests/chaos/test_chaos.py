"""Peers, trials and drivers killed at random moments: nothing is lost. `pytest -m chaos` kills a hundred times."""

from pathlib import Path

import chaos
import pytest


@pytest.mark.ray
@pytest.mark.timeout(570)
def test_a_few_kills_of_every_kind_lose_nothing(tmp_path: Path) -> None:
    figures = chaos.chaos(tmp_path, num_kills=5, seed=4, kinds=("peer", "trial", "driver"))
    assert figures["kills"] == 5
    assert figures["lost"] == 0


@pytest.mark.chaos
@pytest.mark.timeout(4 * 3600)
def test_a_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    assert chaos.chaos(tmp_path, num_kills=100, seed=100)["lost"] == 0
