"""docs/records.md documents every column, and every query answers its question."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_makers import grafts_of, rounds_of, trial

from graftpop.metrics import ACCURACY
from graftpop.run.schemas import schemas

PAGE = (Path(__file__).parents[2] / "docs" / "records.md").read_text(encoding="utf-8")


def query(part: str, language: str) -> str:
    return part.partition(f"```{language}\n")[2].partition("```")[0]


QUERIES = {
    part.partition("\n")[0]: (query(part, "sql"), query(part, "python"))
    for part in PAGE.partition("\n## trials.parquet")[0].split("\n### ")[1:]
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two runs; the second has the best trial and two restarted peers."""
    root = tmp_path_factory.mktemp("records")
    _write(root / "runs" / "first", [trial("00000", val_accuracy=0.6, variant="a", seed=0)], {})
    trials = [
        trial("00000", test_accuracy=0.5, variant="a", seed=0),
        trial("00001", test_accuracy=0.7, variant="a", seed=1),
        trial("00002", val_accuracy=0.9, test_accuracy=0.8, variant="b", seed=0, status="completed"),
        trial("00003", val_accuracy=0.95, status="stopped", variant="b", seed=1),
    ]
    rounds = [*rounds_of("00000", images=1250), *rounds_of("00002", num_peers=4, images=1250)]
    restarts = ((0, "lost", None), (0, "replaced", 2.0), (1, "replaced", 3.0), (1, "replaced", 4.0))
    events = [
        {"trial_id": "00002", "round": 2, "peer": peer, "event": event, "cause": "", "took_s": took_s}
        for peer, event, took_s in restarts
    ]
    _write(
        root / "runs" / "second",
        trials,
        {"rounds": rounds, "grafts": grafts_of("00000"), "events": events, "diagnostics": []},
    )
    return root


def _write(run: Path, trials: list[dict[str, Any]], tables: dict[str, list[dict[str, Any]]]) -> None:
    run.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(trials), run / "trials.parquet")
    for name, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows, schemas([ACCURACY])[name]), run / f"{name}.parquet")


ANSWERS: dict[str, list[tuple[Any, ...]]] = {
    "Which trial is the best?": [("00002", "completed", 0.9, 0.8)],
    "How good is each trial after equal training?": [("00000", 0.21), ("00002", 0.13)],
    "Which layers took most from donors?": [("conv1", 0.5), ("layer1.<conv>", 0.5)],
    "How many filters are invalid, before and after each exchange?": [(1, 12, 4), (2, 12, 4)],
    "Which peers were restarted, how often, and how long did it take?": [("00002", 1, 2, 7.0), ("00002", 0, 1, 2.0)],
    "How much do the seeds of a comparison vary?": [("b", 1, 0.8, None), ("a", 2, 0.6, 0.02**0.5)],
    "Which of several runs is the best?": [("runs/second/trials.parquet", "00003", 0.95)],
}
COLUMNS = {"Which trial is the best?": ["trial_id", "status", "val_accuracy", "test_accuracy"]}
"""Columns to compare, by question; all columns by default."""


def by_pandas(program: str) -> pd.DataFrame:
    """Return the value of a program's last expression."""
    *statements, last = re.split(r"\n(?=[^\s\])])", program.strip())
    names: dict[str, Any] = {"pd": pd}
    exec("\n".join(statements), names)
    answer: pd.DataFrame = eval(last, names)
    return answer


def rows_of(answer: pd.DataFrame, title: str) -> Iterator[tuple[Any, ...]]:
    for row in answer[COLUMNS.get(title, list(answer.columns))].itertuples(index=False):
        yield tuple(None if pd.isna(value) else value for value in row)


def test_every_question_has_queries_in_sql_and_pandas() -> None:
    questions = re.findall(r"^### (.*)", PAGE, re.MULTILINE)
    assert questions == list(QUERIES) == list(ANSWERS)


@pytest.mark.parametrize("title", ANSWERS)
@pytest.mark.parametrize("library", ["duckdb", "pandas"])
def test_query_answers_its_question(title: str, library: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sql, python = QUERIES[title]
    monkeypatch.chdir(runs if "runs/" in sql else runs / "runs" / "second")
    answer = duckdb.execute(sql).df() if library == "duckdb" else by_pandas(python)
    if title == "Which layers took most from donors?":
        answer = answer.sort_values("site")  # both sites have equal shares
    for row, expected in zip(rows_of(answer, title), ANSWERS[title], strict=True):
        assert row == pytest.approx(expected, nan_ok=True), answer


def test_columns_of_every_table_are_documented_in_order() -> None:
    for name, schema in schemas([ACCURACY]).items():
        section = PAGE.partition(f"## {name}.parquet")[2].partition("\n## ")[0]
        documented = re.findall(r"^\| `(\w+)` \| .+ \|$", section, re.MULTILINE)
        assert [column for column in documented if column != "status"] == schema.names, name
