"""Seeds are functions of their purpose, and torch's global generator is restored after use."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graftpop.seeds import derive, seeded

CPU = torch.device("cpu")
seeds = st.integers(0, 2**63 - 1)


@given(seeds, st.sampled_from(["data", "dropout", "initialization"]), st.integers(0, 99), st.integers(0, 999))
def test_derived_seed_is_reproducible_and_valid_for_torch(seed: int, purpose: str, peer: int, epoch: int) -> None:
    derived = derive(seed, purpose, peer, epoch)
    assert derived == derive(seed, purpose, peer, epoch)
    assert 0 <= derived < 2**63
    assert torch.Generator().manual_seed(derived).initial_seed() == derived


def test_derived_seed_is_the_same_everywhere() -> None:
    """The value was recorded when the scheme was fixed; a change would break resumed runs."""
    assert derive(0, "data", 1, 2) == 231_910_808_290_386_735


def test_derived_seeds_of_different_purposes_differ() -> None:
    purposes = [(purpose, peer, epoch) for purpose in ("data", "dropout") for peer in range(20) for epoch in range(50)]
    derived = {derive(seed, *purpose) for seed in (0, 1, 10) for purpose in purposes}
    assert len(derived) == 3 * len(purposes)
    assert derive(1, "data", 1, 12) != derive(1, "data", 11, 2) != derive(11, "data", 1, 2)


@given(seeds)
def test_seeded_block_restores_the_generator(seed: int) -> None:
    torch.manual_seed(5)
    torch.rand(3)
    expected = torch.rand(3)
    torch.manual_seed(5)
    torch.rand(3)
    with seeded(seed, CPU):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(inside, torch.rand(3, generator=torch.Generator().manual_seed(seed)))


def test_generator_is_restored_if_the_block_fails() -> None:
    def fail_inside() -> None:
        with seeded(1, CPU):
            torch.rand(3)
            raise KeyError

    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        fail_inside()
    assert torch.equal(torch.get_rng_state(), before)
