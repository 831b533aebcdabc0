"""The settings of one population, validated: what a trial runs with once every searched value is fixed.

Each class is one section of the YAML. Structure, kinds and ranges are checked here; names that stand in a table
beside their functions (models, data sets, schedules, topologies) and rules between sections in `space.py`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DataSettings", "GraftSettings", "ModelSettings", "PopulationSettings", "ResourceSettings", "Settings",
           "TrainingSettings", "TuneSettings"]

Auto = Literal["auto"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the settings: frozen, no unknown keys, no silent conversion (`"3"` is not 3)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataSettings(Section):
    """Which images, and how they are split and varied."""

    name: str = "cifar10"
    root: str | None = None                 # folder of the data; None: where the data set is looked for by itself
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1   # share of the training images held out for selection
    limit: Count | None = None              # training images in use (validation included); None: all
    label: str | None = None                # parquet: name of the label column; None: found from the schema
    crop_padding: Annotated[int, Field(ge=0)] | Auto = "auto"  # pixels of shift in training; auto: the data set's own
    flip: bool | Auto = "auto"              # mirror in training; auto: the data set's own


class ModelSettings(Section):
    """Which network every peer is."""

    name: str = "resnet32"


class TrainingSettings(Section):
    """How one peer trains: SGD with momentum and weight decay."""

    epochs: Count = 200
    batch_size: Annotated[int, Field(ge=2)] = 128
    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-4
    schedule: str = "step"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class PopulationSettings(Section):
    """How many peers, how they differ, and when they meet."""

    num_peers: Count = 2
    topology: str = "ring"
    epochs_per_round: Count = 1
    diversity: Literal["none", "learning_rate"] = "none"
    round_limit_s: Positive = 7200.0        # a round that takes longer fails, and names the peers that were missing


class GraftSettings(Section):
    """The exchange at a round's end. The section is absent where peers do not exchange weights."""

    alpha: Share | Literal["adaptive"] = "adaptive"
    A: Share = 0.4
    c: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 500.0
    level: Literal["layer"] = "layer"
    num_bins: Annotated[int, Field(ge=2, le=4096)] = 10
    compat: Literal["none", "released_code"] = "none"


class TuneSettings(Section):
    """What Ray Tune looks for, and how."""

    metric: Literal["val_accuracy"] = "val_accuracy"
    mode: Literal["max"] = "max"
    num_samples: Count | None = None        # trials; None: 10, or the whole product where search is grid
    search: Literal["optuna", "random", "grid"] = "optuna"
    scheduler: Literal["none", "asha", "pbt"] = "none"


class ResourceSettings(Section):
    """What one peer asks of the cluster."""

    cpus_per_peer: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Auto = "auto"
    gpus_per_peer: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Auto = "auto"


class Settings(Section):
    """One population, in full."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "population"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    population: PopulationSettings = PopulationSettings()
    graft: GraftSettings | None = None
    tune: TuneSettings = TuneSettings()
    resources: ResourceSettings = ResourceSettings()

    @property
    def num_rounds(self) -> int:
        """Rounds of the whole training; the last may be shorter than the others."""
        return -(-self.training.epochs // self.population.epochs_per_round)
