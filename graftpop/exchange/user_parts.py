"""User-defined parts of an exchange: a rule, alpha, and a criterion, with checks of their results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from graftpop.errors import GraftpopError, SpaceError, describe_exception
from graftpop.exchange.rule import ExchangeContext, ExchangeRule
from graftpop.ops.criteria import Filters
from graftpop.settings import Settings
from graftpop.training.snapshot import Snapshot
from graftpop.user_code import PYTHON, import_user_code

__all__ = ["UserRule", "named_user_parts", "user_parts"]


def named_user_parts(settings: Settings) -> dict[str, str]:
    """Return the user code that the settings name, `python:MODULE.NAME` by key."""
    graft = settings.graft
    named: dict[str, object] = {"exchange": settings.exchange}
    if graft is not None and graft.source == "external":
        named |= {"graft.alpha": graft.alpha, "graft.criterion": graft.criterion}
    return {key: name for key, name in named.items() if isinstance(name, str) and name.startswith(PYTHON)}


def user_parts(settings: Settings, given: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Return the user-defined parts by key, imported unless given; the results of alpha and criterion are checked.

    Args:
        settings: the population's settings.
        given: parts that were given as objects, by key.

    Raises:
        SpaceError: a part cannot be imported, or is not callable.
    """
    parts = {}
    for key, name in named_user_parts(settings).items():
        part = given[key] if key in given else import_user_code(name, key, SpaceError)
        if not callable(part):
            raise SpaceError(f"{key}: must be callable, got {type(part).__name__} from {name}; give a {KINDS[key]}")
        parts[key] = CHECKS[key](part, f"{key}: {name}")
    return parts


def _checked_rule(part: Any, where: str) -> Callable[[ExchangeContext], ExchangeRule]:
    if not (isinstance(part, type) and issubclass(part, ExchangeRule)):
        raise SpaceError(f"{where} must be a subclass of graftpop.ExchangeRule, got another object; give its class")
    return lambda context: UserRule(part, where, context)


def _checked_alpha(part: Callable[..., Any], where: str) -> Callable[[Tensor, Tensor], Tensor]:
    def alpha(own: Tensor, theirs: Tensor) -> Tensor:
        shares = _tensor(_call(part, where, own.clone(), theirs.clone()), own.shape, where)
        if not ((shares >= 0) & (shares <= 1)).all():
            raise SpaceError(f"{where} must return shares in [0, 1], got {_range(shares)}; clamp them")
        return shares.detach().to(own.device, torch.float64)

    return alpha


def _checked_criterion(part: Callable[..., Any], where: str) -> Callable[[Filters, torch.Generator], Tensor]:
    def criterion(filters: Filters, generator: torch.Generator) -> Tensor:
        scale, shift = (None if tensor is None else tensor.clone() for tensor in filters[1:])
        copies = Filters(filters.weight.clone(), scale, shift)
        scores = _tensor(_call(part, where, copies, generator), filters.weight.shape[:1], where)
        return scores.detach().to(filters.weight.device)

    return criterion


KINDS: Final = {
    "exchange": "subclass of graftpop.ExchangeRule",
    "graft.alpha": "function of two tensors of scores",
    "graft.criterion": "function of Filters and a generator",
}
CHECKS: Final[Mapping[str, Callable[[Any, str], Callable[..., Any]]]] = {
    "exchange": _checked_rule,
    "graft.alpha": _checked_alpha,
    "graft.criterion": _checked_criterion,
}


class UserRule(ExchangeRule):
    """A user-defined rule whose results are checked.

    Args:
        kind: class of the rule.
        where: its key and name, for messages.
        context: the peer, its network and its settings.
    """

    def __init__(self, kind: type[ExchangeRule], where: str, context: ExchangeContext) -> None:
        super().__init__(context)
        self._where = where
        self._rule: ExchangeRule = _call(kind, where, context)

    def begin(self) -> None:
        """Let the rule prepare for exchanges.

        Raises:
            SpaceError: the rule raises.
        """
        _call(self._rule.begin, self._where)

    def publish(self) -> Mapping[str, Tensor]:
        """Return the tensors that the rule publishes.

        Raises:
            SpaceError: the rule raises, or returns anything but tensors by name.
        """
        published = _call(self._rule.publish, self._where)
        if not isinstance(published, Mapping) or not all(isinstance(value, Tensor) for value in published.values()):
            raise SpaceError(
                f"{self._where}.publish must return tensors by name, got {_kind(published)}; return a dict"
            )
        return published

    def receive(self, donors: Sequence[Snapshot]) -> Mapping[str, float] | None:
        """Let the rule change the weights; it gets copies of the snapshots, because other peers read them too.

        Raises:
            SpaceError: the rule raises, leaves weights that are not finite or of another shape, or returns anything but
                figures.
        """
        state = self.context.state
        copies = [replace(donor, weights=donor.weights.copy(), integers=donor.integers.copy()) for donor in donors]
        memory = state.buffer.data_ptr(), state.buffer.shape
        figures = _call(self._rule.receive, self._where, copies)
        if (state.buffer.data_ptr(), state.buffer.shape) != memory:
            raise SpaceError(f"{self._where}.receive must change the weights in place, got another tensor; use copy_")
        state.check_shapes()
        if not state.buffer.isfinite().all():
            raise SpaceError(f"{self._where}.receive must leave finite weights, got others; check its arithmetic")
        if figures is None:
            return None
        if not isinstance(figures, Mapping) or not all(isinstance(value, float | int) for value in figures.values()):
            raise SpaceError(
                f"{self._where}.receive must return None or numbers by name, got {_kind(figures)}; return a dict"
            )
        return {str(name): float(value) for name, value in figures.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the rule's state."""
        return self._rule.state_dict()

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the rule's state."""
        self._rule.load_state_dict(tensors)


def _call(part: Callable[..., Any], where: str, *arguments: Any) -> Any:
    try:
        with torch.no_grad():
            return part(*arguments)
    except GraftpopError:
        raise
    except Exception as error:  # user code may raise anything
        raise SpaceError(f"{where} failed: {describe_exception(error)}; fix it") from error


def _tensor(value: Any, shape: torch.Size, where: str) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != shape or value.is_complex():
        raise SpaceError(f"{where} must return a tensor of shape {tuple(shape)}, got {_kind(value)}; fix it")
    if not value.isfinite().all():
        raise SpaceError(f"{where} must return finite numbers, got {_range(value)}; fix it")
    return value


def _kind(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _range(value: Tensor) -> str:
    return f"{value.min().item():g} to {value.max().item():g}"
