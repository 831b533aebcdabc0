"""What to know before two variants are compared: missing trials, unequal compute, another schedule."""

from collections.abc import Iterator
from functools import reduce

from graftpop.comparison.difference import Difference
from graftpop.settings import Settings

__all__ = ["compute_warnings", "pairing_warnings", "schedule_warnings", "trial_warnings"]

EQUAL_COMPUTE = 0.01
"""Share of the baseline's images by which another variant's may differ without a warning."""

SCHEDULE_KEYS = (
    "training.lr",
    "training.momentum",
    "training.weight_decay",
    "training.schedule",
    "training.batch_size",
    "training.precision",
    "population.diversity",
    "swa.lr",
)
"""What moves accuracy by itself: variants that differ in it show more than the difference of their methods."""


def trial_warnings(num_missing: int, num_trials: int) -> Iterator[str]:
    """Yield what is missing of a variant's trials."""
    if num_missing:
        yield f"{num_missing} of {num_trials} trials not completed"


def pairing_warnings(difference: Difference | None) -> Iterator[str]:
    """Yield why a difference has no interval, or one that says nothing."""
    num_pairs = 0 if difference is None else difference.n
    if difference is None or difference.interval is None:
        yield f"{num_pairs} seed{'s' * (num_pairs != 1)} in common with the baseline, and an interval needs 2"
    elif difference.interval[0] == difference.interval[1]:
        yield f"all {num_pairs} differences are equal, so the interval has no width and says nothing of chance"


def compute_warnings(images: float | None, of_baseline: float | None, baseline: str) -> Iterator[str]:
    """Yield whether two variants trained on another number of images."""
    if images is not None and of_baseline is not None and abs(images - of_baseline) > EQUAL_COMPUTE * of_baseline:
        yield (
            f"compute is not equal: {images:,.0f} images trained against {of_baseline:,.0f} of {baseline} "
            f"({100 * (images / of_baseline - 1):+.3g} %)"
        )


def schedule_warnings(settings: Settings, of_baseline: Settings, baseline: str) -> Iterator[str]:
    """Yield in what the training of two variants differs beyond their methods."""
    pairs = ((key, _shown(settings, key), _shown(of_baseline, key)) for key in SCHEDULE_KEYS)
    differing = [f"{key} is {value} and not {other}" for key, value, other in pairs if value != other]
    if differing:
        yield f"trained otherwise than {baseline}: {', '.join(differing)}"


def _shown(settings: Settings, key: str) -> str:
    """Return the value of a dotted key as text; null where its section is absent."""
    value = reduce(lambda section, name: None if section is None else getattr(section, name), key.split("."), settings)
    return "null" if value is None else str(value)
