"""Populations of networks that exchange weights by entropy-weighted filter grafting, tuned by Ray Tune."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftpop.api import Population
    from graftpop.cluster.user_tuner import trainable
    from graftpop.exchange.rule import ExchangeRule
    from graftpop.exchange.state_dicts import graft_state_dicts as graft
    from graftpop.metrics import Metric
    from graftpop.models.network_file import load_network as load
    from graftpop.results import read_run
    from graftpop.tasks.task import Task

__version__ = "0.2.1"
__all__ = ["ExchangeRule", "Metric", "Population", "Task", "__version__", "graft", "load", "read_run", "trainable"]

_LOCATIONS = {
    "ExchangeRule": ("graftpop.exchange.rule", "ExchangeRule"),
    "Metric": ("graftpop.metrics", "Metric"),
    "Population": ("graftpop.api", "Population"),
    "Task": ("graftpop.tasks.task", "Task"),
    "graft": ("graftpop.exchange.state_dicts", "graft_state_dicts"),
    "load": ("graftpop.models.network_file", "load_network"),
    "read_run": ("graftpop.results", "read_run"),
    "trainable": ("graftpop.cluster.user_tuner", "trainable"),
}


def __getattr__(name: str) -> Any:
    # lazy, because torch takes seconds to import and --help needs none of it
    if name not in _LOCATIONS:
        raise AttributeError(f"module 'graftpop' has no attribute '{name}'")
    from importlib import import_module

    module, attribute = _LOCATIONS[name]
    return getattr(import_module(module), attribute)
