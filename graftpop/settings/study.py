"""What is searched for, how, and with what."""

from typing import Annotated, Literal

from pydantic import Field

from graftpop.settings.section import Auto, Count, Section

__all__ = ["ResourceSettings", "TuneSettings"]


class TuneSettings(Section):
    """What Ray Tune looks for, and how."""

    metric: Literal["val_accuracy"] = "val_accuracy"
    """val_accuracy: the validation accuracy of a population's output."""

    mode: Literal["max"] = "max"
    """max: the highest is the best."""

    num_samples: Count | None = None
    """Trials; not with search: grid, which runs them all. null: 10, or all of the grid."""

    search: Literal["optuna", "random", "grid"] = "optuna"
    """optuna (TPE), random, or grid. With variants or seeds it is grid."""

    scheduler: Literal["none", "asha", "pbt"] = "none"
    """none, asha: stops the worse two thirds at a ninth and at a third of the rounds, from the 5th round on, or pbt,
    with search: random."""

    max_failures: Annotated[int, Field(ge=0)] = 3
    """How often a trial whose process or whose node was lost goes on from its last round."""

    trackers: list[Literal["wandb", "mlflow", "comet", "aim"]] = Field(default=[])
    """Trackers that each trial is logged to beside TensorBoard (docs/tracking.md)."""

    optuna_storage: str | None = None
    """Where optuna-dashboard finds the trials while they run: the URL of a database, such as sqlite:///study.db, or
    without :// the name of a file for Optuna's journal. A relative path begins in the run folder. null: nowhere."""


class ResourceSettings(Section):
    """What one peer asks of the cluster."""

    cpus_per_peer: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Auto = "auto"
    """Cores that a peer reserves. auto: one, or 1/n of one where all peers would not fit."""

    gpus_per_peer: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Auto = "auto"
    """Cards that a peer reserves. auto: one, or 1/n of one, where there are cards."""
