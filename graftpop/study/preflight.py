"""Checks before a study starts: names, data, networks and teachers of every trial."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from torch import nn

from graftpop.data import Splits, data_set, is_to_download, load_splits
from graftpop.data.torch_dataset import check_augmentation
from graftpop.errors import DataError
from graftpop.exchange.assignment import check_released
from graftpop.exchange.build import check_user_parts
from graftpop.exchange.user_parts import named_user_parts
from graftpop.hooks.ranking import RESTRICTED
from graftpop.models import build, find_model
from graftpop.models.forward_check import check_forward
from graftpop.models.module_check import check_modules
from graftpop.models.start import find_start
from graftpop.models.teacher import load_teacher
from graftpop.peer.diagnostics import valid_filters
from graftpop.peer.sites import channel_groups_of, pruning_plan_of, rankable, sites_of
from graftpop.settings import Settings, TeacherSettings
from graftpop.sites import Site, alpha_share
from graftpop.sites.channel_groups import permutable_share
from graftpop.space import Space
from graftpop.space.optimizer_arguments import check_optimizers
from graftpop.tasks.check import check_network
from graftpop.tasks.find import make_task, num_outputs
from graftpop.training.filters import site_weights
from graftpop.training.named_optimizers import hidden_weights
from graftpop.training.removal import check_removable
from graftpop.user_code import PYTHON, import_user_code

__all__ = ["Findings", "check_data_and_models", "check_names", "data_to_download", "user_code_names"]

T = TypeVar("T")


def check_names(space: Space) -> None:
    """Check the names of every data set, network and optimizer of the trials; import the modules of `user_code_names`.

    Raises:
        GraftpopError: a name is unknown, or an optimizer cannot train with its arguments.
    """
    every = _all_settings(space)
    check_optimizers(every)
    for data in dict.fromkeys(settings.data.name for settings in every):
        if data.startswith(PYTHON):
            import_user_code(data, "data.name", DataError)
        else:
            data_set(data, every[0].task)
    for name, where, args in _networks(every):
        find_model(name, where, args)


def user_code_names(space: Space) -> list[str]:
    """Return the names of user code that a trial may use, `python:MODULE.NAME`: task, data, networks, exchange."""
    networks = (name for name, *_ in _networks([*space.settings_of("model"), *space.settings_of("distillation")]))
    exchanges = [*space.settings_of("graft", "exchange"), *space.boundary_settings()]
    parts = (name for settings in exchanges for name in named_user_parts(settings).values())
    data = (settings.data.name for settings in space.settings_of("data"))
    own = (space.resolve().task.name, *data, *networks, *parts)
    return [name for name in dict.fromkeys(own) if name.startswith(PYTHON)]


class Findings(NamedTuple):
    """Lines about the data and the networks of a study.

    Attributes:
        notes: files that are left out, unusual labels and sizes, replaced output layers.
        sites: sites of each network on which a method acts, units that are aligned, and their shares of its parameters.
    """

    notes: list[str]
    sites: list[str]


def check_data_and_models(space: Space) -> Findings:
    """Check every combination of data, network and teacher that a trial may use; return the findings.

    Each data set is decoded into this node's cache. For each data set, every network is built, run on its images and
    searched for sites, and every pretrained teacher is loaded.

    Raises:
        GraftpopError: data cannot be read, a network does not fit the images, or lacks the sites that a method needs.
    """
    every = _all_settings(space)
    notes: dict[str, None] = {}
    sites: dict[str, None] = {}
    released = {
        settings.model.name
        for settings in every
        if settings.graft is not None and settings.graft.compat == "released_code"
    }
    for data in dict.fromkeys(settings.data for settings in every):
        here = [settings for settings in every if settings.data == data]
        splits = load_splits(data, seed=here[0].seed, task=here[0].task)
        width = num_outputs(make_task(here[0].task), splits)
        for peer in (peer for settings in here for peer in settings.of_peers()):
            check_augmentation(peer.augmentation, splits.image_shape)
        notes |= dict.fromkeys(" ".join(note.split()) for note in splits.notes)
        for alike in _alike(here):
            name, seen = alike[0].model.name, set()
            for model in _distinct(settings.model for settings in alike):
                network = build(name, width, args=model.args)
                check_modules(network, f"model.name: '{name}'")  # before its tensors are read
                shapes = str([tensor.shape for tensor in network.state_dict().values()])
                if shapes not in seen:
                    seen.add(shapes)
                    start = find_start(model)
                    note = start.load_into_(network, width, name) if start is not None else None
                    notes |= dict.fromkeys(filter(None, [note]))
                    sites |= dict.fromkeys(_check_network(network, splits, alike, released=name in released))
        for where, teacher in _distinct(pair for settings in here for pair in _teachers(settings)):
            _check_teacher(teacher, splits, width, where, uses_muon=_uses_muon(here))
    return Findings(list(notes), list(sites))


def data_to_download(space: Space) -> list[str]:
    """Return the names of the data sets that this node lacks and a study would download."""
    return list(dict.fromkeys(settings.data.name for settings in _all_settings(space) if is_to_download(settings.data)))


def _all_settings(space: Space) -> list[Settings]:
    """Return settings that pair every network and every teacher with all data that a trial may pair them with."""
    return [*space.settings_of("data", "model"), *space.settings_of("data", "distillation"), *space.boundary_settings()]


def _distinct(values: Iterable[T]) -> list[T]:
    """Return the values without repetitions, in their order; they need not be hashable."""
    return list({repr(value): value for value in values}.values())


def _networks(possible_settings: list[Settings]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the name of each network and each teacher's network of some settings, with its key and arguments."""
    for model in _distinct(settings.model for settings in possible_settings):
        yield model.name, "model.name", model.args
    for where, teacher in _distinct(pair for settings in possible_settings for pair in _teachers(settings)):
        if teacher.model is not None:
            yield teacher.model, f"{where}.model", teacher.args


