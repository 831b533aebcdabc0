"""Rules of the methods' sections: their requirements on training and peers, and the pairs that exclude each other."""

from collections.abc import Mapping, Sequence
from typing import Final

from graftpop.errors import SpaceError
from graftpop.hooks.gated_phases import phases_of
from graftpop.settings import Settings
from graftpop.settings.pruning import PRESETS, TORCH_PRUNING, PruningMethod, PruningSettings
from graftpop.space.validation_messages import Origin

__all__ = ["check_methods"]

EXCLUSIVE = (
    ("repr", "pruning", "both drop filters"),
    ("swa", "pruning", "averaging restores pruned filters"),
    ("ema", "pruning", "averaging restores pruned filters"),
    ("swa", "ema", "both replace the final weights"),
)
"""Pairs of sections that exclude each other, with the reason."""

AT_ONE_STEP: Final = ("wash", "sparta", "outer")
"""Exchange rules in which all peers change at the same step."""

RELEASED_CODE_VALUES: Final[Mapping[str, object]] = {
    "base": 0.5,
    "level": "layer",
    "criterion": "entropy",
    "source": "external",
}
"""Keys of graft that compat: released_code fixes."""


def check_methods(settings: Settings, origin: Origin) -> None:
    """Check the sections of the methods.

    Raises:
        SpaceError: a method's requirement is not met, or two methods exclude each other.
    """
    _check_exchange(settings, origin)
    _check_graft(settings, origin)
    _check_teachers(settings, origin)
    _check_repr(settings, origin)
    _check_pruning(settings, origin)
    for first, second, reason in EXCLUSIVE:
        if getattr(settings, first) is not None and getattr(settings, second) is not None:
            raise SpaceError(f"{origin(first)}: excludes {second}, since {reason}, got both; remove one")


def _check_exchange(settings: Settings, origin: Origin) -> None:
    population = settings.population
    rules = [*settings.exchange_sections, *(["exchange"] if settings.exchange is not None else [])]
    if len(rules) > 1:
        raise SpaceError(
            f"{origin(rules[1])}: a population has at most one exchange rule, got {' and '.join(rules)}; remove one"
        )
    if rules and population.num_peers < 2:
        raise SpaceError(
            f"{origin('population.num_peers')}: an exchange of weights needs at least 2 peers, got "
            f"{population.num_peers}; choose 2 or more, or remove {rules[0]}"
        )
    if not rules and population.exchange_every != "round":
        raise SpaceError(
            f"{origin('population.exchange_every')}: must be round without an exchange rule, got "
            f"{population.exchange_every}; add a rule, or remove it"
        )
    if population.repair and (not rules or settings.exchanges_in_steps):
        raise SpaceError(
            f"{origin('population.repair')}: needs an exchange rule whose exchanges follow rounds, got true with "
            f"{'no rule' if not rules else f'population.exchange_every: {population.exchange_every}'}; set it to false"
        )
    if settings.wash is not None and settings.topology not in ("all", "mean"):
        raise SpaceError(
            f"{origin('population.topology')}: must be all with wash, which shuffles the weights of all peers, got "
            f"{settings.topology}; set all, or leave it out"
        )
    _check_align(settings, rules, origin)
    at_one_step = next((name for name in AT_ONE_STEP if getattr(settings, name) is not None), None)
    if at_one_step is not None and population.mode == "async":
        raise SpaceError(
            f"{origin('population.mode')}: must be sync with {at_one_step}, whose peers change at the same step, got "
            f"async; set it, or remove {at_one_step}"
        )
    if settings.outer is not None and settings.initialization != "same":
        raise SpaceError(
            f"{origin('population.initialization')}: must be same with outer, whose peers continue from common "
            f"weights, got {population.initialization}; set it, or remove outer"
        )
    if settings.exchanges_in_steps and settings.topology == "best":
        raise SpaceError(
            f"{origin('population.topology')}: best needs validation, which follows a round, got "
            f"population.exchange_every: {population.exchange_every}; set it to round, or choose another topology"
        )


def _check_align(settings: Settings, rules: Sequence[str], origin: Origin) -> None:
    if settings.align is None:
        return
    if not rules:
        step = "add graft or papa" if settings.graft is None else "set graft.source: external"
        raise SpaceError(
            f"{origin('align')}: needs an exchange rule, whose donors it aligns, got none; {step}, or remove align"
        )
    if in_place := next((name for name in AT_ONE_STEP if getattr(settings, name) is not None), None):
        raise SpaceError(
            f"{origin('align')}: excludes {in_place}, whose peers have one order of units, got both; remove one"
        )


def _check_graft(settings: Settings, origin: Origin) -> None:
    graft = settings.graft
    if graft is None:
        return
    if graft.burn_in_rounds >= settings.num_rounds:
        raise SpaceError(
            f"{origin('graft.burn_in_rounds')}: must be below the number of rounds "
            f"({settings.num_rounds}), got {graft.burn_in_rounds}"
        )
    if settings.exchanges_in_steps and (graft.burn_in_rounds or graft.compat == "released_code"):
        key, needed = ("burn_in_rounds", 0) if graft.burn_in_rounds else ("compat", "none")
        raise SpaceError(
            f"{origin(f'graft.{key}')}: must be {needed} with exchanges after optimizer steps, got "
            f"{getattr(graft, key)}; set it, or population.exchange_every: round"
        )
    for key, published in RELEASED_CODE_VALUES.items():
        if graft.compat == "released_code" and getattr(graft, key) != published:
            raise SpaceError(
                f"{origin(f'graft.{key}')}: must be {published} with graft.compat: released_code, got "
                f"{getattr(graft, key)}; set {published}, or graft.compat: none"
            )


