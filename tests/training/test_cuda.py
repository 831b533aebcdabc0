"""The arithmetic on CUDA cards, which torch lets a process set without one."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from network_makers import few_digits, trained_looking
from space_makers import make_settings
from stand_in_card import CUDA, StandInCard

from graftpop.errors import SpaceError
from graftpop.tasks.classification import Classification
from graftpop.training.cuda import set_up_cuda
from graftpop.training.learner import Learner

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
backends: Any = torch.backends


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(WORKSPACE, raising=False)
    yield
    backends.fp32_precision = "none"
    set_up_cuda(deterministic=False)
    os.environ.pop(WORKSPACE, None)


def allow_by_old_names() -> None:
    backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = True


def allow_by_new_names() -> None:
    backends.cuda.matmul.fp32_precision = "tf32"
    backends.cudnn.conv.fp32_precision = backends.cudnn.rnn.fp32_precision = "tf32"


def allow_everywhere() -> None:
    backends.fp32_precision = "tf32"


def allow_for_products() -> None:
    torch.set_float32_matmul_precision("high")


def leave_torchs_defaults() -> None:
    backends.cudnn.allow_tf32 = True


@pytest.mark.filterwarnings("ignore:.*TF32")
@pytest.mark.parametrize(
    "allow_tf32", [leave_torchs_defaults, allow_by_old_names, allow_by_new_names, allow_everywhere, allow_for_products]
)
def test_float32_is_exact_whatever_was_allowed_before(allow_tf32: Callable[[], None]) -> None:
    allow_tf32()
    set_up_cuda(deterministic=False)
    parts = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    assert [part.fp32_precision for part in parts] == ["ieee"] * 3
    assert not backends.cuda.matmul.allow_tf32  # torch raises an error if its two interfaces disagree
    assert not backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("deterministic", [True, False])
def test_learner_on_a_card_sets_the_process_up(deterministic: bool) -> None:
    backends.cudnn.allow_tf32 = True
    torch.use_deterministic_algorithms(not deterministic)
    settings = make_settings(training={"deterministic": deterministic}).training

    def make_learner(device: torch.device) -> None:
        network = trained_looking("python:network_makers.TwoSites", 0)
        Learner(
            network, few_digits().train, settings, Classification(), lr=lambda _: 0.1, seed=0, peer=0, device=device
        )

    make_learner(torch.device("cpu"))
    assert backends.cudnn.allow_tf32
    assert torch.are_deterministic_algorithms_enabled() is not deterministic
    with StandInCard():
        make_learner(CUDA)
    assert not backends.cudnn.allow_tf32
    assert torch.are_deterministic_algorithms_enabled() is deterministic
    assert backends.cudnn.benchmark is not deterministic
    assert os.environ[WORKSPACE] == ":4096:8"


def test_workspace_of_cublas_is_the_users_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for workspace in (":16:8", ":0:0"):
        monkeypatch.setenv(WORKSPACE, workspace)
        set_up_cuda(deterministic=False)
        assert os.environ[WORKSPACE] == workspace
    with pytest.raises(SpaceError, match=r"training\.deterministic.*:0:0"):
        set_up_cuda(deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()
