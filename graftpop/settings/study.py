"""What is searched for, how, and with what."""

from typing import Annotated, Literal

from pydantic import Field

from graftpop.settings.section import Auto, Count, Section

__all__ = ["ResourceSettings", "TuneSettings"]


class TuneSettings(Section):
    """What Ray Tune looks for, and how."""

    metric: Literal["val_accuracy"] = "val_accuracy"
    mode: Literal["max"] = "max"
    num_samples: Count | None = None        # trials; None: 10, or the whole product where search is grid
    search: Literal["optuna", "random", "grid"] = "optuna"
    scheduler: Literal["none", "asha", "pbt"] = "none"
    max_failures: Annotated[int, Field(ge=0)] = 3   # how often a trial that was lost goes on from its last round


class ResourceSettings(Section):
    """What one peer asks of the cluster."""

    cpus_per_peer: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Auto = "auto"
    gpus_per_peer: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Auto = "auto"
