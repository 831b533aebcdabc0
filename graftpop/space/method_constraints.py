"""The rules of the methods' sections: what each needs of the training and the peers, and which exclude each other."""

from graftpop.errors import SpaceError
from graftpop.settings import Settings
from graftpop.space.validation_messages import Origin

__all__ = ["check_methods"]

EXCLUSIVE = (
    ("repr", "attenuation", "both drop filters"),
    ("swa", "attenuation", "the mean of weights brings attenuated filters back"),
)

OF_THE_RELEASED_CODE = {"level": "layer", "criterion": "entropy", "source": "external"}


def check_methods(settings: Settings, origin: Origin) -> None:
    """Check the sections of the methods.

    Raises:
        SpaceError: something that a method needs is not so.
    """
    _check_graft(settings, origin)
    _check_teachers(settings, origin)
    _check_repr(settings, origin)
    _check_attenuation(settings, origin)
    for one, other, reason in EXCLUSIVE:
        if getattr(settings, one) is not None and getattr(settings, other) is not None:
            raise SpaceError(f"{origin(one)}: excludes {other}, since {reason}, got both; take one out")


def _check_graft(settings: Settings, origin: Origin) -> None:
    graft, population = settings.graft, settings.population
    if graft is None:
        return
    if graft.source == "external" and population.num_peers < 2:
        raise SpaceError(
            f"{origin('population.num_peers')}: grafting over a {population.topology} needs at least 2 "
            f"peers, got {population.num_peers}; choose 2 or more, or take out the section graft to train "
            f"a single network"
        )
    if graft.burn_in_rounds >= settings.num_rounds:
        raise SpaceError(
            f"{origin('graft.burn_in_rounds')}: must be below the number of rounds "
            f"({settings.num_rounds}), got {graft.burn_in_rounds}"
        )
    for key, needed in OF_THE_RELEASED_CODE.items():
        if graft.compat == "released_code" and getattr(graft, key) != needed:
            raise SpaceError(
                f"{origin(f'graft.{key}')}: the released code knows {needed} alone, got "
                f"{getattr(graft, key)}; choose {needed}, or graft.compat: none"
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
            raise SpaceError(f"{where}: needs exactly one of {', '.join(given)}, got {' and '.join(sources) or 'none'}")
        if teacher.model is None and sources != ["checkpoint"]:
            raise SpaceError(
                f"{where}: {sources[0]} needs the name of a network, got model null; set model as in model.name"
            )


def _check_repr(settings: Settings, origin: Origin) -> None:
    cycles = settings.repr
    if cycles is None:
        return
    num_epochs = cycles.N * (cycles.S1 + cycles.S2)
    if num_epochs >= settings.num_epochs:
        raise SpaceError(
            f"{origin('repr')}: the cycles take N * (S1 + S2) = {cycles.N} * ({cycles.S1} + {cycles.S2}) "
            f"= {num_epochs} epochs, and the last filters to come back need at least one more to train, "
            f"got {settings.num_epochs} epochs; shorten the cycles, or train longer"
        )


def _check_attenuation(settings: Settings, origin: Origin) -> None:
    attenuation, output = settings.attenuation, settings.population.output
    if attenuation is None:
        return
    if not attenuation.recoverable and attenuation.factor != 0:
        raise SpaceError(
            f"{origin('attenuation.recoverable')}: false is hard pruning and needs factor 0, got "
            f"{attenuation.factor}; set attenuation.factor: 0, or recoverable: true"
        )
    if output in ("uniform_soup", "greedy_soup"):
        raise SpaceError(
            f"{origin('population.output')}: attenuated filters differ from peer to peer, so that "
            f"networks have no mean, got {output}; choose best_peer or ensemble, or take out the section "
            f"attenuation"
        )
