"""Warnings about a comparison: missing trials, unequal compute, different training."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

from graftpop.comparison.difference import Difference
from graftpop.settings import Accounting, AugmentationSettings, Settings

__all__ = [
    "EQUAL_COMPUTE",
    "compute_warnings",
    "early_end_warnings",
    "pairing_warnings",
    "schedule_warnings",
    "trial_warnings",
]

EQUAL_COMPUTE = 0.01
"""Largest difference from the baseline's images or epochs without a warning, as a share of these."""

UNITS: Mapping[Accounting, str] = {
    "images": "images trained",
    "epochs": "epochs per peer",
    "time": "images with one device per peer",
}
"""The unit of the number that must be equal, by accounting."""

SCHEDULE_KEYS = (
    "training.lr",
    "training.optimizer",
    "training.momentum",
    "training.weight_decay",
    "training.decay_norm_and_bias",
    "training.schedule",
    "training.warmup_epochs",
    "training.decay_epochs",
    "training.decay_rate",
    "training.min_lr",
    "training.clip_grad_norm",
    "training.batch_size",
    "training.accumulate",
    "training.precision",
    "training.keep",
    "data.label_noise",
    "task.label_smoothing",
    *(f"augmentation.{name}" for name in AugmentationSettings.model_fields),
    "model.pretrained",
    "model.checkpoint",
    "population.diversity",
    "swa.lr",
)
"""Keys that change a score by themselves: a difference in one is confounded with the difference between methods."""


def trial_warnings(num_missing: int, num_trials: int) -> Iterator[str]:
    """Yield a warning if trials of a variant have not completed."""
    if num_missing:
        yield f"{num_missing} of {num_trials} trials not completed"


def early_end_warnings(settings: Settings, epochs: Sequence[int]) -> Iterator[str]:
    """Yield a warning if `training.patience` ended trials, given the epochs per peer of the completed ones."""
    num_early = sum(own < settings.num_epochs for own in epochs)
    if num_early and settings.training.patience is not None:
        yield (
            f"training.patience ended {num_early} of {len(epochs)} trials early: mean {statistics.mean(epochs):.4g} of "
            f"{settings.num_epochs} epochs per peer"
        )


def pairing_warnings(difference: Difference | None) -> Iterator[str]:
    """Yield a warning if a difference has no interval, or one of zero width."""
    num_pairs = 0 if difference is None else difference.n
    if difference is None or difference.interval is None:
        yield f"{num_pairs} seed{'s' * (num_pairs != 1)} in common with the baseline; an interval needs 2"
    elif difference.interval[0] == difference.interval[1]:
        yield f"all {num_pairs} differences are equal, so the interval has zero width and does not reflect chance"


def compute_warnings(equal: Accounting, own: float | None, of_baseline: float | None, baseline: str) -> Iterator[str]:
    """Yield a warning if a variant and its baseline differ in the number that must be equal."""
    if own is not None and of_baseline is not None and abs(own - of_baseline) > EQUAL_COMPUTE * of_baseline:
        numbers = [f"{number:,.1f}".removesuffix(".0") for number in (own, of_baseline)]
        yield (
            f"{equal} {'is' if equal == 'time' else 'are'} not equal: {numbers[0]} {UNITS[equal]}, {numbers[1]} for "
            f"{baseline} ({100 * (own / of_baseline - 1):+.3g} %)"
        )


def schedule_warnings(settings: Settings, of_baseline: Settings, baseline: str) -> Iterator[str]:
    """Yield a warning if a variant and its baseline differ in `SCHEDULE_KEYS`."""
    pairs = ((key, _shown(settings, key), _shown(of_baseline, key)) for key in SCHEDULE_KEYS)
    differing = [f"{key} is {value}, not {other}" for key, value, other in pairs if value != other]
    if differing:
        yield f"training differs from {baseline}: {', '.join(differing)}"


def _shown(settings: Settings, key: str) -> str:
    """Return the value of a dotted key as text; null if its section is absent."""
    value = reduce(lambda section, name: None if section is None else getattr(section, name), key.split("."), settings)
    return "null" if value is None else str(value)