def _check_teachers(settings: Settings, origin: Origin) -> None:
    for index, teacher in enumerate(settings.distillation.teachers if settings.distillation else ()):
        given = {
            "epochs": teacher.epochs is not None,
            "checkpoint": teacher.checkpoint is not None,
            "pretrained: true": teacher.pretrained,
        }
        sources = [source for source, is_given in given.items() if is_given]
        where = origin(f"distillation.teachers[{index}]")
        if len(sources) != 1:
            raise SpaceError(
                f"{where}: needs exactly one of {', '.join(given)}, got {' and '.join(sources) or 'none'}; "
                f"{'remove the others' if sources else 'add one'}"
            )
        if teacher.model is None and sources != ["checkpoint"]:
            raise SpaceError(
                f"{where}: {sources[0]} needs the name of a network, got model null; set model, as in model.name"
            )
        training = settings.training
        if teacher.epochs is not None and training.schedule != "one_cycle" and teacher.epochs <= training.warmup_epochs:
            raise SpaceError(
                f"{where}.epochs: must be above training.warmup_epochs ({training.warmup_epochs:g}), which the teacher "
                f"follows too, got {teacher.epochs}; train it longer, or warm up for less"
            )


def _check_repr(settings: Settings, origin: Origin) -> None:
    cycles = settings.repr
    if cycles is None:
        return
    if settings.task.is_user_defined and cycles.criterion == "interaction":
        raise SpaceError(
            f"{origin('repr.criterion')}: needs the classes of task classification or recognition, got "
            f"interaction with task {settings.task.name}; choose another criterion"
        )
    num_epochs = cycles.N * (cycles.S1 + cycles.S2)
    if num_epochs >= settings.num_epochs:
        raise SpaceError(
            f"{origin('repr')}: N * (S1 + S2) = {cycles.N} * ({cycles.S1} + {cycles.S2}) = {num_epochs} "
            f"epochs of cycles must be below the epochs of the training, got {settings.num_epochs} epochs; "
            f"shorten the cycles, or train longer"
        )


def _check_pruning(settings: Settings, origin: Origin) -> None:
    pruning, population = settings.pruning, settings.population
    if pruning is None:
        return
    preset = PRESETS[pruning.preset] if pruning.preset is not None else {}
    for key, fixed in preset.items():
        if getattr(pruning, key) not in (None, fixed):
            raise SpaceError(
                f"{origin(f'pruning.{key}')}: must be {fixed} with preset {pruning.preset}, got "
                f"{getattr(pruning, key)}; leave it out, or remove pruning.preset"
            )
    method = pruning.method
    if settings.task.is_user_defined and (method.criterion == "interaction" or method.allocation == "utilization"):
        key = "criterion" if method.criterion == "interaction" else "allocation"
        raise SpaceError(
            f"{origin(f'pruning.{key}')}: needs the classes of task classification or recognition, got "
            f"{getattr(method, key)} with task {settings.task.name}; choose another {key}"
        )
    ranks = method.selection == "lowest" or method.allocation in ("global", "budget")
    if pruning.criterion is not None and not ranks:
        raise SpaceError(
            f"{origin('pruning.criterion')}: has no effect with selection {method.selection} and allocation "
            f"{method.allocation}, which use no scores, got {pruning.criterion}; leave it out"
        )
    if method.criterion.startswith(TORCH_PRUNING) and method.coupled == "apart":
        raise SpaceError(
            f"{origin('pruning.coupled')}: must be sum or skip with criterion {method.criterion}, which scores what is "
            f"removed together, got apart; set it, or choose another criterion"
        )
    if method.allocation == "budget" and pruning.target is None:
        raise SpaceError(
            f"{origin('pruning.allocation')}: budget needs pruning.target, which it distributes over the layers, got "
            f"null; set pruning.target, or choose another allocation"
        )
    if method.schedule == "gated":
        _check_gated(settings, pruning, method, origin)
    if pruning.target is not None and method.coupled == "apart":
        raise SpaceError(
            f"{origin('pruning.coupled')}: must be sum or skip with pruning.target, since units dropped apart may stay "
            f"in the network as zeros, got apart; set it, or pruning.rate in place of the target"
        )
    if population.makes_soup:
        raise SpaceError(
            f"{origin('population.output')}: pruning excludes a mean of weights, since each peer drops other "
            f"filters, got {population.output}; choose best_peer or ensemble, or remove the section pruning"
        )


def _check_gated(settings: Settings, pruning: PruningSettings, method: PruningMethod, origin: Origin) -> None:
    if method.selection != "lowest":
        raise SpaceError(
            f"{origin('pruning.selection')}: must be lowest with schedule gated, which drops units step by step, got "
            f"{method.selection}; set it, or choose schedule hard"
        )
    phases = phases_of(pruning, settings.num_epochs)
    if not phases.num_ticks(phases.last):
        raise SpaceError(
            f"{origin('pruning.tock_epochs')}: must leave epochs for ticks after the first tock and before the last "
            f"{settings.num_epochs - phases.last} epochs, got {pruning.tock_epochs} of {settings.num_epochs} epochs; "
            f"shorten the tocks, or train longer"
        )
