"""The exponential moving average of weights, against torch's `AveragedModel`."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hook_makers import entries, three_site_learner, three_sites, train
from network_makers import make_learner, same_bits
from space_makers import make_settings
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from graftpop.errors import PeerDiverged
from graftpop.hooks.moving_average import MovingAverage
from graftpop.peer.peer import Peer
from graftpop.training.learner import Learner

EPOCHS = 3


def make(decay: float = 0.7, *, network: int = 0) -> tuple[Learner, MovingAverage]:
    learner, _ = three_site_learner(network, epochs=EPOCHS)
    return learner, MovingAverage(learner, decay=decay)


@pytest.mark.parametrize("decay", [0.999, 0.7])
def test_mean_equals_torchs_averaged_model(decay: float) -> None:
    learner, hook = make(decay)
    torchs = AveragedModel(learner.network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    learner.after_step.append(lambda: torchs.update_parameters(learner.network))
    train(learner, hook, EPOCHS)
    seen = int(learner.network.state_dict()["1.num_batches_tracked"])
    hook.finish()
    for name, tensor in learner.network.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, torchs.module.state_dict()[name], rtol=1e-5, atol=1e-6), name
    assert int(learner.network.state_dict()["1.num_batches_tracked"]) == seen == 3 * EPOCHS


def test_averaging_changes_nothing_before_the_end() -> None:
    learner, hook = make()
    plain, _ = three_site_learner(epochs=EPOCHS)
    for epoch in range(1, EPOCHS + 1):
        train(learner, hook, epoch)
        plain.train_epoch()
        assert same_bits(learner.state_dict(), plain.state_dict())
    hook.finish()
    assert not torch.allclose(learner.state.buffer, plain.state.buffer, atol=1e-4)


def test_mean_counts_a_step_of_several_batches_once() -> None:
    learner = make_learner(three_sites(), batch_size=60, accumulate=2)
    calls: list[int] = []
    learner.after_step.append(lambda: calls.append(learner.num_steps()))
    learner.train_epoch()
    assert calls == [1, 2]


def test_averaging_resumes_bit_for_bit() -> None:
    undisturbed, hook = make()
    train(undisturbed, hook, 2)
    weights, hook_state = entries(undisturbed), {name: tensor.clone() for name, tensor in hook.state_dict().items()}
    resumed, resumed_hook = make(network=5)
    resumed.load_state_dict(weights)
    resumed_hook.load_state_dict(hook_state)
    for learner, its_hook in ((undisturbed, hook), (resumed, resumed_hook)):
        train(learner, its_hook, EPOCHS)
        its_hook.finish()
    assert same_bits(resumed.state_dict(), undisturbed.state_dict())


def ended(sections: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the weights of a diverged peer that got a donor's, and the donor's, at the end."""
    settings = make_settings(sections)
    receiver, donor = Peer(settings, 0), Peer(settings, 1)
    assert isinstance(donor.train(1), dict)
    receiver.publish().weights.fill(float("nan"))
    with pytest.raises(PeerDiverged):
        receiver.train(1)
    receiver.reseed(donor.publish(), 1)
    if settings.num_epochs > 1:
        assert isinstance(receiver.train(1), dict)
    return torch.tensor(receiver.publish().weights), torch.tensor(donor.publish().weights)


def test_mean_starts_anew_after_divergence() -> None:
    mean, _ = ended({"training": {"epochs": 2}, "ema": {"decay": 0.999}})
    assert mean.isfinite().all()


def test_peer_that_diverged_in_the_last_round_ends_with_its_donors_weights() -> None:
    own, donors = ended({"training": {"epochs": 1}, "ema": {"decay": 0.999}})
    assert torch.equal(own, donors)
