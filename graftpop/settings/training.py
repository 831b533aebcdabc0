"""What one peer is trained on, which network it is, and how."""

from typing import Annotated, Literal

from pydantic import Field

from graftpop.settings.section import Auto, Count, NotNegative, Positive, Rate, Section

__all__ = ["DataSettings", "ModelSettings", "TrainingSettings"]


class DataSettings(Section):
    """Which images, and how they are split and varied."""

    name: str = "cifar10"
    """The data set; parquet are tables of images, folder is class folders of images."""

    root: str | None = None
    """Folder of the data, which parquet and folder must have. null: of cifar10 $GRAFTPOP_DATA/cifar10 (cifar100
    likewise), else the cache folder, else it is downloaded there."""

    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training images held out for selection."""

    max_train_images: Count | None = None
    """Training images in use, validation among them. null: all. The test set is always whole."""

    label: str | None = None
    """Name of the label column of a Parquet table. null: found from its schema."""

    image_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Side in pixels of the square that every image of parquet or folder is scaled and cut to. null: images of one size
    stay as they are, folder makes others 224."""

    crop_padding: Annotated[int, Field(ge=0)] | Auto = "auto"
    """Pixels by which training images are padded and cropped at random. auto: an eighth of the side, 4 for CIFAR."""

    flip: bool | Auto = "auto"
    """Whether training images are mirrored at random: true, false, or auto: true but for digits."""


class ModelSettings(Section):
    """Which network every peer is."""

    name: str = "resnet32"
    """Its name; torchvision:NAME and timm:NAME are classifiers of these libraries, python:MODULE.CLASS one's own."""


class TrainingSettings(Section):
    """How one peer trains: SGD with momentum and weight decay."""

    epochs: Count | None = None
    """Epochs that each peer trains. null: 200, or the peer's part of total_epochs."""

    total_epochs: Count | None = None
    """Epochs of all peers together, a multiple of num_peers, in place of epochs. null: as many as epochs make."""

    batch_size: Annotated[int, Field(ge=2)] = 128
    """Images a step. The papers print 256; their released code has 128."""

    lr: Positive = 0.1
    """Initial learning rate."""

    momentum: Rate = 0.9
    """Momentum of SGD."""

    weight_decay: NotNegative = 5e-4
    """Weight decay of SGD."""

    schedule: str = "step"
    """step: a tenth after every 60 epochs. cosine: to 0, batch by batch. constant."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """float32, bfloat16, or auto: bfloat16 where the hardware computes in it. Weights are float32 always."""
