"""A learner learns, is reproducible and resumable bit for bit, and leaves the process unchanged."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from network_makers import copied, digits, few_digits, make_learner, same_bits, seeded_network, seeded_small_net
from torch import Tensor, nn
from torch.nn import functional

from graftpop.data import MemoryImages, Splits
from graftpop.data.mixing import with_mixing
from graftpop.errors import CheckpointError
from graftpop.seeds import derive, seeded
from graftpop.settings import AugmentationSettings, TrainingSettings
from graftpop.tasks.classification import Classification
from graftpop.training.learner import Learner
from graftpop.training.precision import training_dtype

CPU = torch.device("cpu")
MAKERS: dict[str, Callable[[int], nn.Module]] = {
    "small": seeded_small_net,
    "dropout": lambda seed: seeded_small_net(seed, dropout=0.5),
    "resnet8": lambda seed: seeded_network("resnet8", seed),
}


def first_images(count: int) -> Splits:
    """Return the few digits with the first `count` training images."""
    splits = few_digits()
    assert isinstance(splits.train, MemoryImages)
    assert splits.train.rows is not None
    return replace(splits, train=replace(splits.train, rows=splits.train.rows[:count]))


def val_accuracy(learner: Learner, splits: Splits) -> float:
    logits, labels = learner.evaluate(splits.val)
    return (logits.argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_digits_are_learned_in_either_precision(precision: str) -> None:
    learner = make_learner(seeded_small_net(), epochs=8, lr=0.1, batch_size=64, precision=precision, splits=digits())
    epochs = [learner.train_epoch() for _ in range(8)]
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    assert (epochs[-1].accuracy or 0) > 0.85
    assert val_accuracy(learner, digits()) > 0.85
    assert learner.state.buffer.dtype == torch.float32


def test_bfloat16_changes_the_arithmetic_of_training() -> None:
    states = []
    for precision in ("float32", "bfloat16"):
        learner = make_learner(seeded_small_net(), precision=precision)
        learner.train_epoch()
        states.append(learner.state.buffer.clone())
    exact, rounded = states
    assert not torch.equal(exact, rounded)
    assert torch.allclose(exact, rounded, atol=0.1)


def test_epoch_equals_a_plain_torch_loop() -> None:
    train, network = few_digits().train, seeded_small_net()
    learner = make_learner(seeded_small_net(), peer=3, seed=7, epochs=2, lr=0.1, schedule="cosine")
    metrics = [learner.train_epoch(), learner.train_epoch()]

    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * 6)  # 180 images in batches of 32
    for epoch in range(2):
        losses, correct = [], 0
        assert metrics[epoch].lr == pytest.approx(optimizer.param_groups[0]["lr"])
        for pixels, labels in train.training_batches(32, derive(7, "data", 3, epoch), CPU):
            optimizer.zero_grad()
            logits = network(pixels)
            loss = functional.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses += [loss.item()] * len(labels)
            correct += int((logits.argmax(1) == labels).sum())
        assert metrics[epoch].num_images == len(losses) == 180
        assert metrics[epoch].loss == pytest.approx(sum(losses) / 180, rel=1e-3)
        assert metrics[epoch].accuracy == pytest.approx(correct / 180, abs=0.01)
        assert metrics[epoch].train_s > 0
    for name, tensor in network.state_dict().items():
        assert torch.allclose(learner.network.state_dict()[name], tensor, rtol=1e-2, atol=1e-4), name


def test_metrics_of_mixed_images_are_cross_entropy_and_accuracy_by_the_larger_share() -> None:
    splits = few_digits()
    mixed = with_mixing(splits.train, AugmentationSettings(mixup=1.0), 10)
    network = seeded_small_net().train()
    learner = make_learner(seeded_small_net(), seed=7, lr=1e-12, splits=replace(splits, train=mixed))
    metrics = learner.train_epoch()
    losses, correct = [], 0
    for pixels, targets in mixed.training_batches(32, derive(7, "data", 0, 0), CPU):
        log_probability = network(pixels).log_softmax(1)
        losses += (-(targets * log_probability).sum(1)).tolist()
        correct += int((targets.argmax(1) == log_probability.argmax(1)).sum())
    assert metrics.loss == pytest.approx(sum(losses) / 180, rel=1e-4)
    assert metrics.accuracy == pytest.approx(correct / 180)
    assert metrics.num_images == 180


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.05)])
@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
def test_losses_equal_a_plain_loop_in_torchs_default_layout(name: str, precision: str, tolerance: float) -> None:
    """Layout, precision, the flat buffer and in-place activations speed training up and keep its losses.

    The learning rate is low, because each step amplifies the rounding, which differs between processors.
    """
    learner = make_learner(seeded_network(name), lr=0.005, schedule="constant", precision=precision)
    network = seeded_network(name)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.9, weight_decay=5e-4)
    for epoch in range(2):
        losses = []
        for pixels, labels in few_digits().train.training_batches(32, derive(0, "data", 0, epoch), CPU):
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(pixels.contiguous()), labels)
            loss.backward()
            optimizer.step()
            losses += [loss.item()] * len(labels)
        assert learner.train_epoch().loss == pytest.approx(sum(losses) / len(losses), rel=tolerance)


@pytest.mark.parametrize("maker", MAKERS)
def test_training_is_reproducible_bit_for_bit(maker: str) -> None:
    states = []
    for _ in range(2):
        learner = make_learner(MAKERS[maker](0))
        learner.train_epoch()
        torch.rand(7)  # draws in between have no effect
        learner.train_epoch()
        states.append(copied(learner.state_dict()))
    assert same_bits(*states)


@pytest.mark.parametrize("maker", ["small", "dropout"])
def test_data_order_depends_on_peer_and_seed(maker: str) -> None:
    buffers = []
    for peer, seed in [(0, 0), (1, 0), (0, 1)]:
        learner = make_learner(MAKERS[maker](0), peer=peer, seed=seed)
        learner.train_epoch()
        buffers.append(learner.state.buffer.clone())
    assert not any(torch.equal(buffers[i], buffers[j]) for i, j in [(0, 1), (0, 2), (1, 2)])


def test_dropout_depends_on_peer_and_epoch() -> None:
    """All batches hold one image, neither shifted nor flipped, so that only dropout can differ."""
    splits = first_images(1)
    assert isinstance(splits.train, MemoryImages)
    assert splits.train.rows is not None
    recipe = replace(splits.recipe, crop_padding=0, flip=False)
    splits = replace(splits, train=replace(splits.train, recipe=recipe, rows=splits.train.rows.repeat(16)))
    losses = []
    for peer in (0, 1):
        learner = make_learner(
            seeded_small_net(0, dropout=0.5), peer=peer, lr=1e-12, schedule="constant", splits=splits
        )
        losses += [learner.train_epoch().loss for _ in range(2)]
    assert len({round(loss, 4) for loss in losses}) == 4


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_resumed_learner_equals_an_uninterrupted_one_bit_for_bit(maker: str, after: int) -> None:
    undisturbed = make_learner(MAKERS[maker](0))
    metrics = [undisturbed.train_epoch() for _ in range(4)]

    stopped = make_learner(MAKERS[maker](0))
    for _ in range(after):
        stopped.train_epoch()
    state = copied(stopped.state_dict())
    stopped.train_epoch()  # later steps must not change the saved state

    resumed = make_learner(MAKERS[maker](5))
    resumed.train_epoch()
    resumed.load_state_dict(state)
    assert resumed.epoch == after
    resumed_metrics = [resumed.train_epoch() for _ in range(after, 4)]
    assert same_bits(resumed.state_dict(), undisturbed.state_dict())
    assert [(epoch.loss, epoch.accuracy, epoch.lr) for epoch in resumed_metrics] == [
        (epoch.loss, epoch.accuracy, epoch.lr) for epoch in metrics[after:]
    ]


def test_state_holds_network_momentum_and_epoch() -> None:
    learner = make_learner(seeded_small_net())
    network = {f"network/{name}" for name in learner.network.state_dict()}
    assert set(learner.state_dict()) == network | {"epoch"}
    learner.train_epoch()
    momentum = {f"momentum/{name}" for name, _ in learner.network.named_parameters()}
    assert set(learner.state_dict()) == network | momentum | {"epoch"}
    assert learner.state_dict()["epoch"].item() == learner.epoch == 1
    assert all(tensor.is_contiguous() for tensor in learner.state_dict().values())


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("cosine", [0.05, 0.05 * 0.85355339, 0.025, 0.05 * 0.14644661]), ("step", [0.05] * 4), ("constant", [0.05] * 4)],
)
def test_metrics_record_the_learning_rate_of_the_first_step(schedule: str, expected: list[float]) -> None:
    learner = make_learner(seeded_small_net(), schedule=schedule, epochs=4, lr=0.05)
    assert [learner.train_epoch().lr for _ in range(4)] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("count", "trained"), [(33, 32), (34, 34), (64, 64), (3, 3)])
def test_last_batch_of_one_image_is_skipped(count: int, trained: int) -> None:
    learner, steps = make_learner(seeded_small_net(), batch_size=32, splits=first_images(count)), []
    learner.after_step.append(lambda: steps.append(learner.num_steps()))
    for _ in range(2):
        assert learner.train_epoch().num_images == trained
    assert steps == list(range(1, 2 * -(-trained // 32) + 1))  # exchanges follow every n-th step
    assert torch.isfinite(learner.state.buffer).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_exact_evaluation_is_in_float32_in_every_precision(precision: str) -> None:
    learner = make_learner(seeded_small_net(), precision=precision)
    learner.train_epoch()
    twin = seeded_small_net(1).eval()
    twin.load_state_dict(learner.network.state_dict())
    logits, labels = learner.evaluate(few_digits().val)
    with torch.no_grad():
        batches = [(twin(pixels), targets) for pixels, targets in few_digits().val.evaluation_batches(500, CPU)]
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, torch.cat([outputs for outputs, _ in batches]), rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, torch.cat([targets for _, targets in batches]))


def test_inexact_evaluation_is_in_the_precision_of_training() -> None:
    exact, quick = {}, {}
    for precision in ("float32", "bfloat16"):
        learner = make_learner(seeded_small_net(), precision=precision)
        exact[precision] = learner.evaluate(few_digits().val)[0]
        quick[precision] = learner.evaluate(few_digits().val, exact=False)[0]
    assert torch.equal(quick["float32"], exact["float32"])
    assert torch.equal(exact["bfloat16"], exact["float32"])
    assert not torch.equal(quick["bfloat16"], exact["bfloat16"])
    assert torch.allclose(quick["bfloat16"], exact["bfloat16"], atol=0.05)


class Halves(Classification):
    """Classification with two outputs, whose types the loss notes."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def forward(self, network: nn.Module, inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(network(inputs).chunk(2, dim=1))

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        self.dtypes |= {part.dtype for part in outputs}
        return super().loss(torch.cat(outputs, 1), targets)

    def num_correct(self, outputs: Any, targets: Tensor) -> Tensor:
        return super().num_correct(torch.cat(outputs, 1), targets)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_task_gets_all_of_its_outputs_in_float32(precision: str) -> None:
    task, images = Halves(), few_digits().train
    learner = make_learner(seeded_small_net(), precision=precision, task=task)
    learner.train_epoch()
    assert task.dtypes == {torch.float32}
    outputs, labels = learner.evaluate(images)
    expected = make_learner(seeded_small_net())
    expected.load_state_dict(learner.state_dict())
    assert torch.equal(torch.cat(outputs, 1), expected.evaluate(images)[0])
    assert len(labels) == images.num_images == 180


