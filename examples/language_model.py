"""A user-defined task, a language model of 4,816 parameters: the next character of Python source code.

As a population in Python: `python language_model.py`. As a study, in the folder of this file:

    python -m graftpop.tune --space language_model.yaml
"""

import argparse
import inspect
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import graftpop

NUM_TOKENS = 128
LENGTH = 32
WIDTH = 16


class NextToken(graftpop.Task):
    """The next token at every place of a text, by the cross entropy of logits (B, T, tokens) with tokens (B, T)."""

    metrics = (graftpop.Metric("perplexity", "min"), graftpop.Metric("accuracy"))
    num_outputs = NUM_TOKENS

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy."""
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def predict(self, outputs: Tensor) -> Tensor:
        """Return the probabilities (B, T, tokens); those of an ensemble are averaged."""
        return outputs.softmax(-1)

    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        """Return the perplexity, and the share of tokens that are the most probable ones."""
        right = predictions.gather(-1, targets[..., None]).squeeze(-1)
        hits = (predictions.argmax(-1) == targets).float()
        return {"perplexity": float(right.clamp(min=1e-9).log().mean().neg().exp()), "accuracy": float(hits.mean())}

    def logits(self, outputs: Tensor) -> Tensor:
        """Return all logits as one batch (B * T, tokens), so that peers can also learn from each other's."""
        return outputs.flatten(0, 1)


class Model(nn.Module):
    """A transformer of one block; the output layer is the table of tokens."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(num_tokens, WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(WIDTH)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, T, tokens) for tokens (B, T)."""
        hidden = self.tokens(tokens) + self.places.weight
        return F.linear(self.norm(self.block(hidden, src_mask=self.mask)), self.tokens.weight)


def source_code() -> tuple[TensorDataset, TensorDataset]:
    """Return pieces of the first 40,000 characters of Python's argparse, each with the piece one character later."""
    text = torch.tensor([ord(character) % NUM_TOKENS for character in inspect.getsource(argparse)[:40_000]])
    num = (len(text) - 1) // LENGTH
    inputs, targets = (text[start : start + num * LENGTH].view(num, LENGTH) for start in (0, 1))
    is_test = torch.arange(num) % 10 == 9
    return TensorDataset(inputs[~is_test], targets[~is_test]), TensorDataset(inputs[is_test], targets[is_test])


def main() -> None:
    """Train two peers that graft and learn from each other."""
    population = graftpop.Population(
        Model,
        *source_code(),
        task=NextToken,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        training={"epochs": 3, "batch_size": 64, "schedule": "cosine"},
        population={"num_peers": 2},
        graft={"A": 0.4, "c": 10.0},
        mutual={},
    )
    for done in population.run():
        print(f"round {done.round}: validation perplexity {done.score:.1f}")
    outcome = population.outcome
    print(f"test perplexity {outcome['test_perplexity']:.1f}, ensemble {outcome['ensemble_test_perplexity']:.1f}")


if __name__ == "__main__":
    main()
