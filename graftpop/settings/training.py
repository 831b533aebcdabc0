"""What one peer is trained on, which network it is, and how."""

from typing import Annotated, Literal

from pydantic import Field

from graftpop.settings.section import Auto, Count, NotNegative, Positive, Rate, Section

__all__ = ["DataSettings", "ModelSettings", "TrainingSettings"]


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

    epochs: Count | None = None             # epochs that each peer trains; None: 200, or its part of total_epochs
    total_epochs: Count | None = None       # epochs of all peers together
    batch_size: Annotated[int, Field(ge=2)] = 128
    lr: Positive = 0.1
    momentum: Rate = 0.9
    weight_decay: NotNegative = 5e-4
    schedule: str = "step"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
