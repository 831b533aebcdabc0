"""`python -m graftpop.tune`: search over populations with Ray Tune."""

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from graftpop.cli.exit_codes import OutputError, interrupted_code, one_line_errors, run_command
from graftpop.errors import GraftpopError, SpaceError
from graftpop.masking import masked
from graftpop.shipped_spaces import complete_space

if TYPE_CHECKING:  # slow imports are made inside the functions, so that --help answers at once
    from graftpop.cluster.connection import Connection
    from graftpop.cluster.resources import Node
    from graftpop.run.run_folder import RunFolder
    from graftpop.space import Space
    from graftpop.study.preflight import Findings
    from graftpop.study.trials import Trial

__all__ = ["TuneCommand", "tune"]

TRIALS_SHOWN = 3
"""Number of trials that --dry-run prints."""

STAGE = "{:<10} {}"
"""A line about what the command does now and on what; the label is as wide as those of the results."""

RESUME = "resume with: python -m graftpop.tune --resume"

console = Console(highlight=False)
if not console.is_terminal:
    console.width = 200  # rich assumes 80 columns for a file or pipe, which cuts the tables


class TuneCommand(TyperCommand):
    """A command that answers an option named like a key of a space, such as --epochs 3, with its --set option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse the first unknown option that names a key."""
        known = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        for number, argument in enumerate(args):
            option, equals, value = argument.partition("=")
            if option.startswith("--") and option not in known and not ctx.resilient_parsing:
                following = next((word for word in args[number + 1 : number + 2] if word[:2] != "--"), "VALUE")
                _refuse_key(option, value if equals else following)
        return list(super().parse_args(ctx, args))


def _refuse_key(option: str, value: str) -> None:
    """Refuse an option that names keys of a space.

    Raises:
        SpaceError: a key has the option's name, or a section whose own name is a key.
    """
    from graftpop.space.yaml_tree import keys_named

    if keys := keys_named(option.removeprefix("--").replace("-", "_")):
        choices = " or ".join(shlex.join(["--set", f"{key}={value}"]) for key in keys)
        raise SpaceError(f"{option}: a key of the space is set by --set, got {option} {value}; write {choices}")


@one_line_errors
def tune(  # one parameter per option
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="YAML file of the search space, or a name that `graftpop spaces` lists.",
            autocompletion=complete_space,
            show_default=False,
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The same as FILE.", autocompletion=complete_space, show_default=False),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder or URI of the run; default runs/NAME-TIME.", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set a key of the space, VALUE in YAML; repeatable.", show_default=False
        ),
    ] = None,
    num_samples: Annotated[int | None, typer.Option(help="Number of trials.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", show_default=False)] = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Tracker of each trial: wandb, mlflow, comet or aim; repeatable.", show_default=False
        ),
    ] = None,
    log: Annotated[list[str] | None, typer.Option(hidden=True)] = None,
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="Ray cluster: auto or HOST:PORT, ray://... for --dry-run; default this machine.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Resume a run that was interrupted or killed.", show_default=False)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all, estimate the duration, print the plan, and start nothing.")
    ] = False,
) -> None:
    """Search over populations of networks with Ray Tune."""
    if log:
        raise SpaceError(f"--log: renamed to --tracker; write --tracker {log[0]}")
    settings = list(overrides or ())
    settings += [f"tune.num_samples={num_samples}"] if num_samples is not None else []
    settings += [f"seed={seed}"] if seed is not None else []
    settings += [f"tune.trackers=[{', '.join(tracker)}]"] if tracker else []
    if resume is not None:
        if file or space or out or settings or dry_run:
            raise SpaceError(
                "--resume: a run keeps its settings, got other options; give --resume RUN alone or with --address"
            )
        resume_study(resume, address)
        return
    if file is not None and space is not None:
        raise SpaceError(f"--space: is the same as FILE, got {space} beside {file}; give one")
    where = file or space
    if where is None:
        raise SpaceError("--space: needs a YAML file or the name of a shipped space, got none; try --space digits")
    print_stage("checking", where)  # before the imports, which take seconds
    from graftpop.cluster.connection import check_can_lead
    from graftpop.space import read_space

    loaded, check_rest = read_space(where, settings)
    if not dry_run:
        check_can_lead(address)
    folder = new_run_folder(out, loaded)
    from graftpop.study.trackers import check_packages

    with prefixed_errors(where, settings):
        check_packages(loaded)
    check_rest()  # this and all that follows imports torch
    from graftpop.study.preflight import check_names

    with prefixed_errors(where, settings):
        check_names(loaded)
    if dry_run:
        print_plan(loaded, folder, where, settings, address)
        return
    start_study(loaded, folder, where, settings, address)


