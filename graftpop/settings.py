"""The settings of one population, validated: what a trial runs with once every searched value is fixed.

Each class is one section of the YAML. Structure, kinds and ranges are checked here; names that stand in a table
beside their functions (models, data sets, schedules, topologies) and rules between sections in `space.py`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["AttenuationSettings", "DataSettings", "DistillationSettings", "GraftSettings", "MeasureSettings",
           "ModelSettings", "MutualSettings", "PopulationSettings", "ReprSettings", "ResourceSettings", "Settings",
           "SwaSettings", "TeacherSettings", "TrainingSettings", "TuneSettings"]

Auto = Literal["auto"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


DEFAULT_EPOCHS = 200


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

    epochs: Count | None = None             # epochs that each peer trains; None: 200, or its part of total_epochs
    total_epochs: Count | None = None       # epochs of all peers together
    batch_size: Annotated[int, Field(ge=2)] = 128
    lr: Positive = 0.1
    momentum: Rate = 0.9
    weight_decay: NotNegative = 5e-4
    schedule: str = "step"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class PopulationSettings(Section):
    """How many peers, how they differ, when they meet, and what they give in the end."""

    num_peers: Count = 2
    topology: str = "ring"
    epochs_per_round: Count = 1
    mode: Literal["wait_for_all", "no_wait"] = "wait_for_all"   # no_wait: a donor's newest snapshot, of whatever round
    max_staleness: Annotated[int, Field(ge=0)] = 2   # no_wait: how many rounds it, or any peer, may be behind
    diversity: Literal["none", "learning_rate"] = "none"
    output: Literal["best_peer", "ensemble", "uniform_soup", "greedy_soup"] = "best_peer"  # whose test accuracy counts
    deadline_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 10.0  # who needs more median rounds is lost
    round_limit_s: Positive = 7200.0        # who needs longer is lost, however long the rounds are
    max_peer_restarts: Annotated[int, Field(ge=0)] = 3   # how often a lost peer is replaced before the trial fails
    replace_limit_s: Positive = 300.0       # how long a lost peer may take to find room and to start
    min_peers: Count | None = None          # with how many to go on if it finds none; None: all, from the last round
    peers_per_actor: Count | Literal["auto"] = "auto"   # in one process, one after the other; auto: who share a core


class GraftSettings(Section):
    """Weights from elsewhere: a donor's at a round's end, or noise or a peer's own strong filters between epochs."""

    scion: Literal["external", "internal", "noise"] = "external"
    alpha: Share | Literal["adaptive"] = "adaptive"
    A: Share = 0.4
    c: Positive = 500.0
    criterion: Literal["entropy", "l1"] = "entropy"
    level: Literal["layer", "filter"] = "layer"
    burn_in_rounds: Annotated[int, Field(ge=0)] = 0   # first rounds without an exchange
    threshold: Positive = 0.1               # internal and noise: L1 norm below which a filter is invalid
    noise_base: Annotated[float, Field(gt=0, lt=1)] = 0.975   # noise: its deviation is noise_base ** epochs trained
    num_bins: Annotated[int, Field(ge=2, le=4096)] = 10
    compat: Literal["none", "released_code"] = "none"


class TeacherSettings(Section):
    """One teacher: trained first in the same trial, or taken from a checkpoint, or with published weights."""

    model: str | None = None                # None: the checkpoint says
    epochs: Count | None = None             # how long to train it, in the trial and before the students
    checkpoint: str | None = None           # a run's folder best/, or a file of a state_dict
    pretrained: bool = False                # the weights that torchvision or timm have for it


class DistillationSettings(Section):
    """A loss beside the labels': the mean of some teachers' probabilities, at every step."""

    teachers: Annotated[list[TeacherSettings], Field(min_length=1)]
    temperature: Positive = 2.0
    weight: NotNegative = 1.0


class MutualSettings(Section):
    """Peers that teach each other: on the same batch (deep mutual learning), or by their last snapshots."""

    exchange: Literal["logits", "snapshots"] = "logits"
    temperature: Positive = 1.0
    weight: NotNegative = 1.0


class ReprSettings(Section):
    """Cycles of RePr: train all, drop the filters that repeat others, train the rest, give them back orthogonal."""

    S1: Count = 20                          # epochs of the whole network
    S2: Count = 10                          # epochs without the dropped filters
    N: Count = 3                            # cycles
    rate: Rate = 0.3                        # share of all filters that is dropped
    criterion: str = "orthogonality"
    skip_first: bool = True                 # leave the first convolution alone


class AttenuationSettings(Section):
    """Weak filters are multiplied by a factor after every epoch, and removed at the end."""

    factor: Share = 0.5
    factor_schedule: str = "constant"
    rate: Rate = 0.3                        # share of each layer's filters that counts as weak
    rate_schedule: str = "constant"
    recoverable: bool = True                # whether what was weak trains on and may come back
    criterion: str = "l2"
    skip_first: bool = False                # leave the first convolution alone
    remove: bool = True                     # cut the weak filters out of the network at the end


class SwaSettings(Section):
    """Stochastic weight averaging: the mean of the weights after each of the last epochs."""

    start: Annotated[float, Field(ge=0, lt=1)] = 0.75   # share of the epochs after which averaging begins
    lr: Positive | None = None              # constant rate from there on; None: the schedule goes on


class MeasureSettings(Section):
    """What is measured by round beyond the figures of every peer."""

    thresholds: list[Positive] = []         # L1 norms below which to count filters
    density_of: str | None = None           # best/ of a baseline, whose valid and invalid filters are followed
    density_threshold: Positive = 0.1       # L1 norm that parts them there
    pairs: bool = False                     # distance and disagreement of every two peers


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


class Settings(Section):
    """One population, in full."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "population"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    population: PopulationSettings = PopulationSettings()
    graft: GraftSettings | None = None
    distillation: DistillationSettings | None = None
    mutual: MutualSettings | None = None
    repr: ReprSettings | None = None
    attenuation: AttenuationSettings | None = None
    swa: SwaSettings | None = None
    measures: MeasureSettings = MeasureSettings()
    tune: TuneSettings = TuneSettings()
    resources: ResourceSettings = ResourceSettings()

    @property
    def num_epochs(self) -> int:
        """Epochs that each peer trains."""
        if self.training.total_epochs is not None:
            return self.training.total_epochs // self.population.num_peers
        return self.training.epochs or DEFAULT_EPOCHS

    @property
    def peers_per_actor(self) -> int | Literal["auto"]:
        """How many peers a process has: one where a peer must not wait for another to be done."""
        waits_for_nobody = self.meets or self.population.mode == "no_wait"
        return 1 if waits_for_nobody else self.population.peers_per_actor

    @property
    def meets(self) -> bool:
        """Whether peers meet at every batch."""
        return self.mutual is not None and self.mutual.exchange == "logits"

    @property
    def exchanges(self) -> bool:
        """Whether peers graft from each other."""
        return self.graft is not None and self.graft.scion == "external"

    def exchanges_after(self, round: int) -> bool:
        """Return whether they do so at the end of a round: after the burn-in, and not after the last."""
        return (self.graft is not None and self.exchanges
                and self.graft.burn_in_rounds < round < self.num_rounds)

    def epochs_of_round(self, round: int) -> int:
        """Return how many epochs a round has, from 1; the last may have fewer than the others."""
        per_round = self.population.epochs_per_round
        return min(per_round, self.num_epochs - (round - 1) * per_round)

    @property
    def num_rounds(self) -> int:
        """Rounds of the whole training."""
        return -(-self.num_epochs // self.population.epochs_per_round)
