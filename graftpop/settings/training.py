"""Sections of the data, the network and the training of one peer."""

from itertools import pairwise
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from graftpop.settings.optimizer import TIMM, OptimizerSettings
from graftpop.settings.section import Arguments, Auto, Count, NotNegative, OnlyWith, Positive, Rate, Section

__all__ = ["DataSettings", "ModelSettings", "TrainingSettings"]

DECAYING: Final = OnlyWith("training.schedule", ("step",))


def _rising(epochs: list[int]) -> list[int]:
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        raise PydanticCustomError("rising", "whole numbers in rising order")
    return epochs


class DataSettings(Section):
    """The data set, its validation split and its augmentation."""

    name: str = "cifar10"
    """Name of the data set. parquet reads tables of images, hf the folder that Hugging Face's DatasetDict.save_to_disk
    wrote, folder reads images from class folders. For recognition: omniglot, parquet, or market1501 and dukemtmc, whose
    folders bounding_box_train, query and bounding_box_test are below root."""

    root: str | None = None
    """Path of the data; required for parquet, hf and folder. null: for cifar10 $GRAFTPOP_DATA/cifar10, then the cache
    folder, then a download into it; likewise for cifar100."""

    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training images held out for validation, on which the best peer and trial are selected."""

    max_train_images: Count | None = None
    """Number of training images to use, including those held out for validation; the test set is never reduced. null:
    all."""

    label: str | None = None
    """Name of the label column of a Parquet or Hugging Face table: whole numbers, true/false or text. null: found from
    the table's schema."""

    camera: str | None = None
    """Name of the column of a Parquet table that says who made an image, a camera or a drawer; only for recognition. An
    image is not searched for among those of its own identity and camera. null: camera, or drawer for omniglot, if there
    is such a column; otherwise every image has a camera of its own."""

    image_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Side in pixels of the square to which images are scaled and cropped, such as 16 for CIFAR at a quarter of the
    computation. For market1501 and dukemtmc: the height, twice the width, without a crop. Not for digits. null: 256 for
    market1501 and dukemtmc; otherwise unchanged if all images have one size, else folder uses 224."""

    on_damage: Literal["refuse", "skip"] = "refuse"
    """Treatment of image files of folder that cannot be decoded. refuse: the study does not start. skip: they are left
    out, and their number is printed and recorded in run.json; a class needs one image that is not damaged."""

    label_noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Symmetric label noise: share of the training labels that are replaced, each by one of the other classes at
    random. The same for all peers; the labels of validation and test do not change. Needs a built-in data set and the
    task classification."""

    crop_padding: Annotated[int, Field(ge=0)] | Auto = "auto"
    """Pixels of padding around training images before a random crop of the original size; 0 turns cropping off. auto:
    an eighth of the side, so 4 for CIFAR."""

    flip: bool | Auto = "auto"
    """Whether to flip training images horizontally at random. auto: true, except for digits."""


class ModelSettings(Section):
    """The network that every peer trains."""

    name: str = "resnet32"
    """Name of the network; torchvision:NAME and timm:NAME are classifiers of these libraries, python:MODULE.CLASS is a
    user-defined class."""

    args: Arguments = Field(default={})
    """Keyword arguments of the network's builder by name, such as drop_rate or img_size: those of timm.create_model,
    torchvision.models.get_model or the user-defined class; of vgg16 the width of its first layer, 64, to which the
    others are in proportion. Each may be searched. The value null leaves one out."""

    pretrained: bool = False
    """Whether every peer starts from the weights that torchvision or timm publish for the model. The output layer is
    new if the classes differ in number, and images are normalized as these weights require."""

    checkpoint: str | None = None
    """Path of a run's best/ folder or of a file of weights, from which every peer starts. The output layer is new if
    the classes differ in number, and images are normalized as in that run. null: none. Excludes pretrained."""

    @property
    def has_start(self) -> bool:
        """Whether peers start from given weights."""
        return self.pretrained or self.checkpoint is not None


