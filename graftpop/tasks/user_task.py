"""User-defined tasks, with checks of their results."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from graftpop.errors import GraftpopError, SpaceError, describe_exception
from graftpop.metrics import Metric
from graftpop.tasks.task import Outputs, Task

__all__ = ["UserTask", "checked_class"]

MOST: Final = 1 + 1e-6
"""The largest share; one that was computed in float32 may be above 1."""


def checked_class(part: Any, where: str) -> Callable[[], Task]:
    """Return a user's class of a task, or function that makes one.

    Raises:
        SpaceError: it is neither.
    """
    if isinstance(part, type) and not issubclass(part, Task):
        raise SpaceError(f"{where} must be a subclass of graftpop.Task, got another class; derive it from that")
    if not callable(part):
        raise SpaceError(f"{where} must be a subclass of graftpop.Task, got {type(part).__name__}; give its class")
    make: Callable[[], Task] = part
    return make


class UserTask(Task):
    """A user-defined task whose results are checked.

    Args:
        make: makes the task; usually the class of the task.
        where: its key and name, for messages.

    Attributes:
        kind: class of the task.

    Raises:
        SpaceError: the task cannot be made, or names no metrics.
    """

    def __init__(self, make: Callable[[], Task], where: str) -> None:
        self._where = where
        task = self._call("()", make)
        if not isinstance(task, Task):
            raise SpaceError(f"{where} must make a graftpop.Task, got {type(task).__name__}; give the class of a task")
        self._task, self.kind = task, type(task)
        self.metrics = _checked_metrics(task.metrics, where)
        if not (task.num_outputs is None or (type(task.num_outputs) is int and task.num_outputs > 0)):
            raise SpaceError(f"{where}.num_outputs must be a whole number above 0, got {task.num_outputs!r}; fix it")
        self.num_outputs = task.num_outputs

    @property
    def scores_outputs(self) -> bool:
        """Whether predictions follow from the network's outputs alone; False if the task calls the network itself."""
        return self.kind.forward is Task.forward and self.kind.infer is Task.infer

    def forward(self, network: nn.Module, inputs: Tensor) -> Outputs:
        """Return the task's outputs.

        Raises:
            SpaceError: here and below, the task fails, or returns something unsuitable.
        """
        return self._outputs("forward", self._call("forward", self._task.forward, network, inputs), len(inputs))

    def infer(self, network: nn.Module, inputs: Tensor) -> Outputs:
        """Return the task's outputs for scoring."""
        return self._outputs("infer", self._call("infer", self._task.infer, network, inputs), len(inputs))

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Return the task's loss."""
        loss = self._call("loss", self._task.loss, outputs, targets)
        if not (isinstance(loss, Tensor) and loss.dim() == 0 and loss.is_floating_point()):
            raise self._refusal("loss", "a scalar tensor of floating-point numbers", loss)
        return loss

    def predict(self, outputs: Outputs) -> Tensor:
        """Return the task's predictions."""
        predictions = self._call("predict", self._task.predict, outputs)
        num = len(outputs[0] if isinstance(outputs, tuple) else outputs)
        if not (isinstance(predictions, Tensor) and predictions.shape[:1] == (num,)):
            raise self._refusal("predict", f"a tensor with {num} rows, one per item", predictions)
        return predictions

    def score(self, predictions: Tensor, targets: Tensor) -> Mapping[str, float]:
        """Return the task's metrics: the primary is finite, the others may be infinite."""
        scores = self._call("score", self._task.score, predictions, targets)
        names = [metric.name for metric in self.metrics]
        if not (isinstance(scores, Mapping) and set(scores) == set(names)):
            got = sorted(map(str, scores)) if isinstance(scores, Mapping) else scores
            raise self._refusal("score", f"a dict with a number for each of {', '.join(names)}", got)
        numbers = {name: float(self._call("score", float, scores[name])) for name in names}
        if any(map(math.isnan, numbers.values())) or not math.isfinite(numbers[names[0]]):
            raise self._refusal("score", f"a finite number for {names[0]}, and for others no nan", numbers)
        for metric in self.metrics:
            if metric.is_share and not 0 <= numbers[metric.name] <= MOST:
                raise self._refusal("score", f"a share in [0, 1] for {metric.name}, which is shown in percent", numbers)
        return numbers

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """Return the task's combined predictions."""
        combined = self._call("combine", self._task.combine, predictions)
        if not (isinstance(combined, Tensor) and combined.shape[:1] == predictions[0].shape[:1]):
            raise self._refusal("combine", f"a tensor with {len(predictions[0])} rows", combined)
        return combined

    def validation_loss(self, outputs: Outputs, targets: Tensor) -> float | None:
        """Return the task's loss of a split that is not trained on."""
        loss = self._call("validation_loss", self._task.validation_loss, outputs, targets)
        return None if loss is None else float(self._call("validation_loss", float, loss))

    def num_correct(self, outputs: Outputs, targets: Tensor) -> Tensor | None:
        """Return the task's number of correct items."""
        correct = self._call("num_correct", self._task.num_correct, outputs, targets)
        if correct is None:
            return None
        if not (isinstance(correct, int) or (isinstance(correct, Tensor) and correct.numel() == 1)):
            raise self._refusal("num_correct", "a number or None", correct)
        return torch.as_tensor(correct)

    def logits(self, outputs: Outputs) -> Tensor | None:
        """Return the task's class scores."""
        logits = self._call("logits", self._task.logits, outputs)
        if logits is not None and not (isinstance(logits, Tensor) and logits.dim() == 2):
            raise self._refusal("logits", "a tensor (B, C)", logits)
        return logits

    def decisions(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the task's decisions."""
        decisions = self._call("decisions", self._task.decisions, predictions, targets)
        num = len(predictions)
        if not (isinstance(decisions, Tensor) and decisions.dtype == torch.int64 and decisions.shape in ((0,), (num,))):
            raise self._refusal("decisions", f"an int64 tensor ({num},), one per item, or an empty one", decisions)
        return decisions

    def _outputs(self, method: str, outputs: Outputs, num_items: int) -> Outputs:
        parts = outputs if isinstance(outputs, tuple) else (outputs,)
        for part in parts or [outputs]:
            if not (isinstance(part, Tensor) and part.shape[:1] == (num_items,)):
                raise self._refusal(method, f"a tensor, or a tuple of tensors, with {num_items} rows", part)
        return outputs

    def _call(self, method: str, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except (GraftpopError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # user code may raise anything
            name = method if method == "()" else f".{method}"
            raise SpaceError(f"{self._where}{name} failed: {describe_exception(error)}; fix it") from error

    def _refusal(self, method: str, expected: str, got: object) -> SpaceError:
        kind = f"a tensor of shape {tuple(got.shape)}, {got.dtype}" if isinstance(got, Tensor) else repr(got)[:80]
        return SpaceError(f"{self._where}.{method} must return {expected}, got {kind}; fix it")


def _checked_metrics(metrics: Any, where: str) -> tuple[Metric, ...]:
    is_list = isinstance(metrics, Sequence) and bool(metrics)
    if not is_list or not all(isinstance(metric, Metric) for metric in metrics):
        raise SpaceError(
            f"{where}.metrics must be a tuple of graftpop.Metric, the primary first, got {metrics!r}; write "
            f"metrics = (graftpop.Metric('rmse', 'min'),)"
        )
    for metric in metrics:
        is_name = metric.name.isascii() and metric.name.isidentifier()
        if not is_name or metric.mode not in ("max", "min") or metric.name == "loss":
            raise SpaceError(
                f"{where}.metrics: a name must be letters, digits and underscores, other than loss, and a mode max or "
                f"min, got {metric}; rename it"
            )
    if len({metric.name for metric in metrics}) < len(metrics):
        raise SpaceError(f"{where}.metrics: names must be distinct, got {metrics}; rename one")
    return tuple(metrics)
