"""Tests of the batch-hard triplet loss."""

import pytest
import torch

from graftpop.ops.triplet import batch_hard_triplet_loss

LABELS = torch.tensor([0, 0, 0, 1, 1, 2])


@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0])
def test_loss_equals_a_loop_over_anchors(margin: float) -> None:
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    losses = []
    for anchor, label in zip(features, LABELS, strict=True):
        distances = (features - anchor).norm(dim=1)
        losses.append(max(0.0, float(distances[label == LABELS].max() - distances[label != LABELS].min()) + margin))
    assert float(batch_hard_triplet_loss(features, LABELS, margin)) == pytest.approx(sum(losses) / 6, abs=1e-5)


def test_item_that_is_alone_with_its_identity_is_at_distance_0_from_itself() -> None:
    features = 1000 * torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    nearest = torch.cdist(features.double(), features.double()).fill_diagonal_(torch.inf).amin(1)
    margin = float(nearest.max())
    loss = float(batch_hard_triplet_loss(features, torch.arange(16), margin))
    assert loss == pytest.approx(float((margin - nearest).mean()), abs=0.01)  # with rounding left: 1 more


def test_gradient_is_finite_where_features_are_equal() -> None:
    features = torch.ones(6, 4, requires_grad=True)
    batch_hard_triplet_loss(features, LABELS, 0.3).backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_batch_of_one_identity_is_an_error() -> None:
    with pytest.raises(ValueError, match="two identities"):
        batch_hard_triplet_loss(torch.randn(4, 2), torch.zeros(4).long(), 0.3)
