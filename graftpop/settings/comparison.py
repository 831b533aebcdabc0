"""The top-level keys that make a space a comparison: variants, seeds, baseline, compare and published."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from graftpop.settings.section import Name, Percent, Section, Seed

__all__ = ["Accounting", "CompareSettings", "ComparisonSettings", "PublishedScore", "PublishedSettings"]

Accounting = Literal["images", "epochs", "time"]


def _distinct(seeds: list[int]) -> list[int]:
    if len({*seeds}) < len(seeds):
        raise PydanticCustomError("distinct", "distinct whole numbers")
    return seeds


class CompareSettings(Section):
    """The accounting at which variants are compared."""

    equal: Accounting = "images"
    """The cost that all variants have in common. The report warns of a variant that differs from the baseline by more
    than 1 %. images: images that all peers together train on, with their teachers'. epochs: epochs of each network, as
    in the papers. time: training time with one device per peer, by the images of the peer that trains on most."""


class PublishedScore(Section):
    """One score of a paper; further keys are searched keys with the values for which it was published."""

    model_config = ConfigDict(extra="allow")

    variant: str
    """Name of the variant."""

    percent: Percent
    """Mean test score, the task's primary metric, in percent: accuracy, or mAP of recognition."""

    std: Percent | None = None
    """Standard deviation of the test score, in percent. null: not published."""


class PublishedSettings(Section):
    """Published scores to show next to the measured ones."""

    source: Annotated[str, Field(pattern=r"\S")]
    """Paper and table."""

    scores: list[PublishedScore]
    """List of scores."""


class ComparisonSettings(Section):
    """The keys that make a space a comparison."""

    variants: Annotated[dict[Name, dict[str, Any] | None], Field(min_length=1)] | None = None
    """Named settings, each laid over the common ones and run; null turns a section off."""

    seeds: (
        Annotated[list[Seed], Field(min_length=1, json_schema_extra={"uniqueItems": True}), AfterValidator(_distinct)]
        | None
    ) = None
    """Seeds that replace seed, with or without variants; every variant runs with every seed."""

    baseline: str | None = None
    """Name of the variant that the others are compared with. null: the first."""

    compare: CompareSettings | None = None
    """The accounting at which variants are compared. null: equal images."""

    published: PublishedSettings | None = None
    """Scores of a paper, in percent, to show next to the measured ones. Each row names a variant and the values of
    searched keys."""