def test_evaluation_changes_nothing_and_is_reproducible() -> None:
    learner = make_learner(seeded_small_net(0, dropout=0.5))
    learner.train_epoch()
    before = copied(learner.state_dict())
    first, second = learner.evaluate(few_digits().test)[0], learner.evaluate(few_digits().test)[0]
    assert torch.equal(first, second)
    assert len(first) == few_digits().test.num_images
    assert same_bits(learner.state_dict(), before)


@pytest.mark.parametrize(
    "other", [lambda: seeded_network("resnet8"), lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))]
)
def test_state_of_another_network_is_refused(other: Callable[[], nn.Module]) -> None:
    learner = make_learner(seeded_small_net())
    with pytest.raises(CheckpointError, match=r"^checkpoint: [^\n]+$"):
        learner.load_state_dict(make_learner(other()).state_dict())


def test_torchs_global_random_state_is_unchanged() -> None:
    network = seeded_small_net(0, dropout=0.5)
    before = torch.get_rng_state()
    learner = make_learner(network)
    learner.train_epoch()
    learner.evaluate(few_digits().val)
    learner.load_state_dict(learner.state_dict())
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_stay_views_of_the_buffer() -> None:
    learner = make_learner(seeded_small_net())
    learner.train_epoch()
    learner.load_state_dict(copied(learner.state_dict()))
    learner.train_epoch()
    weight = learner.network.get_parameter("0.weight")
    assert weight.data_ptr() == learner.state.buffer.data_ptr()
    assert torch.equal(learner.state["0.weight"], weight)


