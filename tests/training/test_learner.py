"""A learner: it learns, it can be repeated and resumed to the bit, and it leaves the process as it was."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from network_makers import copied, digits, few_digits, learner, same_bits, seeded_network, seeded_small_net
from torch import Tensor, nn
from torch.nn import functional

from graftpop.data import MemoryImages, Splits
from graftpop.errors import CheckpointError
from graftpop.seeds import derive, seeded
from graftpop.settings import TrainingSettings
from graftpop.training.learner import Learner
from graftpop.training.precision import training_dtype

CPU = torch.device("cpu")
MAKERS: dict[str, Callable[[int], nn.Module]] = {
    "small": seeded_small_net,
    "dropout": lambda seed: seeded_small_net(seed, dropout=0.5),
    "resnet8": lambda seed: seeded_network("resnet8", seed),
}


def first_images(count: int) -> Splits:
    """Return the few digits with as many training images."""
    splits = few_digits()
    assert isinstance(splits.train, MemoryImages)
    assert splits.train.rows is not None
    return replace(splits, train=replace(splits.train, rows=splits.train.rows[:count]))


def val_accuracy(one: Learner, splits: Splits) -> float:
    logits, labels = one.evaluate(splits.val)
    return (logits.argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_digits_are_learned_in_either_precision(precision: str) -> None:
    one = learner(seeded_small_net(), epochs=8, lr=0.1, batch_size=64, precision=precision, splits=digits())
    epochs = [one.train_epoch() for _ in range(8)]
    assert epochs[-1].loss < 0.5 * epochs[0].loss
    assert epochs[-1].accuracy > 0.85
    assert val_accuracy(one, digits()) > 0.85
    assert one.state.buffer.dtype == torch.float32


def test_bfloat16_changes_the_arithmetic_of_training() -> None:
    states = []
    for precision in ("float32", "bfloat16"):
        one = learner(seeded_small_net(), precision=precision)
        one.train_epoch()
        states.append(one.state.buffer.clone())
    assert not torch.equal(*states)
    assert torch.allclose(*states, atol=0.1)


def test_an_epoch_equals_a_plain_loop_with_torchs_own_optimizer_and_scheduler() -> None:
    train, network = few_digits().train, seeded_small_net()
    one = learner(seeded_small_net(), peer=3, seed=7, epochs=2, lr=0.1, schedule="cosine")
    metrics = [one.train_epoch(), one.train_epoch()]

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
        assert torch.allclose(one.network.state_dict()[name], tensor, rtol=1e-2, atol=1e-4), name


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.05)])
@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
def test_losses_are_those_of_a_plain_loop_in_torchs_default_layout_on_the_same_batches(
    name: str, precision: str, tolerance: float
) -> None:
    """What is done for speed (layout, arithmetic, one buffer, in-place activations) leaves the losses what they are."""
    one = learner(seeded_network(name), lr=0.02, schedule="constant", precision=precision)
    network = seeded_network(name)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    for epoch in range(2):
        losses = []
        for pixels, labels in few_digits().train.training_batches(32, derive(0, "data", 0, epoch), CPU):
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(pixels.contiguous()), labels)
            loss.backward()
            optimizer.step()
            losses += [loss.item()] * len(labels)
        assert one.train_epoch().loss == pytest.approx(sum(losses) / len(losses), rel=tolerance)


@pytest.mark.parametrize("maker", MAKERS)
def test_training_can_be_repeated_to_the_bit(maker: str) -> None:
    states = []
    for _ in range(2):
        one = learner(MAKERS[maker](0))
        one.train_epoch()
        torch.rand(7)  # what others draw in between plays no part
        one.train_epoch()
        states.append(copied(one.state_dict()))
    assert same_bits(*states)


@pytest.mark.parametrize("maker", ["small", "dropout"])
def test_peers_and_seeds_see_the_data_in_other_orders(maker: str) -> None:
    buffers = []
    for peer, seed in [(0, 0), (1, 0), (0, 1)]:
        one = learner(MAKERS[maker](0), peer=peer, seed=seed)
        one.train_epoch()
        buffers.append(one.state.buffer.clone())
    assert not any(torch.equal(buffers[i], buffers[j]) for i, j in [(0, 1), (0, 2), (1, 2)])


def test_dropout_differs_from_peer_to_peer_and_epoch_to_epoch() -> None:
    """With one batch of one image over and over, never shifted, only dropout is left to differ."""
    splits = first_images(1)
    assert isinstance(splits.train, MemoryImages)
    assert splits.train.rows is not None
    recipe = replace(splits.recipe, crop_padding=0, flip=False)
    splits = replace(splits, train=replace(splits.train, recipe=recipe, rows=splits.train.rows.repeat(16)))
    losses = []
    for peer in (0, 1):
        one = learner(seeded_small_net(0, dropout=0.5), peer=peer, lr=1e-12, schedule="constant", splits=splits)
        losses += [one.train_epoch().loss for _ in range(2)]
    assert len({round(loss, 4) for loss in losses}) == 4


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_resumed_learner_gives_the_bits_of_one_that_never_stopped(maker: str, after: int) -> None:
    undisturbed = learner(MAKERS[maker](0))
    metrics = [undisturbed.train_epoch() for _ in range(4)]

    stopped = learner(MAKERS[maker](0))
    for _ in range(after):
        stopped.train_epoch()
    state = copied(stopped.state_dict())
    stopped.train_epoch()  # nothing that happens later may reach the state

    resumed = learner(MAKERS[maker](5))
    resumed.train_epoch()
    resumed.load_state_dict(state)
    assert resumed.epoch == after
    again = [resumed.train_epoch() for _ in range(after, 4)]
    assert same_bits(resumed.state_dict(), undisturbed.state_dict())
    assert [(one.loss, one.accuracy, one.lr) for one in again] == [
        (one.loss, one.accuracy, one.lr) for one in metrics[after:]
    ]


def test_the_state_holds_the_network_the_momentum_and_the_epoch() -> None:
    one = learner(seeded_small_net())
    network = {f"network/{name}" for name in one.network.state_dict()}
    assert set(one.state_dict()) == network | {"epoch"}
    one.train_epoch()
    momentum = {f"momentum/{name}" for name, _ in one.network.named_parameters()}
    assert set(one.state_dict()) == network | momentum | {"epoch"}
    assert one.state_dict()["epoch"].item() == one.epoch == 1
    assert all(tensor.is_contiguous() for tensor in one.state_dict().values())


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("cosine", [0.05, 0.05 * 0.85355339, 0.025, 0.05 * 0.14644661]), ("step", [0.05] * 4), ("constant", [0.05] * 4)],
)
def test_the_learning_rate_that_an_epoch_begins_with_is_recorded(schedule: str, expected: list[float]) -> None:
    one = learner(seeded_small_net(), schedule=schedule, epochs=4, lr=0.05)
    assert [one.train_epoch().lr for _ in range(4)] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("count", "trained"), [(33, 32), (34, 34), (64, 64), (3, 3)])
def test_a_last_batch_of_one_image_is_left_out(count: int, trained: int) -> None:
    one = learner(seeded_small_net(), batch_size=32, splits=first_images(count))
    metrics = one.train_epoch()
    assert metrics.num_images == trained
    assert torch.isfinite(one.state.buffer).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_exact_evaluation_is_in_float32_whatever_training_was_in(precision: str) -> None:
    one = learner(seeded_small_net(), precision=precision)
    one.train_epoch()
    twin = seeded_small_net(1).eval()
    twin.load_state_dict(one.network.state_dict())
    logits, labels = one.evaluate(few_digits().val)
    with torch.no_grad():
        batches = [(twin(pixels), found) for pixels, found in few_digits().val.evaluation_batches(500, CPU)]
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, torch.cat([found for found, _ in batches]), rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, torch.cat([found for _, found in batches]))


def test_evaluation_that_need_not_be_exact_is_in_the_precision_of_training() -> None:
    exact, quick = {}, {}
    for precision in ("float32", "bfloat16"):
        one = learner(seeded_small_net(), precision=precision)
        exact[precision] = one.evaluate(few_digits().val)[0]
        quick[precision] = one.evaluate(few_digits().val, exactly=False)[0]
    assert torch.equal(quick["float32"], exact["float32"])
    assert torch.equal(exact["bfloat16"], exact["float32"])
    assert not torch.equal(quick["bfloat16"], exact["bfloat16"])
    assert torch.allclose(quick["bfloat16"], exact["bfloat16"], atol=0.05)


def test_evaluation_changes_nothing_and_can_be_repeated() -> None:
    one = learner(seeded_small_net(0, dropout=0.5))
    one.train_epoch()
    before = copied(one.state_dict())
    first, second = one.evaluate(few_digits().test)[0], one.evaluate(few_digits().test)[0]
    assert torch.equal(first, second)
    assert len(first) == few_digits().test.num_images
    assert same_bits(one.state_dict(), before)


@pytest.mark.parametrize(
    "other", [lambda: seeded_network("resnet8"), lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))]
)
def test_the_state_of_another_network_is_an_error(other: Callable[[], nn.Module]) -> None:
    one = learner(seeded_small_net())
    with pytest.raises(CheckpointError, match=r"^checkpoint: not one of this network: .+$"):
        one.load_state_dict(learner(other()).state_dict())


def test_torchs_own_random_state_is_left_alone() -> None:
    network = seeded_small_net(0, dropout=0.5)
    before = torch.get_rng_state()
    one = learner(network)
    one.train_epoch()
    one.evaluate(few_digits().val)
    one.load_state_dict(one.state_dict())
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_stay_views_of_the_buffer_through_training_and_loading() -> None:
    one = learner(seeded_small_net())
    one.train_epoch()
    one.load_state_dict(copied(one.state_dict()))
    one.train_epoch()
    weight: Tensor = one.network[0].weight
    assert weight.data_ptr() == one.state.buffer.data_ptr()
    assert torch.equal(one.state["0.weight"], weight)


def test_precision_can_be_chosen_or_left_to_the_hardware() -> None:
    assert training_dtype("float32", CPU) == torch.float32
    assert training_dtype("bfloat16", CPU) == torch.bfloat16
    assert training_dtype("auto", CPU) in (torch.float32, torch.bfloat16)


# terms of the loss, meeting with others, what is held, and statistics measured anew


def assert_close(one: Learner, network: nn.Module) -> None:
    for name, tensor in network.state_dict().items():
        assert torch.allclose(one.network.state_dict()[name], tensor, rtol=1e-3, atol=1e-4), name


def plain_sgd(network: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def test_terms_are_added_to_the_loss_of_every_step_and_not_to_the_record() -> None:
    def of_logits(logits: Tensor, pixels: Tensor) -> Tensor:
        return 0.01 * logits.square().mean() * len(pixels)

    def of_pixels(logits: Tensor, pixels: Tensor) -> Tensor:
        return (logits[:, 0] * pixels.mean((1, 2, 3))).mean()

    one, bare, network = (seeded_small_net() for _ in range(3))
    trained, without = (learner(each, schedule="constant") for each in (one, bare))
    trained.loss_terms += [of_logits, of_pixels]
    metrics, _ = trained.train_epoch(), without.train_epoch()
    optimizer, losses = plain_sgd(network), []
    for pixels, labels in few_digits().train.training_batches(32, derive(0, "data", 0, 0), CPU):
        optimizer.zero_grad()
        logits = network(pixels)
        of_labels = functional.cross_entropy(logits, labels)
        (of_labels + of_logits(logits, pixels) + of_pixels(logits, pixels)).backward()
        optimizer.step()
        losses += [of_labels.item()] * len(labels)
    assert_close(trained, network)
    assert metrics.loss == pytest.approx(sum(losses) / 180, rel=1e-4)
    assert not torch.allclose(trained.state.buffer, without.state.buffer, atol=1e-3)


def mutual_learners() -> list[Learner]:
    """Return two learners with dropout that see the second one's batches."""
    settings = TrainingSettings(batch_size=32, lr=0.05, precision="float32")
    return [
        Learner(
            seeded_small_net(peer, dropout=0.3),
            few_digits().train,
            settings,
            lr=lambda _: 0.05,
            seed=7,
            peer=peer,
            device=CPU,
            data_peer=1,
        )
        for peer in range(2)
    ]


