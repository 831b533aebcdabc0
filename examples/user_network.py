"""Train three grafting peers of a user-defined network on user-defined images with a user-defined optimizer."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

import graftpop


class Net(nn.Module):
    """Two convolutions; the BatchNorm after each makes it a site."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, num_classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.layers(images)


def main() -> None:
    """Train the population and use its best network."""
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float()[:, None] / 16, torch.tensor(digits.target)
    train, test = TensorDataset(images[:1400], labels[:1400]), TensorDataset(images[1400:], labels[1400:])

    population = graftpop.Population(
        Net,
        train,
        test,
        classes=range(10),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        training={"epochs": 6, "batch_size": 64, "schedule": "cosine"},
        population={"num_peers": 3},
        graft={"A": 0.4},
    )
    for done in population.run():
        print(f"round {done.round}: validation accuracy {done.score:.1%}")
    print(
        f"test accuracy {population.outcome['test_accuracy']:.1%}, ensemble "
        f"{population.outcome['ensemble_test_accuracy']:.1%}"
    )
    network = population.network()
    print(f"the first image is a {network(images[:1]).argmax().item()}")


if __name__ == "__main__":
    main()
