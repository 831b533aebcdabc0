"""Tests of recognition as a task of a network."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftpop.errors import ModelError
from graftpop.models import build
from graftpop.ops.triplet import batch_hard_triplet_loss
from graftpop.settings import TaskSettings
from graftpop.tasks.recognition import Recognition, without_classifier_


def task(**changes: object) -> Recognition:
    return Recognition(TaskSettings.model_validate({"name": "recognition", **changes}))


def images(num: int = 4) -> Tensor:
    return torch.randn(num, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class WithHead(nn.Module):
    """A classifier with an unused Linear layer after its output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 5))
        self.unused = nn.Linear(6, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(pixels))
        return logits


def test_features_are_the_input_of_the_last_linear_layer() -> None:
    network = WithHead().eval()
    logits, features = task().forward(network, images())
    assert torch.equal(features, network.body(images()))
    assert torch.equal(logits, network(images()))
    assert torch.equal(task().infer(network, images()), features)


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2", "torchvision:resnet18"])
def test_networks_without_their_classifier_return_the_features(name: str) -> None:
    network = build(name, 5).eval()
    features = task().infer(network, images())
    assert torch.equal(without_classifier_(copy.deepcopy(network), images())(images()), features)


def test_network_stays_in_training_and_keeps_its_statistics() -> None:
    network = build("resnet8", 5)
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    with pytest.raises(RuntimeError):
        task().forward(network, images()[:, :2])
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.named_buffers())


def test_network_without_a_linear_output_is_refused() -> None:
    convolution = nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match="recognition needs"):
        task().forward(convolution, images())


def test_loss_is_smoothed_cross_entropy_plus_triplets() -> None:
    outputs, labels = (torch.randn(4, 5), torch.randn(4, 6)), torch.tensor([0, 0, 3, 3])
    smoothed = F.cross_entropy(outputs[0], labels, label_smoothing=0.1)
    assert torch.equal(task(label_smoothing=0.1).loss(outputs, labels), smoothed)
    triplets = batch_hard_triplet_loss(outputs[1], labels, 0.5)
    both = task(label_smoothing=0.1, triplet_weight=2.0, triplet_margin=0.5).loss(outputs, labels)
    assert float(both) == pytest.approx(float(smoothed + 2 * triplets))


def test_squared_distances_of_an_ensemble_add_up() -> None:
    first, second = torch.randn(5, 3), torch.randn(5, 4)
    combined = task().combine([first, second])
    expected = torch.cdist(first, first).square() + torch.cdist(second, second).square()
    assert torch.allclose(torch.cdist(combined, combined).square(), expected, atol=1e-4)


def test_cosines_of_an_ensemble_are_averaged() -> None:
    first, second = torch.randn(5, 3), 9 * torch.randn(5, 4)
    cosines = [F.normalize(each) @ F.normalize(each).T for each in (first, second)]
    combined = F.normalize(task(distance="cosine").combine([first, second]))
    assert torch.allclose(combined @ combined.T, torch.stack(cosines).mean(0), atol=1e-5)
