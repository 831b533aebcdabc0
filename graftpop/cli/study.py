"""Start or resume a study, run it, and print its results."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from graftpop.cli.exit_codes import OutputError, interrupted_code
from graftpop.cli.stages import console, data_text, prefixed_errors, print_connecting, print_findings, print_stage
from graftpop.errors import GraftpopError, SpaceError
from graftpop.masking import masked

if TYPE_CHECKING:  # slow imports are made inside the functions, so that wrong arguments are refused at once
    from graftpop.cluster.connection import Connection, Start
    from graftpop.run.run_folder import RunFolder
    from graftpop.space import Space
    from graftpop.study.trials import Trial

__all__ = ["new_run_folder", "resume_study", "start_study", "starting_ray"]

RESUME = "resume with: python -m graftpop.tune --resume"


def new_run_folder(out: str | None, space: "Space") -> "RunFolder":
    """Return the folder of a new run, `--out` or one named after the study; it is not created."""
    from graftpop.run.provenance import utc_now
    from graftpop.run.run_folder import RunFolder

    folder = RunFolder(out or f"runs/{space.resolve().name}-{utc_now():%Y%m%dT%H%M%SZ}", space.metrics)
    if folder.exists("space.yaml"):
        raise SpaceError(
            f"--out {folder.location}: must hold no run yet, got one; choose another folder, or resume that run by "
            f"--resume {folder.location}"
        )
    return folder


@contextmanager
def starting_ray(space: "Space", address: str | None) -> Iterator["Start"]:
    """Start Ray on this machine while the block does other work; with an address, the cluster is joined later."""
    from graftpop.cluster.connection import starting

    if address is None:
        print_connecting(address)
    with starting(address, name=space.resolve().name) as start:
        yield start


def start_study(
    space: "Space", folder: "RunFolder", where: str, overrides: Sequence[str], start: "Start", *, token: bool = False
) -> None:
    """Check data, networks and resources, then run a new study; `token` also prints the dashboard's token."""
    from graftpop.cluster.connection import local_node
    from graftpop.cluster.resources import check_resources
    from graftpop.run.provenance import run_provenance
    from graftpop.study.optuna_storage import check_storage
    from graftpop.study.preflight import check_data_and_models
    from graftpop.study.trackers import check_trackers

    settings = space.resolve()
    with prefixed_errors(where, overrides):
        print_stage("loading", data_text(space))
        findings = check_data_and_models(space)
        if start.address is None:
            check_resources(space.boundary_settings(), [local_node()])
    print_findings(findings)
    folder.create()
    with folder.locked():
        write_provenance(folder, run_provenance(sys.argv[1:], settings.seed) | findings._asdict())
        folder.write_text("space.yaml", space.to_yaml())  # from here on, --resume accepts the folder
        try:
            with prefixed_errors(where, overrides), console.status("connecting to trackers and storage"):
                check_trackers(space, folder)
                check_storage(space, folder)
            lead_study(space, folder, start, where, overrides, token=token)
        except GraftpopError:
            if not folder.exists("trials.parquet"):  # nothing has started, so the folder stays free
                folder.remove("space.yaml")
                folder.remove("run.json")
            raise


def resume_study(location: str, address: str | None, *, token: bool = False) -> None:
    """Resume the study of a run folder; `token` also prints the dashboard's token."""
    print_stage("checking", masked(location))
    from graftpop.cluster.address import check_can_lead
    from graftpop.run.provenance import read_provenance, run_provenance
    from graftpop.run.run_folder import RunFolder
    from graftpop.space import parse_without_torch
    from graftpop.space.yaml_text import read_sections
    from graftpop.study.optuna_storage import storage_url
    from graftpop.study.trackers import check_packages

    check_can_lead(address)
    folder = RunFolder(location)
    folder.check_is_run()
    where = f"{folder.location}/space.yaml"
    space, check_rest = parse_without_torch(read_sections(folder.read_text("space.yaml"), where), where, {})
    folder = RunFolder(location, space.metrics)
    with prefixed_errors(where):
        storage_url(space)  # raises without its password
        check_packages(space)
    with starting_ray(space, address) as start:
        check_rest()  # this and all that follows imports torch
        from graftpop.study.preflight import check_data_and_models

        with prefixed_errors(where):
            print_stage("loading", data_text(space))
            findings = check_data_and_models(space)
        print_findings(findings)
        with folder.locked():
            provenance = read_provenance(folder) or run_provenance(sys.argv[1:], space.resolve().seed)
            write_provenance(
                folder, {key: value for key, value in provenance.items() if key not in ("finished", "status")}
            )
            lead_study(space, folder, start, where, token=token)