def test_precision_is_explicit_or_depends_on_the_hardware() -> None:
    assert training_dtype("float32", CPU) == torch.float32
    assert training_dtype("bfloat16", CPU) == torch.bfloat16
    assert training_dtype("auto", CPU) in (torch.float32, torch.bfloat16)


# loss terms, lockstep, gradient masks and recalibration


def assert_close(learner: Learner, network: nn.Module) -> None:
    for name, tensor in network.state_dict().items():
        assert torch.allclose(learner.network.state_dict()[name], tensor, rtol=1e-3, atol=1e-4), name


def plain_sgd(network: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def test_loss_terms_act_but_are_not_recorded() -> None:
    def logits_term(logits: Tensor, pixels: Tensor) -> Tensor:
        return 0.01 * logits.square().mean() * len(pixels)

    def pixels_term(logits: Tensor, pixels: Tensor) -> Tensor:
        return (logits[:, 0] * pixels.mean((1, 2, 3))).mean()

    network = seeded_small_net()
    trained, without = (make_learner(seeded_small_net(), schedule="constant") for _ in range(2))
    trained.loss_terms += [logits_term, pixels_term]
    metrics, _ = trained.train_epoch(), without.train_epoch()
    optimizer, losses = plain_sgd(network), []
    for pixels, labels in few_digits().train.training_batches(32, derive(0, "data", 0, 0), CPU):
        optimizer.zero_grad()
        logits = network(pixels)
        label_loss = functional.cross_entropy(logits, labels)
        (label_loss + logits_term(logits, pixels) + pixels_term(logits, pixels)).backward()
        optimizer.step()
        losses += [label_loss.item()] * len(labels)
    assert_close(trained, network)
    assert metrics.loss == pytest.approx(sum(losses) / 180, rel=1e-4)
    assert not torch.allclose(trained.state.buffer, without.state.buffer, atol=1e-3)


def dropout_net(seed: int) -> nn.Module:
    return seeded_small_net(seed, dropout=0.3)


def learners_with_shared_data(make: Callable[[int], nn.Module]) -> list[Learner]:
    """Return two learners, each of the network for its peer, that follow the data order of peer 1."""
    settings = TrainingSettings(batch_size=32, lr=0.05, precision="float32")
    return [
        Learner(
            make(peer),
            few_digits().train,
            settings,
            Classification(),
            lr=lambda _: 0.05,
            seed=7,
            peer=peer,
            device=CPU,
            data_peer=1,
        )
        for peer in range(2)
    ]


def test_two_learners_in_lockstep_equal_a_plain_loop_over_both() -> None:
    def divergence(own: Tensor, other: Tensor) -> Tensor:
        share = other.softmax(1)
        return (share * (share.log() - own.log_softmax(1))).sum(1).mean()

    learners, networks = learners_with_shared_data(dropout_net), [dropout_net(peer) for peer in range(2)]
    for peer, learner in enumerate(learners):
        learner.mutual_term = lambda logits, all_logits, other=1 - peer: divergence(logits, all_logits[other])
    optimizers = [plain_sgd(network) for network in networks]
    for epoch in range(2):
        collectives = [learner.epoch_steps() for learner in learners]
        yielded = [next(collective) for collective in collectives]
        batches = few_digits().train.training_batches(32, derive(7, "data", 1, epoch), CPU)
        for batch, (pixels, labels) in enumerate(batches):
            logits = []
            for peer, network in enumerate(networks):
                with seeded(derive(7, "dropout", peer, epoch, batch), CPU):
                    logits.append(network(pixels))
            assert all(torch.allclose(own, expected, atol=1e-2) for own, expected in zip(yielded, logits, strict=True))
            for peer, optimizer in enumerate(optimizers):
                optimizer.zero_grad()
                loss = functional.cross_entropy(logits[peer], labels)
                (loss + divergence(logits[peer], logits[1 - peer].detach())).backward(retain_graph=True)
                optimizer.step()
            torch.rand(7)  # draws in between have no effect
            all_logits, yielded, results = torch.stack(yielded), [], []
            for collective in collectives:
                try:
                    yielded.append(collective.send(all_logits))
                except StopIteration as done:
                    results.append(done.value)
        assert [(metrics.num_images, metrics.lr) for metrics in results] == [(180, 0.05)] * 2
    for learner, network in zip(learners, networks, strict=True):
        assert learner.epoch == 2
        assert_close(learner, network)


def test_train_epoch_with_a_mutual_term_is_refused() -> None:
    learner = make_learner(seeded_small_net())
    learner.mutual_term = lambda logits, all_logits: logits.sum() * 0
    with pytest.raises(RuntimeError, match=r"^Learner\.train_epoch: [^\n]+ epoch_steps$"):
        learner.train_epoch()


def test_masked_zeros_stay_and_the_rest_trains() -> None:
    filters, features = torch.ones(16, 1, 1, 1), torch.ones(1, 256)
    filters[[2, 5]], features[:, ::3] = 0.0, 0.0
    masks = {"0.weight": filters, "6.weight": features}
    learner, network = make_learner(seeded_small_net(), schedule="constant"), seeded_small_net()
    for each in (learner.network, network):
        each.state_dict()["1.bias"].fill_(0.1)  # or no gradient would reach a channel of zeros through the ReLU
        for name, mask in masks.items():
            each.state_dict()[name].mul_(mask)
    learner.mask_gradients(masks)
    optimizer = plain_sgd(network)
    for epoch in range(2):
        learner.train_epoch()
        for pixels, labels in few_digits().train.training_batches(32, derive(0, "data", 0, epoch), CPU):
            optimizer.zero_grad()
            functional.cross_entropy(network(pixels), labels).backward()
            optimizer.step()
            for name, mask in masks.items():  # as if the masked weights had never changed
                parameter = network.get_parameter(name)
                assert (parameter.data * (1 - mask)).any()
                parameter.data.mul_(mask)
                optimizer.state[parameter]["momentum_buffer"].mul_(mask)
    for name, mask in masks.items():
        momentum = learner.momentum(name)
        assert momentum is not None
        for tensor in (learner.state[name], momentum):
            assert not (tensor * (1 - mask)).any(), name
            assert tensor[mask.expand_as(tensor) > 0].any(), name
    assert_close(learner, network)


def test_new_masks_replace_earlier_ones() -> None:
    learner, free = make_learner(seeded_small_net()), make_learner(seeded_small_net())
    learner.mask_gradients({"0.weight": torch.zeros(16, 1, 1, 1)})
    learner.mask_gradients({"6.bias": torch.zeros(10)})
    before = copied(learner.network.state_dict())
    learner.train_epoch()
    after = learner.network.state_dict()
    assert not torch.equal(after["0.weight"], before["0.weight"])
    momentum = learner.momentum("6.bias")
    assert momentum is not None
    assert momentum.abs().max() < 0.01 * before["6.bias"].abs().max()  # weight decay alone
    learner, before = make_learner(seeded_small_net()), {}
    learner.mask_gradients({"6.bias": torch.zeros(10)})
    learner.mask_gradients(before)
    learner.train_epoch()
    free.train_epoch()
    assert same_bits(learner.state_dict(), free.state_dict())


def test_masks_of_parameters_without_gradient_are_ignored() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.used = nn.Conv2d(3, 4, 1), seeded_small_net()

        def forward(self, images: Tensor) -> Tensor:
            return self.used(images)

    learner = make_learner(Unused())
    learner.state["used.0.weight"].zero_()
    learner.mask_gradients({"unused.weight": torch.zeros(4, 1, 1, 1), "used.0.weight": torch.zeros(16, 1, 1, 1)})
    learner.train_epoch()
    assert not learner.state["used.0.weight"].any()
    assert learner.state["used.6.bias"].any()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_recalibrated_statistics_are_the_mean_over_the_batches(dropout: float) -> None:
    learner = make_learner(seeded_small_net(0, dropout), peer=3, seed=7)
    learner.train_epoch()
    before = copied(learner.state_dict())
    for is_training in (True, False):
        learner.network.train(is_training)
        random_state = torch.get_rng_state()
        learner.recalibrate()
        assert torch.equal(torch.get_rng_state(), random_state)
        assert learner.network.training == is_training
    convolution = learner.network.get_submodule("0")
    with torch.no_grad():
        outputs = [
            convolution(pixels)
            for pixels, _ in few_digits().train.training_batches(32, derive(7, "recalibration", 3), CPU)
        ]
    assert len(outputs) == 6
    means = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    variances = torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0)
    assert torch.allclose(learner.state["1.running_mean"], means, atol=1e-5)
    assert torch.allclose(learner.state["1.running_var"], variances, rtol=1e-4)
    after = learner.state_dict()
    statistics = {"network/1.running_mean", "network/1.running_var", "network/1.num_batches_tracked"}
    assert not torch.allclose(before["network/1.running_mean"], means, atol=1e-3)
    rest = after.keys() - statistics
    assert same_bits({name: after[name] for name in rest}, {name: before[name] for name in rest})


