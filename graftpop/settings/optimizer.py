"""The section of the optimizer, a part of the section training."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from graftpop.settings.section import Section

__all__ = ["TIMM", "OptimizerSettings"]

TIMM = "timm:"
"""Prefix of the name of one of timm's optimizers."""


class OptimizerSettings(Section):
    """The optimizer; further keys are its arguments."""

    model_config = ConfigDict(extra="allow")

    name: (
        Literal["sgd", "adam", "adamw", "nadam", "radam", "adamax", "rmsprop", "adagrad", "adadelta", "muon"]
        | Annotated[str, Field(pattern=r"^timm:.+$")]
    ) = "sgd"
    """sgd has the argument nesterov; the others are torch's, with its arguments. muon trains the 2-d weights of hidden
    layers, AdamW the rest. timm:NAME is one of timm.optim, such as timm:lamb."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the optimizer by name; those that are null are left out."""
        return {name: value for name, value in (self.model_extra or {}).items() if value is not None}
