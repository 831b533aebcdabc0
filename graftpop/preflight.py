"""What can be known to fail is found before anything starts: names, data, and networks that cannot be grafted."""

from graftpop.errors import DataError, choose
from graftpop.learner.data import DATASETS, load_splits
from graftpop.learner.models import build, find_model
from graftpop.learner.sites import find_sites
from graftpop.methods.grafting import released_assignment
from graftpop.space import Space

__all__ = ["check_data_and_models", "check_names"]


def check_names(space: Space) -> None:
    """Look up every data set and network that a trial may have.

    Raises:
        GraftpopError: an unknown name.
    """
    choose(DATASETS, space.settle().data.name, "data.name", DataError)
    for name in _model_names(space):
        find_model(name)


def check_data_and_models(space: Space) -> None:
    """Decode the data, unless this node has done so before, and find the sites of every network a trial may have.

    Raises:
        GraftpopError: data that cannot be read, or a network that cannot take it or has nothing to graft.
    """
    settings = space.settle()
    released = any(one.graft is not None and one.graft.compat == "released_code" for one in space.corners())
    splits = load_splits(settings.data, seed=settings.seed)
    for name in _model_names(space):
        network = build(name, len(splits.class_names))
        find_sites(network, splits.image_shape, name)
        if released:
            released_assignment(list(network.state_dict()))


def _model_names(space: Space) -> tuple[str, ...]:
    return tuple(dict.fromkeys(settings.model.name for settings in space.corners()))
