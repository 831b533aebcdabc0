"""The settings of one population: all sections together."""

import math
from typing import Literal

from graftpop.metrics import Metric, Mode
from graftpop.settings.augmentation import AugmentationSettings
from graftpop.settings.methods import (
    AlignSettings,
    DistillationSettings,
    EmaSettings,
    GraftSettings,
    MutualSettings,
    OuterSettings,
    PapaSettings,
    ReprSettings,
    SpartaSettings,
    SwaSettings,
    WashSettings,
)
from graftpop.settings.population import DiagnosticsSettings, PopulationSettings
from graftpop.settings.pruning import PruningSettings
from graftpop.settings.section import ExchangeSection, Name, Section, Seed, SiteChoice, UserPart
from graftpop.settings.study import ResourceSettings, TuneSettings
from graftpop.settings.task import TaskSettings
from graftpop.settings.training import DataSettings, ModelSettings, TrainingSettings

__all__ = ["Settings"]

DEFAULT_EPOCHS = 200


class Settings(Section):
    """All settings of one population."""

    name: Name = "population"
    """Prefix of the run folder's name and of the actors' names; letters, digits, '.', '_' and '-'."""

    seed: Seed = 0
    """Seed of initialization, data order, augmentation, splits and search."""

    task: TaskSettings = TaskSettings()
    data: DataSettings = DataSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    population: PopulationSettings = PopulationSettings()
    graft: GraftSettings | None = None
    papa: PapaSettings | None = None
    wash: WashSettings | None = None
    sparta: SpartaSettings | None = None
    outer: OuterSettings | None = None
    exchange: UserPart | None = None
    """User-defined exchange rule, python:MODULE.CLASS. null: none."""

    align: AlignSettings | None = None
    distillation: DistillationSettings | None = None
    mutual: MutualSettings | None = None
    repr: ReprSettings | None = None
    pruning: PruningSettings | None = None
    swa: SwaSettings | None = None
    ema: EmaSettings | None = None
    diagnostics: DiagnosticsSettings = DiagnosticsSettings()
    tune: TuneSettings = TuneSettings()
    resources: ResourceSettings = ResourceSettings()

    def of_peer(self, peer: int) -> "Settings":
        """Return the settings of a peer, by its index from 0: with its own values of the keys in population.diversity.

        Raises:
            ValidationError: a key does not exist, or has no such value.
        """
        diversity = self.population.diversity
        if isinstance(diversity, str):
            return self
        tree = self.model_dump()
        tree["population"]["diversity"] = "none"
        for key, values in diversity.items():
            *path, name = key.split(".")
            section = tree
            for part in path:
                section = section[part]
            if isinstance(values, list):
                section[name] = values[peer % len(values)]
            else:
                section[name] = values.value(peer, self.population.num_peers)
        return Settings.model_validate(tree)

    def of_peers(self) -> "list[Settings]":
        """Return the settings of every peer; only these settings if `population.diversity` is no map of values."""
        if isinstance(self.population.diversity, str):
            return [self]
        return [self.of_peer(peer) for peer in range(self.population.num_peers)]

    @property
    def optimizers(self) -> set[str]:
        """Names of the peers' optimizers."""
        return {settings.training.optimizer.name for settings in self.of_peers()}

    @property
    def num_epochs(self) -> int:
        """Number of epochs of the training, which each peer trains unless it starts as a copy."""
        if self.training.total_epochs is not None:
            alone = self._epochs_alone(self.training.total_epochs)
            return alone + (self.training.total_epochs - alone) // self.population.num_peers
        return self.training.epochs or DEFAULT_EPOCHS

    def _epochs_alone(self, total: int) -> int:
        """Return the epochs t before the branch, in a training with t + num_peers * (epochs - t) = total.

        They are whole rounds and leave every peer a whole number of epochs; `branch_at` is rounded to the nearest such
        number.
        """
        population = self.population
        share, num_peers = population.branch_at, population.num_peers
        epochs = total / (share + num_peers * (1 - share))
        unit = math.lcm(num_peers, population.epochs_per_round)
        return unit * min(round(share * epochs / unit), (total - num_peers) // unit)

    @property
    def branch_epoch(self) -> int:
        """Number of epochs that one peer trains alone: `population.branch_at` of all, in whole rounds, not the last."""
        if self.training.total_epochs is not None:
            return self._epochs_alone(self.training.total_epochs)
        num_rounds = min(round(self.population.branch_at * self.num_rounds), self.num_rounds - 1)
        return num_rounds * self.population.epochs_per_round

    @property
    def sync_epochs(self) -> int:
        """Number of epochs in which several peers average their gradients; all of them only with `sync_until` 1."""
        share = self.population.sync_until if self.population.num_peers > 1 else 0.0
        return min(round(share * self.num_epochs), self.num_epochs - (share < 1))

    @property
    def common_epochs(self) -> int:
        """Number of epochs after which the peers train separately and exchange weights."""
        return max(self.branch_epoch, self.sync_epochs)

    @property
    def trained_epochs(self) -> int:
        """Number of epochs that all peers train together."""
        return self.branch_epoch + self.population.num_peers * (self.num_epochs - self.branch_epoch)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of the task, the primary first."""
        return self.task.all_metrics

    @property
    def primary(self) -> Metric:
        """The metric that selects peers and trials."""
        return self.metrics[0]

    @property
    def objectives(self) -> dict[str, Mode]:
        """The searched metrics with their modes."""
        own: dict[str, Mode] = {self.primary.val: self.primary.mode}
        metrics = [self.primary.val if name == "auto" else name for name in self.tune.metric_names]
        modes = self.tune.mode if isinstance(self.tune.mode, list) else [self.tune.mode] * len(metrics)
        of_auto = (own.get(name, "min") for name in metrics)
        return {
            name: own_mode if mode == "auto" else mode
            for name, mode, own_mode in zip(metrics, modes, of_auto, strict=False)
        }

    @property
    def peers_per_actor(self) -> int | Literal["auto"]:
        """Number of peers per process; 1 where peers must run at the same time."""
        runs_concurrently = self.runs_in_lockstep or self.population.mode == "async"
        return 1 if runs_concurrently else self.population.peers_per_actor

    @property
    def exchanges_logits(self) -> bool:
        """Whether peers exchange logits at every batch."""
        return self.mutual is not None and self.mutual.exchange == "logits"

    @property
    def exchange_sections(self) -> dict[str, ExchangeSection]:
        """The sections of the exchange rules that are set, by key; at most one."""
        return {
            name: section
            for name, section in self
            if isinstance(section, ExchangeSection) and getattr(section, "source", "external") == "external"
        }

    @property
    def exchange_rule(self) -> str | None:
        """The rule by which peers exchange weights: MODULE.CLASS, or `python:MODULE.CLASS`; None: they do not."""
        return self.exchange or next((section.rule for section in self.exchange_sections.values()), None)

    @property
    def exchanges(self) -> bool:
        """Whether peers exchange weights."""
        return self.exchange_rule is not None

    @property
    def reseeds(self) -> bool:
        """Whether a diverged peer can take another peer's weights; under `outer` it would miss an outer step."""
        return self.exchanges and self.outer is None

    @property
    def exchanges_in_steps(self) -> bool:
        """Whether peers exchange weights within rounds, after some of the optimizer steps."""
        return self.exchanges and self.population.exchange_every != "round"

    @property
    def runs_in_lockstep(self) -> bool:
        """Whether peers exchange arrays while they train, so that all must train at the same time."""
        return self.exchanges_logits or self.exchanges_in_steps or self.sync_epochs > 0

    @property
    def topology(self) -> str:
        """The topology of the exchange, with auto replaced by the rule's own."""
        own = next((section.topology for section in self.exchange_sections.values()), "ring")
        return own if self.population.topology == "auto" else self.population.topology

    @property
    def initialization(self) -> Literal["own", "same"]:
        """The initial weights of the peers, with auto replaced by the rule's own."""
        if self.population.initialization != "auto":
            return self.population.initialization
        if self.sync_epochs:
            return "same"
        return next((section.initialization for section in self.exchange_sections.values()), "own")

    @property
    def method_on_sites(self) -> str | None:
        """The first key whose method acts on a network's sites; None: any network will do."""
        graft, diagnostics = self.graft, self.diagnostics
        is_set = {
            "graft": graft is not None and (graft.source, graft.alpha) != ("external", 1.0),  # 1.0 exchanges nothing
            "repr": self.repr is not None,
            "pruning": self.pruning is not None,
            "diagnostics.thresholds": bool(diagnostics.thresholds),
            "diagnostics.density_of": diagnostics.density_of is not None,
        }
        return next((key for key, acts in is_set.items() if acts), None)

    @property
    def sites(self) -> SiteChoice:
        """The choice of sites, `graft.sites`; auto without the section graft."""
        return self.graft.sites if self.graft is not None else "auto"

    @property
    def method_on_filters(self) -> str | None:
        """The first key whose method drops, revives or replaces filters; None if there is none."""
        is_set = {
            "graft.source": self.graft is not None and self.graft.source != "external",
            "repr": self.repr is not None,
            "pruning": self.pruning is not None,
        }
        return next((key for key, acts in is_set.items() if acts), None)

    def exchanges_after(self, round: int) -> bool:
        """Return whether an exchange follows a round, from 1.

        None follows the burn-in rounds, the rounds in which the peers have common weights, and the last.
        """
        burn_in = self.graft.burn_in_rounds if self.graft is not None else 0
        follows_rounds = self.exchanges and not self.exchanges_in_steps
        is_common = round * self.population.epochs_per_round <= self.common_epochs
        return follows_rounds and burn_in < round < self.num_rounds and not is_common

    def trains_alone(self, round: int) -> bool:
        """Return whether one peer trains a round, from 1, alone."""
        return round * self.population.epochs_per_round <= self.branch_epoch

    def branches_after(self, round: int) -> bool:
        """Return whether the other peers start as copies after a round, from 1."""
        return self.trains_alone(round) and not self.trains_alone(round + 1)

    def epochs_of_round(self, round: int) -> int:
        """Return the epochs of a round, counted from 1; the last round may have fewer than the others."""
        per_round = self.population.epochs_per_round
        return min(per_round, self.num_epochs - (round - 1) * per_round)

    @property
    def num_rounds(self) -> int:
        """Number of rounds of the training."""
        return -(-self.num_epochs // self.population.epochs_per_round)