def lead_study(
    space: "Space", folder: "RunFolder", start: "Start", where: str, overrides: Sequence[str] = (), *, token: bool
) -> None:
    """Connect to a cluster and run a study, new or resumed; an interrupt at any moment is recorded."""
    from graftpop.run.provenance import read_provenance

    try:
        if start.address is None:
            import graftpop.cluster.study  # noqa: F401  # its import takes seconds, in which Ray starts
        else:
            print_connecting(start.address)
        from graftpop.cluster.connection import connected
        from graftpop.cluster.nodes import check_nodes
        from graftpop.cluster.resources import check_resources

        with connected(start, show_token=token) as connection:
            with prefixed_errors(where, overrides):
                check_resources(space.boundary_settings(), connection.nodes)
            check_nodes(space, folder.location)
            run_study_and_report(space, folder, connection)
    except (KeyboardInterrupt, OutputError) as error:
        if "status" not in read_provenance(folder):
            record_end(folder, "interrupted")
        if isinstance(error, OutputError):
            raise OutputError(f"{error}; {RESUME} {folder.shown}") from error
        print_interrupted(folder)
        raise typer.Exit(interrupted_code()) from None


def run_study_and_report(space: "Space", folder: "RunFolder", connection: "Connection") -> None:
    """Run a study on a cluster, show its progress, write the report and print the results."""
    from graftpop.cli.progress import LiveProgress, Pace, PlainProgress
    from graftpop.cluster.study import run_study
    from graftpop.reporting.run_page import write_report

    if connection.dashboard:
        console.print(f"dashboard  {connection.dashboard}", markup=False, soft_wrap=True)
    console.print(f"run        {folder.shown}", markup=False, soft_wrap=True)
    progress = LiveProgress if console.is_terminal else PlainProgress
    pace = Pace(space.num_trials(), space.most_rounds(), space.most_epochs())
    with progress(console, pace, space.metrics) as watch:
        trials = run_study(space, folder, connection, watch, watch.stopping)
    interrupted = sum(trial.is_over for trial in trials) < space.num_trials() or any(
        trial.status == "interrupted" for trial in trials
    )
    record_end(folder, "interrupted" if interrupted else "finished")
    write_report(folder)
    print_summary(trials, folder, space)
    if interrupted:
        print_interrupted(folder)
        raise typer.Exit(interrupted_code())
    if not any(trial.status in ("completed", "stopped") for trial in trials):
        raise typer.Exit(1)


def write_provenance(folder: "RunFolder", provenance: dict[str, Any]) -> None:
    """Write `run.json`."""
    folder.write_text("run.json", json.dumps(provenance, indent=2))


def record_end(folder: "RunFolder", status: str) -> None:
    """Record the end of a run and its status, finished or interrupted."""
    from graftpop.run.provenance import read_provenance, utc_now

    ended = {"finished": utc_now().isoformat(timespec="seconds"), "status": status}
    write_provenance(folder, read_provenance(folder) | ended)


def print_interrupted(folder: "RunFolder") -> None:
    """Print the command that resumes an interrupted run."""
    console.print("[yellow]interrupted[/]; ", end="")
    console.print(f"{RESUME} {folder.shown}", markup=False, soft_wrap=True)


def print_summary(trials: list["Trial"], folder: "RunFolder", space: "Space") -> None:
    """Print the table of trials, the comparison if there are variants, the best trial and the paths of the results."""
    from graftpop.cli.trial_table import TrialTable, sample_text
    from graftpop.comparison import compare_trials, comparison_tables
    from graftpop.study.trials import best_trial, pareto_front

    console.print(TrialTable(trials, space.metrics, is_whole=True))
    for trial in trials:
        if trial.error:
            console.print(f"[red]trial {trial.number} {trial.status}[/]: ", end="")
            console.print(trial.error, markup=False, soft_wrap=True)
    if space.variants:
        groups = compare_trials([trial.row(space.metrics) for trial in trials], space)
        for part in comparison_tables(groups, space.published):
            console.print(part)
    objectives = space.resolve().objectives
    if len(objectives) > 1:
        rows = [trial.row(space.metrics) for trial in trials]
        front = ", ".join(str(int(trial_id)) for trial_id in pareto_front(rows, objectives))
        console.print(f"pareto     trials {front or 'none yet'}, by {', '.join(objectives)}", soft_wrap=True)
    best = best_trial(trials, space.primary)
    if best is None:
        console.print("no trial completed a round, so there is no best network")
    else:
        if not space.variants:  # the best trial of a comparison is one lucky seed
            values = ", ".join(f"{key} = {sample_text(value)}" for key, value in best.sample.items())
            console.print(
                f"best       trial {best.number}: {values or 'nothing was searched'}", markup=False, soft_wrap=True
            )
        loaded = "" if "://" in folder.location else f', in Python: graftpop.load("{folder.location}/best")'
        console.print(f"network    {folder.shown}/best{loaded}", markup=False, soft_wrap=True)
    tables = ", ".join(f"{name}.parquet" for name in ("trials", "rounds", "grafts", "diagnostics", "events"))
    console.print(f"tables     {folder.shown}/{tables}", markup=False, soft_wrap=True)
    console.print(f"report     {folder.shown}/report.html", markup=False, soft_wrap=True)