def test_two_learners_that_meet_equal_a_plain_loop_over_both() -> None:
    def divergence(own: Tensor, other: Tensor) -> Tensor:
        share = other.softmax(1)
        return (share * (share.log() - own.log_softmax(1))).sum(1).mean()

    learners, networks = mutual_learners(), [seeded_small_net(peer, dropout=0.3) for peer in range(2)]
    for peer, one in enumerate(learners):
        one.mutual_term = lambda logits, everyone, other=1 - peer: divergence(logits, everyone[other])
    optimizers = [plain_sgd(network) for network in networks]
    for epoch in range(2):
        meetings = [one.epoch_steps() for one in learners]
        said = [next(meeting) for meeting in meetings]
        batches = few_digits().train.training_batches(32, derive(7, "data", 1, epoch), CPU)
        for batch, (pixels, labels) in enumerate(batches):
            logits = []
            for peer, network in enumerate(networks):
                with seeded(derive(7, "dropout", peer, epoch, batch), CPU):
                    logits.append(network(pixels))
            assert all(torch.allclose(ours, theirs, atol=1e-2) for ours, theirs in zip(said, logits, strict=True))
            for peer, optimizer in enumerate(optimizers):
                optimizer.zero_grad()
                loss = functional.cross_entropy(logits[peer], labels)
                (loss + divergence(logits[peer], logits[1 - peer].detach())).backward(retain_graph=True)
                optimizer.step()
            torch.rand(7)  # what others draw in between plays no part
            everyone, said, ended = torch.stack(said), [], []
            for meeting in meetings:
                try:
                    said.append(meeting.send(everyone))
                except StopIteration as done:
                    ended.append(done.value)
        assert [(metrics.num_images, metrics.lr) for metrics in ended] == [(180, 0.05)] * 2
    for one, network in zip(learners, networks, strict=True):
        assert one.epoch == 2
        assert_close(one, network)