def print_stage(action: str, what: str) -> None:
    """Print what the command does now, before it takes seconds."""
    console.print(STAGE.format(action, what), markup=False, soft_wrap=True)


@contextmanager
def prefixed_errors(where: str, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Prefix an error of the block with the `--set` option that set its key, else with the file of the space."""
    try:
        yield
    except GraftpopError as error:
        origins = (f"--set {override}" for override in overrides if str(error).startswith(override.split("=")[0]))
        raise type(error)(f"{next(origins, where)}: {error}") from error


def start_study(space: "Space", folder: "RunFolder", where: str, overrides: Sequence[str], address: str | None) -> None:
    """Check data, networks and resources, then run a new study."""
    from graftpop.cluster.connection import local_node
    from graftpop.run.provenance import run_provenance
    from graftpop.study.optuna_storage import check_storage
    from graftpop.study.preflight import check_data_and_models
    from graftpop.study.trackers import check_trackers

    settings = space.resolve()
    with prefixed_errors(where, overrides):
        print_stage("loading", data_text(space))
        findings = check_data_and_models(space)
        if address is None:
            check_resources(space, [local_node()])
    print_findings(findings)
    folder.create()
    with folder.locked():
        write_provenance(folder, run_provenance(sys.argv[1:], settings.seed) | findings._asdict())
        folder.write_text("space.yaml", space.to_yaml())  # from here on, --resume accepts the folder
        try:
            with prefixed_errors(where, overrides), console.status("connecting to trackers and storage"):
                check_trackers(space, folder)
                check_storage(space, folder)
            lead_study(space, folder, address, where, overrides)
        except GraftpopError:
            if not folder.exists("trials.parquet"):  # nothing has started, so the folder stays free
                folder.remove("space.yaml")
                folder.remove("run.json")
            raise


def data_text(space: "Space") -> str:
    """Return the names of the data sets of a study, with a note on those that are downloaded first."""
    from graftpop.study.preflight import data_to_download

    absent = data_to_download(space)
    names = dict.fromkeys(settings.data.name for settings in space.settings_of("data"))
    return ", ".join(f"{name}, which is downloaded first" if name in absent else name for name in names)


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


def resume_study(location: str, address: str | None) -> None:
    """Resume the study of a run folder."""
    print_stage("checking", masked(location))
    from graftpop.cluster.connection import check_can_lead
    from graftpop.run.provenance import read_provenance, run_provenance
    from graftpop.run.run_folder import RunFolder
    from graftpop.space import parse_space
    from graftpop.space.yaml_tree import read_sections
    from graftpop.study.optuna_storage import storage_url
    from graftpop.study.trackers import check_packages

    check_can_lead(address)
    folder = RunFolder(location)
    folder.check_is_run()
    where = f"{folder.location}/space.yaml"
    space = parse_space(read_sections(folder.read_text("space.yaml"), where), where)
    folder = RunFolder(location, space.metrics)
    with prefixed_errors(where):
        storage_url(space)  # raises without its password
        check_packages(space)
        from graftpop.study.preflight import check_data_and_models

        print_stage("loading", data_text(space))
        findings = check_data_and_models(space)
    print_findings(findings)
    with folder.locked():
        provenance = read_provenance(folder) or run_provenance(sys.argv[1:], space.resolve().seed)
        write_provenance(folder, {key: value for key, value in provenance.items() if key not in ("finished", "status")})
        lead_study(space, folder, address, where)


def lead_study(
    space: "Space", folder: "RunFolder", address: str | None, where: str, overrides: Sequence[str] = ()
) -> None:
    """Connect to a cluster and run a study, new or resumed; an interrupt at any moment is recorded."""
    from graftpop.cluster.connection import connect
    from graftpop.cluster.nodes import check_nodes
    from graftpop.run.provenance import read_provenance

    print_connecting(address)
    try:
        with connect(address) as connection:
            with prefixed_errors(where, overrides):
                check_resources(space, connection.nodes)
            check_nodes(space, folder.location)
            run_study_and_report(space, folder, connection)
    except (KeyboardInterrupt, OutputError) as error:
        if "status" not in read_provenance(folder):
            record_end(folder, "interrupted")
        if isinstance(error, OutputError):
            raise OutputError(f"{error}; {RESUME} {folder.shown}") from error
        print_interrupted(folder)
        raise typer.Exit(interrupted_code()) from None


def print_connecting(address: str | None) -> None:
    """Print that the command starts Ray, or joins a cluster."""
    if address is None:
        print_stage("starting", "Ray on this machine")
    else:
        print_stage("joining", f"Ray at {address}")


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
    console.print(f"[yellow]interrupted[/]; {RESUME} {folder.shown}", soft_wrap=True)


def print_findings(findings: "Findings") -> None:
    """Print the notes on the data, and the sites of each network."""
    for note in findings.notes:
        console.print(note, style="yellow", markup=False, soft_wrap=True)
    for line in findings.sites:
        console.print(f"sites      {line}", markup=False, soft_wrap=True)


def check_resources(space: "Space", nodes: "Sequence[Node]") -> None:
    """Check that the nodes can hold the population of every possible trial."""
    from graftpop.cluster.resources import resource_request

    distinct = {
        (settings.population.num_peers, settings.resources, settings.peers_per_actor): settings
        for settings in space.boundary_settings()
    }
    for settings in sorted(distinct.values(), key=lambda settings: settings.population.num_peers, reverse=True):
        resource_request(settings, nodes)


def run_study_and_report(space: "Space", folder: "RunFolder", connection: "Connection") -> None:
    """Run a study on a cluster, show its progress, write the report and print the results."""
    from graftpop.cli.progress import LiveProgress, Pace, PlainProgress
    from graftpop.cluster.study import run_study
    from graftpop.reporting.run_page import write_report

    if connection.dashboard:
        console.print(f"dashboard  {connection.dashboard}", soft_wrap=True)
    console.print(f"run        {folder.shown}", soft_wrap=True)
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
            console.print(f"best       trial {best.number}: {values or 'nothing was searched'}", soft_wrap=True)
        loaded = "" if "://" in folder.location else f', in Python: graftpop.load("{folder.location}/best")'
        console.print(f"network    {folder.shown}/best{loaded}", soft_wrap=True)
    tables = ", ".join(f"{name}.parquet" for name in ("trials", "rounds", "grafts", "diagnostics", "events"))
    console.print(f"tables     {folder.shown}/{tables}", soft_wrap=True)
    console.print(f"report     {folder.shown}/report.html", soft_wrap=True)


def print_plan(space: "Space", folder: "RunFolder", where: str, overrides: Sequence[str], address: str | None) -> None:
    """Check a study as its start does; print its settings, the cluster, the first trials and the estimated duration.

    Nothing is written but the cache of decoded images, and no server of a tracker or storage is called.
    """
    from graftpop.cli.duration import duration_text, typical_trials
    from graftpop.cli.trial_table import sample_text
    from graftpop.cluster.connection import connect, local_node
    from graftpop.cluster.resources import resource_request
    from graftpop.study.optuna_storage import check_driver
    from graftpop.study.preflight import Findings, check_data_and_models, data_to_download, user_code_names
    from graftpop.study.samplers import make_sampler
    from graftpop.study.trackers import check_destinations

    with prefixed_errors(where, overrides):
        absent = data_to_download(space)
        if not absent:
            print_stage("loading", data_text(space))
        findings = Findings([], []) if absent else check_data_and_models(space)
        check_destinations(space, folder)
        check_driver(space, folder)
    if address is None:
        nodes = [local_node()]
    else:
        print_connecting(address)
        with connect(address) as connection:
            nodes = connection.nodes
    with prefixed_errors(where, overrides):
        check_resources(space, nodes)
    num_trials, sampler = space.num_trials(), make_sampler(space)
    samples = [sampler.sample(number) for number in range(min(TRIALS_SHOWN, num_trials))]
    if absent:
        names = ", ".join(absent)
        duration = f"not estimated: {names} is not on this machine; a study downloads it, then checks the networks"
    else:
        print_stage("timing", "a few batches")
        with prefixed_errors(where, overrides):
            duration = duration_text(typical_trials(space), num_trials, nodes)

    console.print()
    console.print(space.to_yaml(), markup=False, end="")
    console.print(
        f"\ncluster    {len(nodes)} node{'s' * (len(nodes) > 1)}, {sum(node.cpus for node in nodes):g} CPU, "
        f"{sum(node.gpus for node in nodes):g} GPU"
    )
    console.print(f"study      {num_trials} trials of up to {space.most_rounds()} rounds")
    print_findings(findings)
    if names := ", ".join(user_code_names(space)):
        console.print(f"imported   {names}: user code, which --dry-run runs too", markup=False, soft_wrap=True)
    for number, sample in enumerate(samples):
        request = resource_request(space.resolve(sample), nodes)
        values = ", ".join(f"{key} = {sample_text(value)}" for key, value in sample.items()) or "nothing is searched"
        console.print(f"trial {number}    {values}  ({request})", markup=False, soft_wrap=True)
    console.print(f"time       {duration}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(tune, cls=TuneCommand)
