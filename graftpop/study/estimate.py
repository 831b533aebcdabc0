"""An estimate of a study's duration, from a few batches of each network that its trials train."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from time import perf_counter as clock

import torch
from torch import Tensor

from graftpop.data import Splits, load_splits
from graftpop.data.images import Images
from graftpop.errors import GraftpopError, ModelError, describe_exception
from graftpop.peer.components import named_components
from graftpop.peer.learning import make_learner
from graftpop.seeds import derive, seeded
from graftpop.settings import Settings
from graftpop.tasks.find import num_outputs

__all__ = ["Estimate", "PlannedTrial", "about", "estimate"]

TIMING_S = 10.0
"""Limit of the seconds spent on timing, unless single batches take longer."""

MOST_BATCHES = 5
"""Batches timed per network, after two small ones."""

FEW_IMAGES = 8
"""Size of the small batches, which stand for a whole batch that would take too long."""

UNITS = (("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400))
"""Units of time in seconds."""


@dataclass(frozen=True)
class PlannedTrial:
    """One trial as the cluster will run it.

    Attributes:
        settings: the trial's settings.
        device: torch device of its peers.
        num_threads: cores of each process.
        num_at_once: number of peers of such trials that train at once.
    """

    settings: Settings
    device: str
    num_threads: int
    num_at_once: int


@dataclass(frozen=True)
class Estimate:
    """The duration of a study.

    Attributes:
        seconds: duration of all trials, without exchanges, teachers and the start of processes.
        batch_s: seconds that the slowest network needs to train on a batch.
        batch_size: images of that batch.
        num_at_once: peers that train at once.
    """

    seconds: float
    batch_s: float
    batch_size: int
    num_at_once: int


def estimate(trials: Sequence[PlannedTrial], num_trials: int) -> Estimate:
    """Return the estimated duration of a study, extrapolated from timed batches.

    Args:
        trials: some of its trials, at least one; their mean stands for the others.
        num_trials: number of all trials.

    Raises:
        ModelError: a network cannot train on a batch.
        DataError: the data cannot be read.
    """
    by_images = {_images(trial.settings): trial.settings for trial in trials}
    splits = {
        images: load_splits(settings.data, seed=settings.seed, task=settings.task, augmentation=settings.augmentation)
        for images, settings in by_images.items()
    }
    by_kind = {_kind(trial): trial for trial in trials}
    limit_s = TIMING_S / (2 * len(by_kind))
    image_s = {kind: _image_s(trial, splits[kind[0]], limit_s) for kind, trial in by_kind.items()}
    peer_s = [_peer_s(trial, splits[_kind(trial)[0]], *image_s[_kind(trial)]) for trial in trials]
    shares = [trial.settings.trained_epochs / trial.settings.num_epochs / trial.num_at_once for trial in trials]
    mean_s = fmean(seconds * share for seconds, share in zip(peer_s, shares, strict=True))
    slowest = max(trials, key=lambda trial: image_s[_kind(trial)][0] * trial.settings.training.batch_size)
    batch_size = slowest.settings.training.batch_size
    return Estimate(
        max(num_trials * mean_s, *peer_s),
        batch_size * image_s[_kind(slowest)][0],
        batch_size,
        max(trial.num_at_once for trial in trials),
    )


def about(seconds: float) -> str:
    """Return a duration in the unit that suits it, rounded to a whole number.

    >>> about(0.2), about(95), about(10800), about(25 * 86400 + 1)
    ('less than a second', 'about 95 seconds', 'about 3 hours', 'about 25 days')
    """
    if seconds < 1:
        return "less than a second"
    unit, size = next((unit, size) for unit, size in UNITS if seconds < 100 * size or unit == "day")
    return f"about {seconds / size:,.0f} {unit}{'s' * (round(seconds / size) != 1)}"


def _kind(trial: PlannedTrial) -> tuple[str, ...]:
    """Return a value that is equal for trials whose batches take equally long; it begins with that of `_images`."""
    settings, training = trial.settings, trial.settings.training
    arithmetic = (training.precision, training.deterministic, trial.device, trial.num_threads)
    return _images(settings), *map(str, (settings.model, training.batch_size, *arithmetic))


def _images(settings: Settings) -> str:
    """Return a value that is equal for settings whose images take equally long."""
    augmentation = settings.augmentation
    strengths = (augmentation.color_jitter, augmentation.erasing, augmentation.mixup, augmentation.cutmix)
    return str((settings.data, augmentation.policy, augmentation.num_ops, [strength > 0 for strength in strengths]))


def _peer_s(trial: PlannedTrial, splits: Splits, train_image_s: float, evaluation_image_s: float) -> float:
    """Return the seconds in which one peer of a trial trains and is evaluated."""
    settings = trial.settings
    train_s = settings.num_epochs * splits.train.num_images * train_image_s
    evaluated = settings.num_rounds * splits.val.num_images + splits.test.num_images
    return train_s + evaluated * evaluation_image_s


def _image_s(trial: PlannedTrial, splits: Splits, limit_s: float) -> tuple[float, float]:
    """Return the seconds per image of training and of evaluation."""
    settings = trial.settings
    train, val = _FirstBatches(splits.train, limit_s), _FirstBatches(splits.val, limit_s)
    components, num_threads = named_components(settings), torch.get_num_threads()
    torch.set_num_threads(trial.num_threads)
    try:
        with seeded(derive(settings.seed, "initialisation", 0), torch.device("cpu")):
            task = components.make_task(settings)
            network = components.make_network(num_outputs(task, splits))
        learner = make_learner(
            settings, 0, network, replace(splits, train=train), task, torch.device(trial.device), components
        )
        for _ in learner.epoch_steps():  # a mutual term is added by the peer: nothing is yielded
            pass
        learner.evaluate(val, exact=False)
    except GraftpopError:
        raise
    except Exception as error:  # a user-defined network may raise anything
        raise ModelError(
            f"model.name: '{settings.model.name}' must train on {settings.training.batch_size} images, got "
            f"{describe_exception(error)}; fix it, or choose a smaller training.batch_size"
        ) from error
    finally:
        torch.set_num_threads(num_threads)
    return train.image_s, val.image_s


class _FirstBatches:
    """The first batches of a split, with the time that training or evaluation takes on each.

    Args:
        images: the split.
        limit_s: seconds after which no further batch follows.

    Attributes:
        image_s: seconds per image.
    """

    def __init__(self, images: Images, limit_s: float) -> None:
        self.image_s = 0.0
        self._images, self._limit_s = images, limit_s

    @property
    def num_images(self) -> int:
        """How many images the whole split has."""
        return self._images.num_images

    def training_batches(self, batch_size: int, seed: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the first batches; see `Images`."""
        yield from self._timed(lambda size: self._images.training_batches(size, seed, device), batch_size, device)

    def evaluation_batches(self, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the first batches; see `Images`."""
        yield from self._timed(lambda size: self._images.evaluation_batches(size, device), batch_size, device)

    def _timed(
        self, batches_of: Callable[[int], Iterator[tuple[Tensor, Tensor]]], batch_size: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        end = clock() + self._limit_s
        for size, most in ((min(FEW_IMAGES, batch_size), 2), (batch_size, MOST_BATCHES)):
            image_s: list[float] = []
            before = clock()
            if before + batch_size * self.image_s > end:  # 0 before the small batches
                return
            for pixels, labels in batches_of(size):
                yield pixels, labels
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                now = clock()
                image_s.append((now - before) / len(labels))
                self.image_s = median(image_s[1:] or image_s)  # the first one warms up
                if len(image_s) == most or 2 * now - before > end:
                    break
                before = now
