"""The settings of one population: all sections together."""

from typing import Literal

from graftpop.settings.methods import (
    AttenuationSettings,
    DistillationSettings,
    GraftSettings,
    MutualSettings,
    ReprSettings,
    SwaSettings,
)
from graftpop.settings.population import DiagnosticsSettings, PopulationSettings
from graftpop.settings.section import Name, Section, Seed
from graftpop.settings.study import ResourceSettings, TuneSettings
from graftpop.settings.training import DataSettings, ModelSettings, TrainingSettings

__all__ = ["Settings"]

DEFAULT_EPOCHS = 200


class Settings(Section):
    """All settings of one population."""

    name: Name = "population"
    """Prefix of the run folder's name and of the actors' names; letters, digits, '.', '_' and '-'."""

    seed: Seed = 0
    """Seed of initialization, data order, augmentation, splits and search."""

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
    diagnostics: DiagnosticsSettings = DiagnosticsSettings()
    tune: TuneSettings = TuneSettings()
    resources: ResourceSettings = ResourceSettings()

    @property
    def num_epochs(self) -> int:
        """Number of epochs that each peer trains."""
        if self.training.total_epochs is not None:
            return self.training.total_epochs // self.population.num_peers
        return self.training.epochs or DEFAULT_EPOCHS

    @property
    def peers_per_actor(self) -> int | Literal["auto"]:
        """Number of peers per process; 1 where peers must run at the same time."""
        runs_concurrently = self.exchanges_logits or self.population.mode == "async"
        return 1 if runs_concurrently else self.population.peers_per_actor

    @property
    def exchanges_logits(self) -> bool:
        """Whether peers exchange logits at every batch."""
        return self.mutual is not None and self.mutual.exchange == "logits"

    @property
    def exchanges(self) -> bool:
        """Whether peers graft weights from each other."""
        return self.graft is not None and self.graft.source == "external"

    @property
    def method_on_sites(self) -> str | None:
        """The first key whose method acts on a network's sites; None: any network will do."""
        graft, diagnostics = self.graft, self.diagnostics
        is_set = {
            "graft": graft is not None and (graft.source, graft.alpha) != ("external", 1.0),  # 1.0 exchanges nothing
            "repr": self.repr is not None,
            "attenuation": self.attenuation is not None,
            "diagnostics.thresholds": bool(diagnostics.thresholds),
            "diagnostics.density_of": diagnostics.density_of is not None,
        }
        return next((key for key, acts in is_set.items() if acts), None)

    def exchanges_after(self, round: int) -> bool:
        """Return whether an exchange follows a round, from 1; none follows the burn-in rounds and the last."""
        return self.graft is not None and self.exchanges and self.graft.burn_in_rounds < round < self.num_rounds

    def epochs_of_round(self, round: int) -> int:
        """Return the epochs of a round, counted from 1; the last round may have fewer than the others."""
        per_round = self.population.epochs_per_round
        return min(per_round, self.num_epochs - (round - 1) * per_round)

    @property
    def num_rounds(self) -> int:
        """Number of rounds of the training."""
        return -(-self.num_epochs // self.population.epochs_per_round)