def test_a_learner_that_meets_others_does_not_train_alone() -> None:
    one = learner(seeded_small_net())
    one.mutual_term = lambda logits, everyone: logits.sum() * 0
    with pytest.raises(RuntimeError, match=r"^Learner\.train_epoch: .+ use epoch_steps$"):
        one.train_epoch()


def test_what_is_held_at_zero_stays_zero_and_the_rest_trains_as_without() -> None:
    filters, features = torch.ones(16, 1, 1, 1), torch.ones(1, 256)
    filters[[2, 5]], features[:, ::3] = 0.0, 0.0
    masks = {"0.weight": filters, "6.weight": features}
    one, network = learner(seeded_small_net(), schedule="constant"), seeded_small_net()
    for each in (one.network, network):
        each.state_dict()["1.bias"].fill_(0.1)  # or no gradient would reach a channel of zeros through the ReLU
        for name, mask in masks.items():
            each.state_dict()[name].mul_(mask)
    one.mask_gradients(masks)
    optimizer = plain_sgd(network)
    for epoch in range(2):
        one.train_epoch()
        for pixels, labels in few_digits().train.training_batches(32, derive(0, "data", 0, epoch), CPU):
            optimizer.zero_grad()
            functional.cross_entropy(network(pixels), labels).backward()
            optimizer.step()
            for name, mask in masks.items():  # as if it had never moved
                parameter = network.get_parameter(name)
                assert (parameter.data * (1 - mask)).any()
                parameter.data.mul_(mask)
                optimizer.state[parameter]["momentum_buffer"].mul_(mask)
    for name, mask in masks.items():
        momentum = one.momentum(name)
        assert momentum is not None
        for tensor in (one.state[name], momentum):
            assert not (tensor * (1 - mask)).any(), name
            assert tensor[mask.expand_as(tensor) > 0].any(), name
    assert_close(one, network)


