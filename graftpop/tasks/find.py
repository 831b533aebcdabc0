"""The task that a population's settings name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from graftpop.data.images import Splits
from graftpop.errors import DataError, SpaceError
from graftpop.metrics import Metric
from graftpop.settings.task import TaskSettings
from graftpop.tasks.classification import Classification
from graftpop.tasks.recognition import Recognition
from graftpop.tasks.task import Task
from graftpop.tasks.user_task import UserTask, checked_class
from graftpop.user_code import import_user_code

__all__ = ["has_logits", "make_task", "metrics_of", "num_outputs"]

TASKS: Final[Mapping[str, Callable[[TaskSettings], Task]]] = {
    "classification": lambda settings: Classification(settings.label_smoothing),
    "recognition": Recognition,
}


def make_task(settings: TaskSettings, given: Callable[[], Task] | None = None) -> Task:
    """Return a new task.

    Args:
        settings: the section of the task.
        given: makes a user-defined task that was given as an object; None: the task is imported by its name.

    Raises:
        SpaceError: a user-defined task cannot be imported or made.
    """
    if not settings.is_user_defined:
        return TASKS[settings.name](settings)
    where = f"task.name: {settings.name}"
    return UserTask(checked_class(given or import_user_code(settings.name, "task.name", SpaceError), where), where)


def metrics_of(name: str, given: Callable[[], Task] | None = None) -> Sequence[Metric]:
    """Return the metrics of a user-defined task, by its name or its object; arguments and errors as in `make_task`."""
    return make_task(TaskSettings(name=name), given).metrics


def num_outputs(task: Task, splits: Splits) -> int:
    """Return the argument of the function that makes the network: the task's own, or the number of classes.

    Raises:
        DataError: user-defined data does not name the classes.
    """
    if task.num_outputs is not None:
        return task.num_outputs
    if not splits.class_names:
        raise DataError(
            "data: training data must have an attribute `classes`, the names of its classes, got none; set it in the "
            "function of data.name"
        )
    return len(splits.class_names)


def has_logits(task: Task) -> bool:
    """Return whether a task has logits, which distillation and mutual learning need."""
    kind = task.kind if isinstance(task, UserTask) else type(task)
    return kind.logits is not Task.logits