class TrainingSettings(Section):
    """How one peer trains: optimizer, learning rate, batches and precision."""

    epochs: Count | None = None
    """Epochs that each peer trains. null: 200, or total_epochs / num_peers if total_epochs is set."""

    total_epochs: Count | None = None
    """Epochs of all peers together, a multiple of num_peers; excludes epochs. null: epochs * num_peers."""

    batch_size: Annotated[int, Field(ge=2)] = 128
    """Images per batch. The papers print 256; their released code uses 128."""

    accumulate: Count = 1
    """Batches per optimizer step, whose loss is the mean over their images. The last step of an epoch may have
    fewer."""

    lr: Positive = 0.1
    """Learning rate at the start of the schedule; the highest one with warmup_epochs and one_cycle."""

    optimizer: OptimizerSettings = OptimizerSettings()
    """Name and arguments of the optimizer, such as {name: adamw, betas: [0.9, 0.99]}; each or all may be searched. sgd
    has the argument nesterov. adam, adamw, nadam, radam, adamax, rmsprop, adagrad, adadelta and muon are torch's, and
    timm:NAME is timm's. muon trains 2-d weights of hidden layers, AdamW the others."""

    momentum: Annotated[Rate, OnlyWith("training.optimizer.name", ("sgd", "rmsprop", "muon", TIMM))] = 0.9
    """Momentum of the optimizer, if it has one; adam and its variants have betas instead."""

    weight_decay: NotNegative = 5e-4
    """Weight decay as the optimizer applies it: added to the gradient in sgd and adam, decoupled in adamw and muon."""

    decay_norm_and_bias: bool = True
    """Whether weight decay applies to normalization and biases too, that is to parameters with one axis or none."""

    clip_grad_norm: Positive | None = None
    """Largest L2 norm of the gradients of all weights together; longer gradients are scaled down to it. null: no
    limit."""

    schedule: str = "step"
    """Learning rate over time, updated every step. step: multiplied by decay_rate after decay_epochs. cosine: falls to
    min_lr along a cosine. linear: falls to min_lr along a line. one_cycle: rises from lr / 25 to lr in 30 % of the
    epochs, then falls to lr / 250000, along cosines. constant: unchanged."""

    warmup_epochs: Annotated[NotNegative, OnlyWith("training.schedule", ("step", "cosine", "linear", "constant"))] = 0.0
    """Epochs at the start in which the learning rate is multiplied by a factor that rises linearly from 0.01 to 1. The
    schedule counts its epochs from the start of the training."""

    decay_epochs: Annotated[Count | Annotated[list[Count], Field(min_length=1), AfterValidator(_rising)], DECAYING] = 60
    """A number: epochs between two decays. A list: the epochs after which the decays happen, in rising order."""

    decay_rate: Annotated[float, Field(gt=0, lt=1), DECAYING] = 0.1
    """Factor of the learning rate at every decay."""

    min_lr: Annotated[NotNegative, OnlyWith("training.schedule", ("cosine", "linear"))] = 0.0
    """Learning rate at the end, at most lr. With population.diversity: learning_rate, every peer ends at the same share
    of its own learning rate."""

    patience: Count | None = None
    """Early stopping: the training ends after this many consecutive rounds without a better validation score of the
    population's best peer, but never before a branch. null: it has its full length."""

    keep: Literal["last", "best"] = "last"
    """Weights with which a peer ends. last: those of its last epoch. best: those of the round with its best validation
    score, before that round's exchange; use it with patience."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the computation; weights are always float32. float32: full precision. bfloat16: mixed precision.
    auto: bfloat16 where the hardware computes in it, else float32."""

    deterministic: bool = False
    """Whether a GPU computes the same bits in every run, as a CPU always does, so that a resumed training equals an
    uninterrupted one. true: slower, and an operation without a deterministic algorithm on GPUs is an error."""