def norm_after_dropout(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 10),
        )


def test_recalibration_calls_the_network_as_the_task_does() -> None:
    class Halved(Classification):
        def forward(self, network: nn.Module, inputs: Tensor) -> Tensor:
            outputs: Tensor = network(inputs / 2)
            return outputs

    plain = make_learner(seeded_small_net())
    own = Learner(
        seeded_small_net(),
        few_digits().train,
        TrainingSettings(batch_size=32),
        Halved(),
        lr=lambda _: 0.05,
        seed=0,
        peer=0,
        device=CPU,
    )
    for learner in (plain, own):
        learner.recalibrate()
    assert torch.allclose(own.state["1.running_mean"], plain.state["1.running_mean"] / 2, atol=1e-6)


class FrozenNorm(nn.Module):
    """A network with one BatchNorm that stays in evaluation mode, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.unused, self.norm = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))
        for norm in (self.frozen, self.unused):
            norm.get_buffer("running_mean").fill_(0.5)
            norm.get_buffer("running_var").fill_(4.0)

    def train(self, mode: bool = True) -> "FrozenNorm":
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.frozen(images)))
        return logits


def test_recalibration_keeps_the_statistics_of_a_batchnorm_that_no_batch_changes() -> None:
    learner = make_learner(FrozenNorm())
    before = copied(learner.state_dict())
    learner.recalibrate()
    after = learner.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {f"network/norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}


@pytest.mark.parametrize("with_batchnorm", [True, False])
def test_recalibration_covers_an_instance_norm_with_running_statistics(with_batchnorm: bool) -> None:
    norm, plain = nn.InstanceNorm2d(3, momentum=0.3, track_running_stats=True), nn.InstanceNorm2d(3, affine=True)
    layers = [norm, plain, *([nn.BatchNorm2d(3)] if with_batchnorm else [])]
    learner = make_learner(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)))
    learner.state["0.running_mean"].fill_(0.5)
    learner.state["0.running_var"].fill_(4.0)
    learner.network.eval()
    learner.recalibrate()
    assert not learner.network.training
    batches = [pixels for pixels, _ in few_digits().train.training_batches(32, derive(0, "recalibration", 0), CPU)]
    means = torch.stack([pixels.mean((0, 2, 3)) for pixels in batches]).mean(0)
    variances = torch.stack([pixels.var((2, 3)).mean(0) for pixels in batches]).mean(0)
    assert torch.allclose(learner.state["0.running_mean"], means, atol=1e-5)
    assert torch.allclose(learner.state["0.running_var"], variances, rtol=1e-4)
    assert (norm.momentum, plain.momentum) == (0.3, 0.1)


def test_recalibration_with_dropout_is_reproducible_bit_for_bit() -> None:
    states = []
    for random_state in (1, 2):
        learner = make_learner(norm_after_dropout())
        learner.train_epoch()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_state)
            learner.recalibrate()
        states.append(copied(learner.state_dict()))
    assert same_bits(*states)


def test_recalibration_shares_data_order_but_not_dropout() -> None:
    learners = learners_with_shared_data(lambda peer: norm_after_dropout())
    for learner in learners:
        learner.recalibrate()
    own = make_learner(norm_after_dropout(), seed=7, peer=0)  # follows the data order of peer 0
    own.recalibrate()
    before_dropout, after_dropout = (
        [learner.state[f"{norm}.running_mean"] for learner in (*learners, own)] for norm in (1, 5)
    )
    assert torch.equal(before_dropout[0], before_dropout[1])
    assert not torch.allclose(before_dropout[0], before_dropout[2], atol=1e-5)
    assert not torch.allclose(after_dropout[0], after_dropout[1], atol=1e-5)


def test_learner_continues_at_another_epoch_without_momentum() -> None:
    learner = make_learner(seeded_small_net())
    learner.train_epoch()
    name = next(iter(dict(learner.network.named_parameters())))
    momentum = learner.momentum(name)
    assert momentum is not None
    assert momentum.any()
    learner.continue_at(7)
    assert learner.epoch == 7
    assert learner.momentum(name) is None
