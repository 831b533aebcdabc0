"""Retrieval: how high the images of the same identity rank among all images, ordered by distance of features."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

__all__ = ["GALLERY", "QUERY", "has_match", "retrieval_scores"]

QUERY: Final = 1
GALLERY: Final = 2
"""Bits of a role: a query is searched for in the gallery; an image may be both."""

MOST_DISTANCES: Final = 2**24
"""Distances in memory at once, in several copies."""


def retrieval_scores(
    features: Tensor, targets: Tensor, ranks: Sequence[int] = (1, 5, 10), *, distance: str = "euclidean"
) -> Mapping[str, float]:
    """Return mean average precision, `map`, and cumulative match characteristics, `rank1` and so on, in [0, 1].

        for each query: order the gallery by distance, without images of the same identity and the same camera
        AP     = 1/R * sum over the R matches of (matches so far) / (position)
        rank_r = share of the queries with a match among the first r

    A match has the query's identity and another camera. Queries without a match are left out. Among equal distances
    images of other identities come first, so equal features score low.

    Args:
        features: float (N, F).
        targets: int64 (N, 3): identity, camera, and role, a sum of QUERY and GALLERY. Identities below 0 match nothing.
        ranks: values of r.
        distance: `euclidean`, or `cosine`, 1 minus the cosine of the angle.

    Raises:
        ValueError: no query has a match, or there is no query or no gallery.

    References:
        Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015 (mAP, cameras); the conventions of
        Market-1501's evaluation.
    """
    features, targets = features.float().cpu(), targets.cpu()
    if distance == "cosine":
        features = torch.nn.functional.normalize(features, dim=1)
    is_query, is_gallery = ((targets[:, 2] & bit).bool() for bit in (QUERY, GALLERY))
    if not (is_query.any() and is_gallery.any()):
        raise ValueError("retrieval_scores: targets must have a query and a gallery image")
    gallery, gallery_of = features[is_gallery], targets[is_gallery]
    square_G = gallery.square().sum(1)
    rows = max(1, MOST_DISTANCES // max(1, len(gallery)))
    precisions, first_ranks = [], []
    for queries, queries_of in zip(features[is_query].split(rows), targets[is_query].split(rows), strict=True):
        # without the query's own square, which does not change the order
        distances_QG = torch.addmm(square_G, queries, gallery.T, alpha=-2)
        same = (queries_of[:, :1] == gallery_of[:, 0]) & (queries_of[:, :1] >= 0)
        same_camera = queries_of[:, 1:2] == gallery_of[:, 1]
        match_ranks, num_matches = _ranks(distances_QG, same & ~same_camera, same & same_camera)
        found = num_matches > 0
        so_far = torch.arange(1, match_ranks.shape[1] + 1)
        precision = torch.where(so_far <= num_matches[:, None], so_far / match_ranks, 0).sum(1)
        precisions.append((precision / num_matches)[found])
        first_ranks.append(match_ranks[found, :1])
    precision, first = torch.cat(precisions), torch.cat(first_ranks)
    if not len(precision):
        raise ValueError("retrieval_scores: a query must have a match, an image of its identity by another camera")
    scores = {"map": float(precision.mean())}
    return scores | {f"rank{rank}": float((first <= rank).double().mean()) for rank in ranks}


def _ranks(distances_QG: Tensor, is_match: Tensor, is_left_out: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of each query's matches, float64 (Q, M) in ascending order, and their number (Q,).

    Positions count from 1, over all images but those left out; M is the largest number, further entries mean nothing.
    """
    num_matches = is_match.sum(1)
    of_matches = distances_QG.masked_fill(~is_match, torch.inf)
    of_matches = of_matches.topk(max(1, int(num_matches.max())), largest=False).values  # ascending
    # sorting values alone is many times faster in numpy than torch's sort, which also orders indices
    others = np.sort(distances_QG.masked_fill_(is_match | is_left_out, torch.inf).numpy(), axis=1)
    before = torch.searchsorted(torch.from_numpy(others), of_matches, right=True)
    return (before + torch.arange(1, of_matches.shape[1] + 1)).double(), num_matches


def has_match(targets: Tensor) -> Tensor:
    """Return for each query whether the gallery has a match, bool (Q,).

    Args:
        targets: int64 (N, 3), see `retrieval_scores`.
    """
    queries, gallery = (targets[(targets[:, 2] & bit).bool(), :2].tolist() for bit in (QUERY, GALLERY))
    of_identity, of_camera = Counter(identity for identity, _ in gallery), Counter(map(tuple, gallery))
    return torch.tensor(
        [identity >= 0 and of_identity[identity] > of_camera[identity, camera] for identity, camera in queries],
        dtype=torch.bool,
    )
