"""Sections of the study: the search and the resources."""

from typing import Annotated, Any, Literal

from pydantic import Field

from graftpop.metrics import Mode
from graftpop.settings.section import Auto, Count, Section

__all__ = ["ResourceSettings", "TuneSettings"]


class TuneSettings(Section):
    """The search by Ray Tune: sampler, scheduler, number of trials, retries and trackers."""

    metric: str | Annotated[list[str], Field(min_length=1)] = "auto"
    """auto: the task's primary metric on the validation split, of the population's output; it can also be named, such
    as val_accuracy. flops and parameters: FLOPs per image and parameters of one network, after filters were removed. A
    list searches for the best trade-offs between its metrics; the primary metric must be one of them, and selects the
    best trial."""

    mode: Mode | Auto | Annotated[list[Mode], Field(min_length=1)] = "auto"
    """max: higher is better. min: lower is better. auto: as the task says, and min for flops and parameters. A list has
    one item for each metric."""

    num_samples: Count | None = None
    """Number of trials; must be null with sampler grid. null: 10, every combination of a grid, or 1 if
    nothing is searched."""

    sampler: Literal["tpe", "gp", "qmc", "random", "grid"] = "tpe"
    """tpe: tree-structured Parzen estimator; suits choices and keys that depend on others. gp: Gaussian process, for up
    to 300 trials. qmc: scrambled Sobol sequence. All are Optuna's; tpe and gp draw the first trials at random, at most
    10 and at most half. random: independent samples. grid: every combination; implied by variants and seeds."""

    first: list[dict[str, Any]] | None = None
    """Values to try first, as maps from searched keys such as {graft.A: 0.4, graft.c: 500}; keys that a map omits are
    sampled. null: the published graft.A and graft.c, if they are searched and lie in their domains."""

    scheduler: Literal["none", "asha", "pbt"] = "none"
    """none: every trial runs to its end. asha: stops the worse two thirds of the trials at a ninth and at a third of
    the rounds, but not before round 5. pbt: population based training, in which the worst trials continue from the best
    ones with changed settings; needs sampler random."""

    max_failures: Annotated[int, Field(ge=0)] = 3
    """How often a trial is retried from its last round after its process or its node is lost."""

    keep: Literal["all", "best"] = "all"
    """Trials whose networks stay in the run folder. best: once a trial is completed, only those of the best one, or of
    the Pareto front; other trials that have ended keep their tables and scores. Not with scheduler pbt, whose trials
    continue from each other."""

    trackers: list[Literal["wandb", "mlflow", "comet", "aim"]] = Field(default=[])
    """Experiment trackers to which each trial is logged, in addition to TensorBoard (docs/tracking.md)."""

    optuna_storage: str | None = None
    """Where to write the trials for optuna-dashboard while they run: a database URL such as sqlite:///study.db, or the
    path of an Optuna journal file. Relative paths start in the run folder. A password is masked in all records, so
    --resume takes the URL from GRAFTPOP_STORAGE_URL. null: nowhere."""

    @property
    def metric_names(self) -> list[str]:
        """The metrics as a list, `auto` among them."""
        return self.metric if isinstance(self.metric, list) else [self.metric]


class ResourceSettings(Section):
    """Resources that each peer reserves on the cluster."""

    cpus_per_peer: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Auto = "auto"
    """CPU cores per peer. auto: 1, or 1/n if all peers would not fit otherwise."""

    gpus_per_peer: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Auto = "auto"
    """GPUs per peer. auto: 1, or 1/n if all peers would not fit otherwise; 0 on a cluster without GPUs."""
