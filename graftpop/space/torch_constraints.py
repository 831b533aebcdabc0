"""Rules of the settings that need torch: names of criteria, and arguments of optimizers.

Importing torch takes seconds, so a space is checked against all other rules first.
"""

from collections.abc import Mapping
from typing import Final

from graftpop.hooks.ranking import ALL_CRITERIA, CRITERIA_OF_GROUPS
from graftpop.ops.criteria import CRITERIA
from graftpop.settings import Settings
from graftpop.space.constraints import check_names
from graftpop.space.optimizer_arguments import check_arguments
from graftpop.space.validation_messages import Origin

__all__ = ["CRITERION_TABLES", "check_torch_names"]

CRITERION_TABLES: Final[Mapping[str, Mapping[str, object]]] = {
    "graft.criterion": CRITERIA,
    "repr.criterion": ALL_CRITERIA,
    "pruning.criterion": CRITERIA_OF_GROUPS,
}
"""Keys whose value is the name of a criterion, and the table with the names."""


def check_torch_names(settings: Settings, origin: Origin) -> None:
    """Check that criteria exist, and that each peer's optimizer exists and has the given arguments.

    Args:
        settings: one sample of the space, resolved and valid by all other rules.
        origin: see `Origin`.

    Raises:
        SpaceError: one does not exist, or an argument has another type.
    """
    check_names(settings, origin, CRITERION_TABLES)
    for peer in settings.of_peers():
        check_arguments(peer.training.optimizer, origin, import_timm=False)
