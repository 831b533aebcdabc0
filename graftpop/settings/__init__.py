"""The validated settings of one population, with a fixed value for every searched key.

Each class is one section of the YAML file and checks structure, types and ranges. `graftpop.space` checks names that
are looked up in tables (models, data sets, schedules, topologies) and rules between keys.
"""

from graftpop.settings.augmentation import NO_AUGMENTATION, AugmentationSettings
from graftpop.settings.comparison import Accounting, CompareSettings, ComparisonSettings
from graftpop.settings.methods import (
    DistillationSettings,
    EmaSettings,
    GraftSettings,
    MutualSettings,
    ReprSettings,
    SwaSettings,
    TeacherSettings,
)
from graftpop.settings.optimizer import OptimizerSettings
from graftpop.settings.population import DiagnosticsSettings, PopulationSettings
from graftpop.settings.pruning import PruningSettings
from graftpop.settings.settings import Settings
from graftpop.settings.study import ResourceSettings, TuneSettings
from graftpop.settings.task import TaskSettings
from graftpop.settings.training import DataSettings, ModelSettings, TrainingSettings

__all__ = [
    "Accounting",
    "AugmentationSettings",
    "CompareSettings",
    "ComparisonSettings",
    "DataSettings",
    "DistillationSettings",
    "EmaSettings",
    "GraftSettings",
    "DiagnosticsSettings",
    "ModelSettings",
    "NO_AUGMENTATION",
    "MutualSettings",
    "OptimizerSettings",
    "PopulationSettings",
    "PruningSettings",
    "ReprSettings",
    "ResourceSettings",
    "Settings",
    "SwaSettings",
    "TaskSettings",
    "TeacherSettings",
    "TrainingSettings",
    "TuneSettings",
]
