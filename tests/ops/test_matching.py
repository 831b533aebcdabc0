"""Matching of units against a search over all permutations."""

from itertools import permutations

import pytest
import torch

from graftpop.ops.matching import best_matching


@pytest.mark.parametrize("num_units", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("seed", range(3))
def test_matching_is_the_best_of_all_permutations(num_units: int, seed: int) -> None:
    similarity = torch.randn(num_units, num_units, generator=torch.Generator().manual_seed(seed))
    found = best_matching(similarity).tolist()
    rows = similarity.tolist()
    best = max(permutations(range(num_units)), key=lambda order: sum(rows[u][p] for u, p in enumerate(order)))
    assert found == list(best)
