"""`python -m graftpop.tune`: search over populations with Ray Tune."""

import shlex
from contextlib import nullcontext
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from graftpop.cli.exit_codes import one_line_errors, run_command
from graftpop.cli.stages import prefixed_errors, print_stage
from graftpop.cli.study import new_run_folder, resume_study, start_study, starting_ray
from graftpop.errors import SpaceError
from graftpop.shipped_spaces import complete_space

__all__ = ["TuneCommand", "tune"]


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
    from graftpop.space.keys import keys_named

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
        bool, typer.Option("--dry-run", help="Run all checks, estimate the duration, print the plan, start nothing.")
    ] = False,
    show_token: Annotated[
        bool, typer.Option("--show-token", help="Also print the token that the dashboard asks for.")
    ] = False,
) -> None:
    """Search over populations of networks with Ray Tune."""
    if log:
        raise SpaceError(f"--log: renamed to --tracker; write --tracker {log[0]}")
    if dry_run and show_token:
        raise SpaceError("--show-token: needs a study with a dashboard, got --dry-run; omit one of them")
    settings = list(overrides or ())
    settings += [f"tune.num_samples={num_samples}"] if num_samples is not None else []
    settings += [f"seed={seed}"] if seed is not None else []
    settings += [f"tune.trackers=[{', '.join(tracker)}]"] if tracker else []
    if resume is not None:
        if file or space or out or settings or dry_run:
            raise SpaceError(
                "--resume: a run keeps its settings, got other options; give --resume RUN alone or with --address"
            )
        resume_study(resume, address, token=show_token)
        return
    if file is not None and space is not None:
        raise SpaceError(f"--space: is the same as FILE, got {space} and {file}; give one")
    where = file or space
    if where is None:
        raise SpaceError("--space: needs a YAML file or the name of a shipped space, got none; try --space digits")
    print_stage("checking", where)  # before the imports, which take seconds
    from graftpop.cluster.address import check_can_lead
    from graftpop.space import read_space

    loaded, check_rest = read_space(where, settings)
    if not dry_run:
        check_can_lead(address)
    folder = new_run_folder(out, loaded)
    from graftpop.study.trackers import check_packages

    with prefixed_errors(where, settings):
        check_packages(loaded)
    with nullcontext() if dry_run else starting_ray(loaded, address) as start:
        check_rest()  # this and all that follows imports torch
        from graftpop.study.preflight import check_names

        with prefixed_errors(where, settings):
            check_names(loaded)
        if start is None:  # with --dry-run
            from graftpop.cli.plan import print_plan

            print_plan(loaded, folder, where, settings, address)
        else:
            start_study(loaded, folder, where, settings, start, token=show_token)


if __name__ == "__main__":
    run_command(tune, cls=TuneCommand)
