"""Tests of classification as a task."""

import pytest
import torch

from graftpop.tasks.classification import Classification

LOGITS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, -1.0]])
LABELS = torch.tensor([0, 2])


def test_labels_are_smoothed_in_training_alone() -> None:
    log_probability = LOGITS.log_softmax(1)
    plain = -float(log_probability[[0, 1], LABELS].mean())
    smoothed = 0.7 * plain - 0.3 * float(log_probability.mean())
    assert float(Classification(0.3).loss(LOGITS, LABELS)) == pytest.approx(smoothed)
    assert Classification(0.3).validation_loss(LOGITS, LABELS) == pytest.approx(plain)


def test_largest_share_of_mixed_targets_counts_as_correct() -> None:
    mixed = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1]])
    assert int(Classification().num_correct(LOGITS, mixed)) == int(Classification().num_correct(LOGITS, LABELS)) == 1


def test_ensemble_has_the_mean_of_the_probabilities() -> None:
    task, sure = Classification(), torch.tensor([[30.0, 0.0]])
    unsure = torch.tensor([[0.0, 1.0]])  # outvoted by neither logits nor one member
    combined = task.combine([task.predict(sure), *[task.predict(unsure)] * 3])
    assert combined.tolist()[0] == pytest.approx([(1 + 3 * 0.26894) / 4, 3 * 0.73106 / 4], abs=1e-4)
    assert task.score(combined, torch.tensor([1])) == {"accuracy": 1.0}
