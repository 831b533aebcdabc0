"""Checks before a study starts: names, packages, data, networks and teachers of every trial."""

from collections.abc import Iterator
from importlib.util import find_spec

from graftpop.data import DATASETS, Splits, is_to_download, load_splits
from graftpop.errors import DataError, SpaceError, choose
from graftpop.exchange.assignment import released_assignment
from graftpop.models import PYTHON, build, find_model
from graftpop.models.forward_check import check_forward
from graftpop.models.pretrained import load_teacher
from graftpop.peer.diagnostics import valid_filters
from graftpop.settings import Settings, TeacherSettings
from graftpop.space import Space
from graftpop.study.trackers import TRACKERS
from graftpop.training.removal import check_removable
from graftpop.training.sites import find_sites

__all__ = ["check_data_and_models", "check_names", "check_packages", "data_to_download", "user_networks"]


def check_packages(space: Space) -> None:
    """Check that the packages of the study's trackers are installed.

    Raises:
        SpaceError: a package is not installed.
    """
    for tracker in space.resolve().tune.trackers:
        package = TRACKERS[tracker].package
        if find_spec(package) is None:
            raise SpaceError(
                f"tune.trackers: {tracker} needs the package {package}, which is not installed; pip "
                f"install 'graftpop[{tracker}]'"
            )


def check_names(space: Space) -> None:
    """Check the names of every data set and network that a trial may use; import the modules of `user_networks`.

    Raises:
        GraftpopError: a name is unknown.
    """
    every = _all_settings(space)
    for data in dict.fromkeys(settings.data.name for settings in every):
        choose(DATASETS, data, "data.name", DataError)
    for name, where in _networks(every):
        find_model(name, where)


def user_networks(space: Space) -> list[str]:
    """Return the names of the networks that a trial may use and whose modules are user code, `python:MODULE.CLASS`."""
    names = (name for name, _ in _networks([*space.settings_of("model"), *space.settings_of("distillation")]))
    return list(dict.fromkeys(name for name in names if name.startswith(PYTHON)))


def check_data_and_models(space: Space) -> list[str]:
    """Check every combination of data, network and teacher that a trial may use; return the notes on the data.

    Each data set is decoded into this node's cache. For each data set, every network is built, run on its images and
    searched for sites, and every pretrained teacher is loaded.

    Raises:
        GraftpopError: data cannot be read, a network does not fit the images, or lacks the sites that a method needs.
    """
    every = _all_settings(space)
    notes: dict[str, None] = {}
    released = {
        settings.model.name
        for settings in every
        if settings.graft is not None and settings.graft.compat == "released_code"
    }
    for data in dict.fromkeys(settings.data for settings in every):
        here = [settings for settings in every if settings.data == data]
        splits = load_splits(data, seed=here[0].seed)
        notes |= dict.fromkeys(" ".join(note.split()) for note in splits.notes)
        for name in dict.fromkeys(settings.model.name for settings in here):
            _check_network(
                name, splits, [settings for settings in here if settings.model.name == name], released=name in released
            )
        for where, teacher in dict.fromkeys(pair for settings in here for pair in _teachers(settings)):
            _check_teacher(teacher, splits, where)
    return list(notes)


def data_to_download(space: Space) -> list[str]:
    """Return the names of the data sets that this node lacks and a study would download."""
    return list(dict.fromkeys(settings.data.name for settings in _all_settings(space) if is_to_download(settings.data)))


def _all_settings(space: Space) -> list[Settings]:
    """Return settings that pair every network and every teacher with all data that a trial may pair them with."""
    return [*space.settings_of("data", "model"), *space.settings_of("data", "distillation"), *space.boundary_settings()]


def _networks(possible_settings: list[Settings]) -> Iterator[tuple[str, str]]:
    """Yield the name of each network and each teacher's network of some settings, with its key."""
    for name in dict.fromkeys(settings.model.name for settings in possible_settings):
        yield name, "model.name"
    for where, teacher in dict.fromkeys(pair for settings in possible_settings for pair in _teachers(settings)):
        if teacher.model is not None:
            yield teacher.model, f"{where}.model"


def _teachers(settings: Settings) -> Iterator[tuple[str, TeacherSettings]]:
    """Yield the key and the settings of each teacher."""
    if settings.distillation is not None:
        for index, teacher in enumerate(settings.distillation.teachers):
            yield f"distillation.teachers[{index}]", teacher


def _check_network(name: str, splits: Splits, possible_settings: list[Settings], *, released: bool) -> None:
    """Check that a network fits the data and the methods of some settings."""
    network = build(name, len(splits.class_names))
    check_forward(network, splits.image_shape, len(splits.class_names), f"model.name: '{name}'")
    methods = [settings.method_on_sites for settings in possible_settings]
    sites = find_sites(network, splits.image_shape, name, next(filter(None, methods), None))
    if released:
        released_assignment(list(network.state_dict()))
    if any(settings.attenuation is not None and settings.attenuation.remove for settings in possible_settings):
        check_removable(network, sites, splits.image_shape, name)
    baselines = dict.fromkeys(
        (settings.diagnostics.density_of, settings.diagnostics.density_threshold) for settings in possible_settings
    )
    for folder, threshold in baselines:
        if folder is not None:
            weights = {site.conv: network.get_parameter(f"{site.conv}.weight") for site in sites}
            valid_filters(folder, weights, threshold)


def _check_teacher(teacher: TeacherSettings, splits: Splits, where: str) -> None:
    num_classes = len(splits.class_names)
    if teacher.epochs is not None:
        check_forward(
            build(teacher.model or "", num_classes, f"{where}.model"),
            splits.image_shape,
            num_classes,
            f"{where}.model:",
        )
    else:
        load_teacher(teacher, num_classes, splits.image_shape, where, mean=splits.recipe.mean, std=splits.recipe.std)
