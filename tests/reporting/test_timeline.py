"""The timeline of a report: a bar per trial that has started, from its start to its end or its last round."""

from datetime import UTC, datetime, timedelta
from typing import Any

from graftpop.reporting.timeline import timeline

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def row(number: int, status: str, start_s: float | None, end_s: float | None, wall_s: float = 0.0) -> dict[str, Any]:
    start, end = (None if seconds is None else NOON + timedelta(seconds=seconds) for seconds in (start_s, end_s))
    return {"trial_id": f"{number:05}", "status": status, "wall_s": wall_s, "started_at": start, "ended_at": end}


def test_bars_span_each_trial_in_the_color_of_its_status() -> None:
    drawn = timeline(
        [
            row(0, "completed", 0, 60),
            row(1, "failed", 10, 15),
            row(2, "completed", 60, 90),
            row(3, "running", 90, None, wall_s=7.5),
            row(4, "pending", None, None),
        ]
    )
    assert drawn is not None
    assert drawn.plot is not None
    bars = {trace.name: trace for trace in drawn.plot.data}
    assert list(bars) == ["completed", "running", "failed"]
    found = {name: (list(bar.y), list(bar.x), list(bar.base)) for name, bar in bars.items()}
    assert found == {
        "completed": ([0, 2], [60_000, 30_000], ["2026-05-04T12:00:00+00:00", "2026-05-04T12:01:00+00:00"]),
        "running": ([3], [7_500], ["2026-05-04T12:01:30+00:00"]),
        "failed": ([1], [5_000], ["2026-05-04T12:00:10+00:00"]),
    }
    assert len({bar.marker.color for bar in bars.values()}) == 3
    assert "0:01:38" in drawn.description


def test_description_has_both_dates_of_a_study_over_several_days() -> None:
    drawn = timeline([row(0, "completed", 0, 2 * 86_400)])
    assert drawn is not None
    assert drawn.description.startswith("1 trial from 2026-05-04 12:00 to 2026-05-06 12:00 UTC")


def test_nothing_is_drawn_before_a_trial_starts_or_for_runs_without_times() -> None:
    assert timeline([row(0, "pending", None, None)]) is None
    assert timeline([{"trial_id": "00000", "status": "completed", "wall_s": 3.0}]) is None
