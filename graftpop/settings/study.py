"""Sections of the study: the search and the resources."""

from typing import Annotated, Literal

from pydantic import Field

from graftpop.settings.section import Auto, Count, Section

__all__ = ["ResourceSettings", "TuneSettings"]


class TuneSettings(Section):
    """The search by Ray Tune: sampler, scheduler, number of trials, retries and trackers."""

    metric: Literal["val_accuracy"] = "val_accuracy"
    """val_accuracy: the validation accuracy of the population's output."""

    mode: Literal["max"] = "max"
    """max: the trial with the highest metric is the best."""

    num_samples: Count | None = None
    """Number of trials; must be null with search grid. null: 10, or every combination of a grid."""

    search: Literal["optuna", "random", "grid"] = "optuna"
    """optuna: Optuna's TPE sampler. random: independent random samples. grid: every combination of values; implied by
    variants and seeds."""

    scheduler: Literal["none", "asha", "pbt"] = "none"
    """none: every trial runs to its end. asha: stops the worse two thirds of the trials at a ninth and at a third of
    the rounds, but not before round 5. pbt: population based training, in which the worst trials continue from the best
    ones with changed settings; needs search random."""

    max_failures: Annotated[int, Field(ge=0)] = 3
    """How often a trial is retried from its last round after its process or its node is lost."""

    trackers: list[Literal["wandb", "mlflow", "comet", "aim"]] = Field(default=[])
    """Experiment trackers to which each trial is logged, in addition to TensorBoard (docs/tracking.md)."""

    optuna_storage: str | None = None
    """Where to write the trials for optuna-dashboard while they run: a database URL such as sqlite:///study.db, or the
    path of an Optuna journal file. Relative paths start in the run folder. null: nowhere."""


class ResourceSettings(Section):
    """Resources that each peer reserves on the cluster."""

    cpus_per_peer: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Auto = "auto"
    """CPU cores per peer. auto: 1, or 1/n if all peers would not fit otherwise."""

    gpus_per_peer: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Auto = "auto"
    """GPUs per peer. auto: 1, or 1/n if all peers would not fit otherwise; 0 on a cluster without GPUs."""
