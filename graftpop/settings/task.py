"""The section of the task: what the networks learn, and how they are scored."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field

from graftpop.metrics import ACCURACY, Metric, Mode
from graftpop.settings.section import NotNegative, OnlyWith, Rate, Section, UserPart
from graftpop.user_code import PYTHON

__all__ = ["METRICS", "TaskSettings"]

METRICS: Final[Mapping[str, tuple[Metric, ...]]] = {
    "classification": (ACCURACY,),
    "recognition": (Metric("map"), Metric("rank1"), Metric("rank5"), Metric("rank10")),
}
"""The metrics of each task, the primary first."""

RECOGNITION: Final = OnlyWith("task.name", ("recognition",))


class TaskSettings(Section):
    """The task: what the networks learn, and how they are scored."""

    name: Literal["classification", "recognition"] | UserPart = "classification"
    """classification: the class of each image. recognition: the identity of an image among those of other images, by
    the distance of features; the identities of training and test are disjoint. python:MODULE.CLASS: a user-defined
    subclass of graftpop.Task."""

    label_smoothing: Annotated[Rate, OnlyWith("task.name", ("classification", "recognition"))] = 0.0
    """Share of the target probability that is spread evenly over all classes in the training loss."""

    triplet_weight: Annotated[NotNegative, RECOGNITION] = 0.0
    """Factor of the batch-hard triplet loss, which is added to the cross entropy; with it, a batch has
    images_per_identity images of each of its identities."""

    triplet_margin: Annotated[NotNegative, RECOGNITION] = 0.3
    """Margin of the triplet loss, in units of the Euclidean distance of features."""

    images_per_identity: Annotated[int, Field(ge=2), RECOGNITION] = 4
    """Images of each identity in a batch with the triplet loss; training.batch_size must be a multiple of it."""

    distance: Annotated[Literal["euclidean", "cosine"], RECOGNITION] = "euclidean"
    """Distance of features by which images are ranked. euclidean: of the features as they are. cosine: 1 minus the
    cosine of their angle."""

    metrics: Annotated[dict[str, Mode], Field(min_length=1)] | None = None
    """Metrics of a user-defined task with their modes, max or min, the primary first. null: as its class says; filled
    in when a study starts."""

    @property
    def is_user_defined(self) -> bool:
        """Whether the task is a class of the user."""
        return self.name.startswith(PYTHON)

    @property
    def all_metrics(self) -> tuple[Metric, ...]:
        """The task's metrics, the primary first.

        Raises:
            KeyError: those of a user-defined task are not filled in.
        """
        if self.metrics is not None:
            return tuple(Metric(name, mode) for name, mode in self.metrics.items())
        return METRICS[self.name]
