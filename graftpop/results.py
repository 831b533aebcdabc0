"""`graftpop.read_run`: the tables and figures of a run, for notebooks."""

import base64
import json
from functools import cached_property
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np

from graftpop.comparison import compare_trials
from graftpop.errors import CheckpointError, choose
from graftpop.reporting.run_page import read_figures
from graftpop.run.run_folder import RunFolder
from graftpop.space import parse_space
from graftpop.space.yaml_text import read_sections
from graftpop.study.trials import restored_row

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["Run", "read_run"]


def read_run(location: str | PathLike[str]) -> "Run":
    """Return a run, which may still continue; its tables are as they were at their first use.

        run = graftpop.read_run("runs/digits-grafting-20261130T093512Z")
        run.trials.sort_values("val_accuracy")
        run.plot("curves")

    Args:
        location: folder or URI of the run.

    Raises:
        CheckpointError: it is not the folder of a run.
    """
    return Run(location)


class Run:
    """A run: its tables as pandas data frames, and the figures of its report as plotly figures.

    Args:
        location: folder or URI of the run.

    Raises:
        CheckpointError: it is not the folder of a run.
    """

    def __init__(self, location: str | PathLike[str]) -> None:
        folder = RunFolder(fspath(location))
        where = f"{folder.shown}/space.yaml"
        if not folder.exists("space.yaml"):
            raise CheckpointError(f"{folder.shown}: must be the folder of a run, got none with space.yaml in it")
        self._space = parse_space(read_sections(folder.read_text("space.yaml"), where), where)
        self._folder = RunFolder(folder.location, self._space.metrics)

    @cached_property
    def trials(self) -> "pd.DataFrame":
        """One row per trial: searched values, scores, costs."""
        return self._table("trials")

    @cached_property
    def rounds(self) -> "pd.DataFrame":
        """One row per trial, round and peer."""
        return self._table("rounds")

    @cached_property
    def grafts(self) -> "pd.DataFrame":
        """One row per trial, round, receiver and site."""
        return self._table("grafts")

    @cached_property
    def diagnostics(self) -> "pd.DataFrame":
        """One row per trial, round, peer and diagnostic."""
        return self._table("diagnostics")

    @cached_property
    def events(self) -> "pd.DataFrame":
        """One row per event, such as the loss of a peer."""
        return self._table("events")

    def _table(self, name: str) -> "pd.DataFrame":
        return self._folder.read_table(name).to_pandas()

    @cached_property
    def comparison(self) -> "pd.DataFrame":
        """One row per variant: n seeds, mean and std of the test score, and costs.

        The difference to the baseline is paired by seed, with the ends of its 95 % interval. A space without variants
        has no rows.
        """
        import pandas as pd

        rows = [restored_row(row, self._space.domains) for row in self._folder.read_table("trials").to_pylist()]
        groups = compare_trials(rows, self._space) if self._space.variants else []
        found = []
        for group in groups:
            for line in group.lines:
                difference = line.difference
                low, high = (difference.interval if difference is not None else None) or (None, None)
                found.append(
                    {
                        **group.values,
                        "variant": line.variant,
                        "n": line.n,
                        "mean": line.mean,
                        "std": line.std,
                        "difference": None if difference is None else difference.mean,
                        "low": low,
                        "high": high,
                        **line.costs,
                    }
                )
        return pd.DataFrame(found)

    @cached_property
    def _plots(self) -> dict[str, dict[str, Any]]:
        plots = {name: json.loads(figure)["plot"] for name, figure in read_figures(self._folder).items()}
        return {name: plot for name, plot in plots.items() if plot is not None}

    @property
    def figures(self) -> list[str]:
        """Names of the figures that `plot` returns: those of the report."""
        return list(self._plots)

    def plot(self, name: str = "curves") -> "go.Figure":
        """Return a figure of the report; `curves` are the scores by images trained.

        Raises:
            CheckpointError: there is no figure of this name.
        """
        import plotly.graph_objects as go

        return go.Figure(_with_arrays(choose(self._plots, name, "Run.plot", CheckpointError)))

    def _repr_html_(self) -> str:
        """Return the trials as a table, for notebooks."""
        shown = self.trials.dropna(axis=1, how="all")
        return str(shown.to_html(index=False, na_rep="", float_format="%.4g"))


def _with_arrays(value: Any) -> Any:
    """Return JSON of a plot with arrays in place of their packed form, `{"dtype": ..., "bdata": ..., "shape": ...}`."""
    if isinstance(value, list):
        return [_with_arrays(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "bdata" not in value:
        return {key: _with_arrays(item) for key, item in value.items()}
    array = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
    return array.reshape([int(length) for length in value["shape"].split(",")]) if "shape" in value else array