def test_what_is_held_next_replaces_what_was_held_before() -> None:
    one, free = learner(seeded_small_net()), learner(seeded_small_net())
    one.mask_gradients({"0.weight": torch.zeros(16, 1, 1, 1)})
    one.mask_gradients({"6.bias": torch.zeros(10)})
    before = copied(one.network.state_dict())
    one.train_epoch()
    after = one.network.state_dict()
    assert not torch.equal(after["0.weight"], before["0.weight"])
    momentum = one.momentum("6.bias")
    assert momentum is not None
    assert momentum.abs().max() < 0.01 * before["6.bias"].abs().max()  # weight decay alone
    one, before = learner(seeded_small_net()), {}
    one.mask_gradients({"6.bias": torch.zeros(10)})
    one.mask_gradients(before)
    one.train_epoch()
    free.train_epoch()
    assert same_bits(one.state_dict(), free.state_dict())


def test_what_is_held_may_stand_beside_what_has_no_gradient() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.used = nn.Conv2d(3, 4, 1), seeded_small_net()

        def forward(self, images: Tensor) -> Tensor:
            return self.used(images)

    one = learner(Unused())
    one.state["used.0.weight"].zero_()
    one.mask_gradients({"unused.weight": torch.zeros(4, 1, 1, 1), "used.0.weight": torch.zeros(16, 1, 1, 1)})
    one.train_epoch()
    assert not one.state["used.0.weight"].any()
    assert one.state["used.6.bias"].any()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_statistics_measured_anew_are_the_mean_over_the_batches(dropout: float) -> None:
    one = learner(seeded_small_net(0, dropout), peer=3, seed=7)
    one.train_epoch()
    before = copied(one.state_dict())
    for is_training in (True, False):
        one.network.train(is_training)
        random_state = torch.get_rng_state()
        one.recalibrate()
        assert torch.equal(torch.get_rng_state(), random_state)
        assert one.network.training == is_training
    convolution = one.network[0]
    with torch.no_grad():
        outputs = [
            convolution(pixels)
            for pixels, _ in few_digits().train.training_batches(32, derive(7, "recalibration", 3), CPU)
        ]
    assert len(outputs) == 6
    means = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    variances = torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0)
    assert torch.allclose(one.state["1.running_mean"], means, atol=1e-5)
    assert torch.allclose(one.state["1.running_var"], variances, rtol=1e-4)
    after = one.state_dict()
    statistics = {"network/1.running_mean", "network/1.running_var", "network/1.num_batches_tracked"}
    assert not torch.allclose(before["network/1.running_mean"], means, atol=1e-3)
    rest = after.keys() - statistics
    assert same_bits({name: after[name] for name in rest}, {name: before[name] for name in rest})


def test_statistics_measured_anew_behind_dropout_can_be_repeated_to_the_bit() -> None:
    states = []
    for random_state in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            one = learner(
                nn.Sequential(
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
            )
            one.train_epoch()
            torch.manual_seed(random_state)
            one.recalibrate()
        states.append(copied(one.state_dict()))
    assert same_bits(*states)