def _teachers(settings: Settings) -> Iterator[tuple[str, TeacherSettings]]:
    """Yield the key and the settings of each teacher."""
    if settings.distillation is not None:
        for index, teacher in enumerate(settings.distillation.teachers):
            yield f"distillation.teachers[{index}]", teacher


def _alike(possible_settings: list[Settings]) -> list[list[Settings]]:
    """Return the settings in groups whose networks differ at most in arguments that are fractions, such as rates.

    Such networks are all built, but checked further only if their weights have other shapes: a search over several
    rates would otherwise check many equal networks.
    """
    groups: dict[str, list[Settings]] = {}
    for settings in possible_settings:
        others = {key: value for key, value in settings.model.args.items() if type(value) is not float}
        groups.setdefault(repr(settings.model.model_copy(update={"args": others})), []).append(settings)
    return list(groups.values())


def _check_network(
    network: nn.Module, splits: Splits, possible_settings: list[Settings], *, released: bool
) -> Iterator[str]:
    """Check that a network fits the data and the methods of some settings; yield lines about its sites and units."""
    name, task = possible_settings[0].model.name, make_task(possible_settings[0].task)
    for settings in {_use_of_task(settings): settings for settings in possible_settings}.values():
        check_network(settings, task, network, splits)
    if _uses_muon(possible_settings):
        hidden_weights(network, name)
    if released:
        check_released(list(network.state_dict()))
    for settings in {_use_of_sites(settings): settings for settings in possible_settings}.values():
        sites = sites_of(settings, network, splits.image_shape)
        if settings.method_on_sites is not None:
            yield _sites_line(settings, network, sites)
        if groups := channel_groups_of(settings, network, splits.image_shape):
            share = permutable_share(network, groups)
            yield f"{name}: align permutes {len(groups)} groups of units with {share:.1%} of the parameters"
        check_user_parts(settings, network, sites, {})
        plan = pruning_plan_of(settings, network, sites, splits.image_shape)
        if settings.pruning is not None and plan is not None and plan.size is not None:
            num_units = sum(group.num_units for group in plan.groups)
            yield f"{name}: pruning ranks {num_units} units in {len(plan.groups)} groups that can be removed"
        if settings.pruning is not None and settings.pruning.remove and (plan is None or plan.size is None):
            check_removable(network, rankable(sites), splits.image_shape, name)
        baseline = settings.diagnostics
        if baseline.density_of is not None:
            weights = site_weights(network, sites)
            valid_filters(baseline.density_of, weights, baseline.density_threshold, settings.sites)


def _use_of_task(settings: Settings) -> tuple[object, ...]:
    """Return the values on which the checks of a task depend."""
    task, batch_size = settings.task, settings.training.batch_size
    triplets = (task.images_per_identity, batch_size) if task.triplet_weight else None
    return settings.distillation is not None, settings.mutual is not None, triplets


def _use_of_sites(settings: Settings) -> tuple[object, ...]:
    """Return the values that decide the sites of a network, and the checks of their use."""
    parts = named_user_parts(settings)
    level = settings.graft.level if settings.graft is not None and parts else ""
    pruning, criteria = settings.pruning, set[str]()
    of_pruning: tuple[object, ...] = ()
    if pruning is not None:
        of_pruning = (pruning.method.coupled, pruning.method.allocation, pruning.skip_first, pruning.remove)
        of_pruning += (pruning.target, pruning.target_of, pruning.method.schedule == "gated")
        criteria.add(pruning.method.criterion)
    if settings.repr is not None:
        criteria.add(settings.repr.criterion)
    ranking = (*of_pruning, *sorted(criteria & RESTRICTED))
    methods = settings.method_on_sites, settings.method_on_filters, ranking, settings.population.repair
    return settings.sites, settings.align is None, *methods, level, str(settings.diagnostics), str(parts)


def _sites_line(settings: Settings, network: nn.Module, sites: Sequence[Site]) -> str:
    found = "conv_bn" if all(site.is_conv_bn for site in sites) else "all"
    choice = f"{settings.sites} chose {found}" if settings.sites == "auto" else settings.sites
    share = alpha_share(network, sites)
    return f"{settings.model.name}: {len(sites)} sites ({choice}) with {share:.1%} of the parameters"


def _uses_muon(possible_settings: Sequence[Settings]) -> bool:
    return any("muon" in settings.optimizers for settings in possible_settings)


def _check_teacher(teacher: TeacherSettings, splits: Splits, width: int, where: str, *, uses_muon: bool) -> None:
    if teacher.epochs is not None:
        network = build(teacher.model or "", width, f"{where}.model", teacher.args)
        check_forward(network, splits.image_shape, width, f"{where}.model:")
        if uses_muon:
            hidden_weights(network, teacher.model or "")
    else:
        load_teacher(teacher, width, splits.image_shape, where, mean=splits.recipe.mean, std=splits.recipe.std)
