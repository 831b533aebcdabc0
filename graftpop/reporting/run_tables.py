"""The tables of a run that its report needs, without rows that it does not show."""

from typing import NamedTuple

import pyarrow as pa

from graftpop.metrics import Metric
from graftpop.reporting.trial_details import trials_in_detail
from graftpop.run.run_folder import RunFolder
from graftpop.space import parse_space
from graftpop.space.yaml_text import read_sections

__all__ = ["Tables", "read_tables", "round_columns"]


class Tables(NamedTuple):
    """Tables of a run; grafts and diagnostics may have only the rows of `trials_in_detail`."""

    trials: pa.Table
    rounds: pa.Table
    grafts: pa.Table
    diagnostics: pa.Table
    events: pa.Table


def round_columns(primary: Metric) -> tuple[str, ...]:
    """Return the columns to read from `rounds.parquet`, which has hundreds of thousands of rows in large studies."""
    return "trial_id", "round", "peer", "train_loss", primary.val, "train_images"


def read_tables(folder: RunFolder, text: str) -> Tables:
    """Return the tables of a run folder that the page needs, given its space as YAML."""
    space = parse_space(read_sections(text, "space.yaml"), "space.yaml")
    folder = RunFolder(folder.location, space.metrics)
    trials = folder.read_table("trials")
    detailed = trials_in_detail(trials.to_pylist(), space.primary)
    return Tables(
        trials,
        folder.read_table("rounds", columns=round_columns(space.primary)),
        folder.read_table("grafts", trial_ids=detailed),
        folder.read_table("diagnostics", trial_ids=detailed),
        folder.read_table("events"),
    )
