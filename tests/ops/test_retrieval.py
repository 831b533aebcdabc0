"""Tests of mAP and CMC against closed forms and a slow reference."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from graftpop.ops import retrieval
from graftpop.ops.retrieval import GALLERY, QUERY, has_match, retrieval_scores


def on_a_line(*matches: int) -> tuple[Tensor, Tensor]:
    """Return features and targets of one query and a gallery at growing distances, 1 for a match."""
    features = torch.arange(len(matches) + 1).float()[:, None]
    gallery = [[0 if is_match else 1, 1, GALLERY] for is_match in matches]
    return features, torch.tensor([[0, 0, QUERY], *gallery])


@pytest.mark.parametrize(("matches", "expected"), [((1, 0, 1), 0.8333), ((0, 1, 1, 0, 1), 0.5889), ((1,), 1.0)])
def test_average_precision_of_known_orders(matches: tuple[int, ...], expected: float) -> None:
    assert retrieval_scores(*on_a_line(*matches))["map"] == pytest.approx(expected, abs=5e-5)


def test_rank_counts_queries_with_a_match_among_the_first() -> None:
    scores = retrieval_scores(*on_a_line(0, 0, 1), ranks=(1, 2, 3))
    assert [scores[f"rank{rank}"] for rank in (1, 2, 3)] == [0, 0, 1]


def random_data(num: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randint(low, high, (num,), generator=generator) for low, high in ((-1, 6), (0, 3), (1, 4))]
    return torch.randn(num, 4, generator=generator), torch.stack(columns, 1)


def walked(features: Tensor, targets: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
    """Return the scores by a walk along each query's gallery, sorted by distance."""
    precisions, firsts = [], []
    for query, (identity, camera, role) in zip(features, targets.tolist(), strict=True):
        gallery = [
            (float(distance(query, one)), other == identity and identity >= 0)
            for one, (other, other_camera, other_role) in zip(features, targets.tolist(), strict=True)
            if other_role & GALLERY and not (other == identity >= 0 and other_camera == camera)
        ]
        is_match = [match for _, match in sorted(gallery)]
        if not role & QUERY or not any(is_match):
            continue
        places = [place for place, match in enumerate(is_match, 1) if match]
        precisions.append(sum(found / place for found, place in enumerate(places, 1)) / len(places))
        firsts.append(places[0])
    ranks = {f"rank{rank}": sum(first <= rank for first in firsts) / len(firsts) for rank in (1, 5, 10)}
    return {"map": sum(precisions) / len(precisions)} | ranks


def euclidean(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).norm()


def cosine(first: Tensor, second: Tensor) -> Tensor:
    return 1 - torch.cosine_similarity(first, second, dim=0)


@pytest.mark.parametrize("distance", [euclidean, cosine])
@pytest.mark.parametrize("num", [20, 60])
def test_scores_equal_a_walk_along_each_sorted_gallery(num: int, distance: Callable[[Tensor, Tensor], Tensor]) -> None:
    features, targets = random_data(num, seed=num)
    scores = retrieval_scores(features, targets, distance=distance.__name__)
    assert scores == pytest.approx(walked(features, targets, distance))


def test_size_of_chunks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_data(60, seed=1)
    expected = retrieval_scores(*data)
    monkeypatch.setattr(retrieval, "MOST_DISTANCES", 100)
    assert retrieval_scores(*data) == pytest.approx(expected)


def test_an_image_is_not_found_by_itself() -> None:
    features = torch.tensor([[0.0], [5.0], [1.0]])
    targets = torch.tensor([[0, 0, 3], [0, 1, 3], [1, 0, 3]])
    assert retrieval_scores(features, targets)["rank1"] == 0  # the third image is the nearest to both of the first


def test_equal_features_score_low() -> None:
    targets = torch.tensor([[identity, camera, 3] for identity in range(5) for camera in range(2)])
    assert retrieval_scores(torch.zeros(10, 3), targets) == pytest.approx(
        {"map": 1 / 9, "rank1": 0, "rank5": 0, "rank10": 1}
    )


def test_queries_without_a_match_are_left_out() -> None:
    features, targets = on_a_line(1, 0)
    more = torch.tensor([[7, 0, QUERY], [-1, 0, QUERY]])  # no such identity in the gallery; no identity at all
    expected = retrieval_scores(features, targets)
    assert retrieval_scores(torch.cat((features, torch.zeros(2, 1))), torch.cat((targets, more))) == expected
    assert has_match(torch.cat((targets, more))).tolist() == [True, False, False]


def test_a_match_by_the_same_camera_is_none() -> None:
    targets = torch.tensor([[0, 0, QUERY], [0, 0, GALLERY], [1, 0, QUERY], [1, 1, GALLERY]])
    assert has_match(targets).tolist() == [False, True]


@pytest.mark.parametrize("role", [QUERY, GALLERY])
def test_queries_or_a_gallery_alone_are_an_error(role: int) -> None:
    targets = torch.tensor([[0, 0, role], [0, 1, role]])
    with pytest.raises(ValueError, match=r"query.*gallery"):
        retrieval_scores(torch.rand(2, 3), targets)


def test_no_match_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="match"):
        retrieval_scores(*on_a_line(0, 0))
