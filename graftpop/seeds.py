"""Seeds that are functions of their purpose.

A seed is derived from the study's seed, the peer, the epoch and the purpose. So random numbers do not depend on the
order of events, and a killed and resumed run draws the same ones as an uninterrupted run.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derive", "seeded"]


def derive(seed: int, *purpose: int | str) -> int:
    """Return a seed in [0, 2**63) for a purpose: `derive(seed, "order", peer, epoch)`.

    The same on every machine and in every version: resumed runs depend on it.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators inside the block, and restore them after it.

    Initialization and dropout draw from them. It takes a few microseconds, cheap enough for every batch;
    `torch.random.fork_rng` takes a hundred. The state of a GPU's generator is in the host's memory; the host does
    not wait for the GPU.

    Args:
        seed: seeds the generators.
        device: its generator is seeded and restored as well as the CPU's.
    """
    generators = [torch.default_generator]
    if device.type == "cuda" and torch.cuda.is_available():  # without a card, tensors that imitate one draw on the CPU
        torch.cuda.init()
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
